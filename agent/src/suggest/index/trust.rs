//! Whom the client trusts, and through whom it asks: as pip does on this machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use ureq::Proxy;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// Where the certificates of this machine stand, after what the environment names.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A file of certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the certificates that {named_by} names, {path}: {problem}", path = .path.display())]
pub struct TrustError {
    named_by: &'static str,
    path: PathBuf,
    problem: String,
}

/// The certificate authorities: those that pip is told of, else the machine's, else those that are built in.
pub(crate) fn certificates(of_pip: Option<&Path>) -> Result<TlsConfig, TrustError> {
    let named = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"]
        .into_iter()
        .find_map(|name| Some((name, PathBuf::from(env::var_os(name).filter(|value| !value.is_empty())?))));
    let named = of_pip.map(|path| ("pip's `cert`", path.to_owned())).or(named);
    let roots = match named {
        Some((named_by, path)) => read(&path).map_err(|problem| TrustError { named_by, path, problem })?,
        None => match BUNDLES.iter().find_map(|path| read(Path::new(path)).ok()) {
            Some(roots) => roots,
            None => return Ok(TlsConfig::default()),
        },
    };
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&roots)).build())
}

fn read(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let pem = fs::read(path).map_err(|error| error.to_string())?;
    // One that cannot be read is none that is needed: bundles hold what some parser could not read either.
    let found: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(found) }
}

/// The proxies for http and https.
#[derive(Debug, Default)]
pub(crate) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
}

/// A proxy that cannot be understood. It is not quoted: it may hold a password.
#[derive(Debug, thiserror::Error)]
#[error("the proxy that {0} names cannot be used: write it like http://proxy.example:3128")]
pub struct BadProxy(String);

impl Proxies {
    /// What pip is told, else what the environment says.
    pub(crate) fn find(of_pip: Option<&str>) -> Result<Self, BadProxy> {
        let proxy = |scheme: &str| match of_pip {
            Some(proxy) => usable("pip's `proxy`", proxy).map(Some),
            None => match ["_proxy", "_PROXY"].iter().find_map(|end| variable(scheme, end)) {
                Some((name, proxy)) => usable(&name, &proxy).map(Some),
                None => Ok(None),
            },
        };
        let all = proxy("all")?;
        Ok(Self { http: proxy("http")?.or_else(|| all.clone()), https: proxy("https")?.or(all) })
    }

    /// The proxy for this site, where there is one.
    pub(crate) fn of(&self, https: bool, url: &str) -> Option<&Proxy> {
        let proxy = if https { &self.https } else { &self.http }.as_ref()?;
        let direct = url.parse().is_ok_and(|uri| proxy.is_no_proxy(&uri));
        (!direct).then_some(proxy)
    }
}

fn variable(scheme: &str, end: &str) -> Option<(String, String)> {
    let name = format!("{scheme}{end}");
    let name = if end == "_PROXY" { name.to_ascii_uppercase() } else { name };
    let value = env::var(&name).ok().filter(|value| !value.is_empty())?;
    Some((name, value))
}

fn usable(named_by: &str, text: &str) -> Result<Proxy, BadProxy> {
    let bad = |_| BadProxy(named_by.to_owned());
    let plain = Proxy::new(text).map_err(bad)?;
    let mut proxy = Proxy::builder(plain.protocol()).host(plain.host()).port(plain.port());
    if let Some(user) = plain.username() {
        proxy = proxy.username(user);
    }
    if let Some(password) = plain.password() {
        proxy = proxy.password(password);
    }
    let exceptions = env::var("no_proxy").or_else(|_| env::var("NO_PROXY")).unwrap_or_default();
    for host in exceptions.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        proxy = proxy.no_proxy(host);
    }
    proxy.build().map_err(bad)
}
