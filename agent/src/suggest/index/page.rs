//! Pages of an index: the simple API as HTML (PEP 503) and as JSON (PEP 691).

use html5gum::{Token, Tokenizer};
use serde::Deserialize;

use super::location::Location;

/// What is asked for. HTML first: of a page that is too long to be read whole, its beginning still says something.
pub(crate) const ACCEPT: &str = "application/vnd.pypi.simple.v1+html, text/html;q=0.9, \
                                 application/vnd.pypi.simple.v1+json;q=0.5";

/// How the files end that pip takes. A page may link to other things, and their hosts are nobody's to open.
const FILES: [&str; 10] =
    [".whl", ".tar.gz", ".zip", ".tgz", ".tar.bz2", ".tar.xz", ".tbz", ".txz", ".tar", ".tar.lzma"];

/// Why a page says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Neither HTML nor JSON.
    #[error("it answered with {0}, which is no page of a package index")]
    Type(String),
    /// JSON of something else, or cut off.
    #[error("its JSON is no page of a package index: {0}")]
    Json(String),
    /// JSON cannot be read in part.
    #[error("its JSON is longer than is read, {0} KiB; name a smaller project with --project")]
    Long(usize),
}

/// What an index answered.
#[derive(Debug)]
pub(crate) struct Page {
    /// Where it came from, after redirects.
    pub(crate) at: Location,
    /// `Content-Type`.
    pub(crate) media_type: String,
    pub(crate) body: Vec<u8>,
    /// Is there more of it than was read?
    pub(crate) cut: bool,
}

#[derive(Deserialize)]
struct Listing {
    projects: Vec<Project>,
}

#[derive(Deserialize)]
struct Project {
    name: String,
}

#[derive(Deserialize)]
struct Files {
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    url: String,
}

impl Page {
    /// Where the files of a project are. Links that lead nowhere that can be asked are left out.
    pub(crate) fn files(&self) -> Result<Vec<Location>, PageError> {
        if self.is_json()? {
            let found: Files = self.json()?;
            return Ok(found.files.iter().filter_map(|file| self.at.join(&file.url).ok()).collect());
        }
        let mut files = self.links();
        files.retain(|file| FILES.iter().any(|end| file.last_segment().ends_with(end)));
        Ok(files)
    }

    /// The names of projects in a listing.
    pub(crate) fn projects(&self) -> Result<Vec<String>, PageError> {
        let mut names: Vec<String> = if self.is_json()? {
            let found: Listing = self.json()?;
            found.projects.into_iter().map(|project| project.name).collect()
        } else {
            self.links().iter().map(|link| link.last_segment().to_owned()).collect()
        };
        names.retain(|name| is_project(name));
        Ok(names)
    }

    fn is_json(&self) -> Result<bool, PageError> {
        let media_type = self.media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media_type.as_str() {
            "" => Err(PageError::Type("no content type".to_owned())),
            html if html.ends_with("html") || html.ends_with("xhtml+xml") => Ok(false),
            json if json.ends_with("json") => Ok(true),
            other => Err(PageError::Type(other.to_owned())),
        }
    }

    fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, PageError> {
        if self.cut {
            return Err(PageError::Long(self.body.len() >> 10));
        }
        serde_json::from_slice(&self.body).map_err(|error| PageError::Json(error.to_string()))
    }

    fn links(&self) -> Vec<Location> {
        let (mut base, mut links) = (None, Vec::new());
        for Ok(token) in Tokenizer::new(&self.body[..]) {
            let Token::StartTag(tag) = token else { continue };
            let Some(href) = tag.attributes.get(&b"href"[..]) else { continue };
            let href = String::from_utf8_lossy(href);
            match &tag.name[..] {
                // The first one counts, for the links before it as well.
                b"base" if base.is_none() => base = self.at.join(&href).ok(),
                b"a" => links.push(href.into_owned()),
                _ => {}
            }
        }
        let base = base.as_ref().unwrap_or(&self.at);
        links.iter().filter_map(|link| base.join(link).ok()).collect()
    }
}

/// Can it be asked for? A link of a listing may lead anywhere.
pub(crate) fn is_project(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    name.len() <= 200 && name.bytes().all(inside) && end(name.bytes().next()) && end(name.bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(media_type: &str, body: &str) -> Page {
        Page {
            at: Location::parse("https://index.test/simple/a/").unwrap(),
            media_type: media_type.to_owned(),
            body: body.as_bytes().to_vec(),
            cut: false,
        }
    }

    fn files(page: &Page) -> Vec<&'static str> {
        let files = page.files().expect("a page");
        files.iter().map(|file| &*file.url().to_owned().leak()).collect()
    }

    #[test]
    fn html_tells_its_files_and_nothing_else() {
        let html = "<!DOCTYPE html><!-- <a href='//comment.test/a.whl'> --><base href=/files/>\
                    <A HREF='a-1.whl#sha256=0&amp;x'>a</a><a href=\"//cdn.test/a&#45;2.tar.gz?X=1\">b</a>\
                    <a href='https://home.test/'>home</a><a>none</a><a href='//late.test/a.whl.metadata'>m</a>\
                    <base href='//other.test/'><a href='http://10.0.0.7:81/a.zip'>c</a><a href='ftp://x/a.whl'>f</a>";
        let expected = [
            "https://index.test:443/files/a-1.whl",
            "https://cdn.test:443/a-2.tar.gz?X=1",
            "http://10.0.0.7:81/a.zip",
        ];
        assert_eq!(files(&page("text/html; charset=utf-8", html)), expected);
        assert!(files(&page("text/html", "<html>nothing here")).is_empty());
    }

    #[test]
    fn a_page_that_was_cut_says_what_it_can() {
        let mut page = page("text/html", "<a href='a.whl'>a</a><a href='//half.test/b.wh");
        page.cut = true;
        assert_eq!(files(&page), ["https://index.test:443/simple/a/a.whl"]);
        page.media_type = "application/vnd.pypi.simple.v1+json".into();
        page.body = vec![b' '; 2048];
        assert_eq!(page.files().unwrap_err(), PageError::Long(2));
    }

    #[test]
    fn json_tells_the_same() {
        let json = r#"{"meta":{"api-version":"1.1"},"name":"a","files":[{"filename":"a.whl","url":"../../f/a.whl","hashes":{}},
                       {"url":"https://cdn.test/a.tar.gz"}]}"#;
        let page = page("application/vnd.pypi.simple.v1+json", json);
        assert_eq!(files(&page), ["https://index.test:443/f/a.whl", "https://cdn.test:443/a.tar.gz"]);
    }

    #[test]
    fn listings_name_projects_that_can_be_asked_for() {
        let html = "<a href='/simple/zope-interface/'>zope.interface</a><a href='a/'>a</a><a href='../..'>up</a>\
                    <a href='/simple/%2e%2e/'>x</a><a href='_private'>x</a>";
        let mut listing = page("text/html", html);
        listing.at = Location::parse("https://index.test/simple/").unwrap();
        assert_eq!(listing.projects().unwrap(), ["zope-interface", "a"]);
        let json = page("application/json", r#"{"projects":[{"name":"A.b"},{"name":"../x"}]}"#);
        assert_eq!(json.projects().unwrap(), ["A.b"]);
    }

    #[test]
    fn garbage_is_told_for_what_it_is() {
        let said = |media_type: &str, body: &str| page(media_type, body).files().unwrap_err().to_string();
        assert_eq!(said("image/png", "x"), "it answered with image/png, which is no page of a package index");
        assert!(said("", "x").contains("no content type"));
        assert!(said("application/json", "{").contains("EOF while parsing"));
        assert!(said("application/json", "{}").contains("missing field `files`"));
    }
}
