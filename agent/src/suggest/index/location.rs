//! Where an index or a file is. Only the site is ever shown: the rest of a URL may hold secrets, and not only before `@`;
//! some indexes hand out tokens in paths and queries.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use fluent_uri::component::{Authority, Host as WrittenHost};
use fluent_uri::{Uri, UriRef};

use crate::allowlist::domain;

/// A host as an allowlist names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Host {
    Name(String),
    Address(IpAddr),
}

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Site {
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) https: bool,
}

/// An absolute URL of http or https.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Location {
    /// Without user, password and fragment.
    url: String,
    /// User and password, ready for the header.
    credentials: Option<String>,
    site: Site,
}

/// Why a text is no URL that can be asked. It never quotes the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLocation {
    /// Something else.
    #[error("it is not an absolute URL; write it like https://index.example/simple/")]
    NotUrl,
    /// Another scheme.
    #[error("its scheme is {0}; only http and https can be asked")]
    Scheme(String),
    /// A host that no allowlist can name.
    #[error("its host is neither an address nor a name that an allowlist can hold")]
    Host,
    /// A port beyond 65535, or 0.
    #[error("its port is none from 1 to 65535")]
    Port,
}

impl Location {
    pub(crate) fn parse(text: &str) -> Result<Self, BadLocation> {
        let text = escaped(text);
        Self::of(&Uri::parse(text.as_str()).map_err(|_| BadLocation::NotUrl)?)
    }

    fn of(uri: &Uri<&str>) -> Result<Self, BadLocation> {
        let scheme = uri.scheme().as_str().to_ascii_lowercase();
        let https = match scheme.as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(BadLocation::Scheme(scheme)),
        };
        let authority = uri.authority().ok_or(BadLocation::NotUrl)?;
        let port = match authority.port_to_u16() {
            Ok(port) => port.unwrap_or(if https { 443 } else { 80 }),
            Err(_) => 0,
        };
        if port == 0 {
            return Err(BadLocation::Port);
        }
        let site = Site { host: host(&authority)?, port, https };
        let path = if uri.path().is_empty() { "/" } else { uri.path().as_str() };
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let url = format!("{scheme}://{}:{port}{path}{query}", site.host.in_url());
        Ok(Self { url, credentials: credentials(&authority), site })
    }

    /// What a link on this page, or a redirect from it, means. The credentials go along within the site only.
    pub(crate) fn join(&self, reference: &str) -> Result<Self, BadLocation> {
        let reference = escaped(reference);
        let reference = UriRef::parse(reference.as_str()).map_err(|_| BadLocation::NotUrl)?;
        let base = Uri::parse(self.url.as_str()).map_err(|_| BadLocation::NotUrl)?;
        let joined = reference.resolve_against(&base).map_err(|_| BadLocation::NotUrl)?;
        let mut joined = Self::of(&joined.borrow())?;
        if joined.site == self.site && joined.credentials.is_none() {
            joined.credentials.clone_from(&self.credentials);
        }
        Ok(joined)
    }

    /// The page of a project, or with an empty name the listing: found as pip finds it.
    pub(crate) fn page(&self, project: &str) -> Result<Self, BadLocation> {
        let index = self.url.split('?').next().unwrap_or_default().trim_end_matches('/');
        let end = if project.is_empty() { "" } else { "/" };
        let mut page = Self::parse(&format!("{index}/{project}{end}"))?;
        page.credentials.clone_from(&self.credentials);
        Ok(page)
    }

    pub(crate) const fn site(&self) -> &Site {
        &self.site
    }

    /// What is asked, for the client and nobody else.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The value of the `Authorization` header.
    pub(crate) fn authorization(&self) -> Option<String> {
        self.credentials.as_ref().map(|credentials| format!("Basic {credentials}"))
    }

    /// The part of the path behind the last `/` that has something behind it.
    pub(crate) fn last_segment(&self) -> &str {
        let path = self.url.split('?').next().unwrap_or_default();
        path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }
}

fn host(authority: &Authority<'_>) -> Result<Host, BadLocation> {
    match authority.host_parsed() {
        WrittenHost::Ipv4(v4) => Ok(Host::Address(v4.into())),
        WrittenHost::Ipv6(v6) => Ok(Host::Address(IpAddr::V6(v6).to_canonical())),
        WrittenHost::RegName(name) => {
            domain::canonical(name.as_str()).map(Host::Name).ok_or(BadLocation::Host)
        }
        _ => Err(BadLocation::Host),
    }
}

fn credentials(authority: &Authority<'_>) -> Option<String> {
    let userinfo = authority.userinfo().filter(|userinfo| !userinfo.is_empty())?;
    let (user, password) = match userinfo.split_once(':') {
        Some((user, password)) => (user.decode().to_bytes(), password.decode().to_bytes()),
        None => (userinfo.decode().to_bytes(), Vec::new().into()),
    };
    Some(BASE64_STANDARD.encode([&user[..], b":", &password[..]].concat()))
}

/// With what people and pages write into URLs, and may not stand there, in its escaped form.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.trim().bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl Host {
    fn in_url(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Address(IpAddr::V4(v4)) => v4.to_string(),
            Self::Address(IpAddr::V6(v6)) => format!("[{v6}]"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_url())
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.https { "https" } else { "http" }, self.host, self.port)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/…", self.site)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn site(text: &str) -> Result<String, BadLocation> {
        Location::parse(text).map(|location| location.site.to_string())
    }

    #[test]
    fn sites_have_one_spelling() {
        for (text, expected) in [
            ("https://Files.Index.TEST./a?b#c", "https://files.index.test:443"),
            ("HTTP://index.test", "http://index.test:80"),
            ("http://index.test:8080/simple", "http://index.test:8080"),
            ("https://127.0.0.1/", "https://127.0.0.1:443"),
            ("https://[2001:DB8::1]:8443/", "https://[2001:db8::1]:8443"),
            ("https://[::ffff:10.0.0.1]/", "https://10.0.0.1:443"),
            (" https://u:p@index.test/with space\u{fc} ", "https://index.test:443"),
            ("https://index.test:/", "https://index.test:443"),
        ] {
            assert_eq!(site(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, error) in [
            ("index.test/simple", BadLocation::NotUrl),
            ("", BadLocation::NotUrl),
            ("file:///srv/wheels", BadLocation::Scheme("file".into())),
            ("https:///simple", BadLocation::Host),
            ("https://b\u{fc}cher.test/", BadLocation::Host),
            ("https://index.test:0/", BadLocation::Port),
            ("https://index.test:99999/", BadLocation::Port),
            ("https://10.1/", BadLocation::Host),
        ] {
            assert_eq!(site(text), Err(error), "{text}");
        }
    }

    #[test]
    fn links_mean_what_they_mean_on_their_page() {
        let page = Location::parse("https://u:p@index.test/simple/a/").unwrap();
        let joined = |reference: &str| page.join(reference).unwrap();
        assert_eq!(joined("../../files/a.whl#sha256=1").url(), "https://index.test:443/files/a.whl");
        assert_eq!(joined("//files.test/a.whl").url(), "https://files.test:443/a.whl");
        assert_eq!(joined("a b.whl?x=1").url(), "https://index.test:443/simple/a/a%20b.whl?x=1");
        assert_eq!(joined("http://[::1]:81/a.whl").site().to_string(), "http://[::1]:81");
        assert_eq!(joined("a.whl").last_segment(), "a.whl");
        assert!(page.join("mailto:a@index.test").is_err());
        // The credentials are the site's, not those of whoever it links to.
        assert_eq!(joined("a.whl").authorization(), page.authorization());
        assert_eq!(joined("//files.test/a.whl").authorization(), None);
        assert_eq!(joined("http://index.test/a.whl").authorization(), None);
    }

    #[test]
    fn pages_of_projects_are_found_as_pip_finds_them() {
        for index in [
            "https://u:p@index.test/simple",
            "https://u:p@index.test/simple/",
            "https://u:p@index.test/simple/?x",
        ] {
            let index = Location::parse(index).unwrap();
            assert_eq!(index.page("a").unwrap().url(), "https://index.test:443/simple/a/");
            assert_eq!(index.page("").unwrap().url(), "https://index.test:443/simple/");
            assert_eq!(index.page("a").unwrap().authorization().unwrap(), "Basic dTpw");
        }
    }

    #[test]
    fn credentials_are_decoded_once_and_never_shown() {
        let location = Location::parse("https://me%40corp:p%2Fss%25@index.test/TOKEN/?sig=1").unwrap();
        let header = location.authorization().unwrap();
        assert_eq!(header, format!("Basic {}", BASE64_STANDARD.encode("me@corp:p/ss%")));
        let shown = format!("{location:?} {}", location.site());
        assert!(!["me", "ss", "TOKEN", "sig"].iter().any(|secret| shown.contains(secret)), "{shown}");
        assert!(!location.url().contains('@'));
    }

    proptest! {
        #[test]
        fn a_location_stays_what_it_is(text in any::<String>(), host in "[a-z@:/?#%0-9\\[\\].]{0,30}") {
            let base = Location::parse("https://index.test/simple/").unwrap();
            for parsed in [Location::parse(&text), Location::parse(&format!("http://{host}")), base.join(&text), base.join(&host)] {
                let Ok(location) = parsed else { continue };
                let again = Location::parse(location.url()).expect("its own URL");
                prop_assert_eq!((again.url(), again.site()), (location.url(), location.site()));
                prop_assert!(again.credentials.is_none());
                let asked: ureq::http::Uri = location.url().parse().expect("a URL that the client understands");
                prop_assert_eq!(asked.port_u16(), Some(location.site().port));
                prop_assert_eq!(asked.host().unwrap_or_default(), location.site().host.to_string());
            }
        }
    }
}
