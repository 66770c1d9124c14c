//! The client: bounded in time, requests and bytes; redirects are followed here, so that each site on the way is known.

use std::cell::Cell;
use std::io::Read;
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::Body;
use ureq::http::Response;

use super::location::{BadLocation, Host, Location, Site};
use super::page::{ACCEPT, Page};
use super::trust::Proxies;
use crate::policy::metadata;

/// Requests in all, redirects included.
pub(crate) const MAX_REQUESTS: u32 = 60;
const MAX_REDIRECTS: u32 = 10;
/// For everything together.
const PATIENCE: Duration = Duration::from_secs(60);
/// For one answer.
const PATIENCE_EACH: Duration = Duration::from_secs(15);

/// Why there is no answer. It names the site and nothing else of the URL.
#[derive(Debug, thiserror::Error)]
#[error("{site}: {problem}")]
pub struct FetchError {
    site: Site,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("it answered {}{}", .0, advice(*.0))]
    Status(u16),
    #[error("it redirects to a place that cannot be asked: {0}")]
    Redirect(BadLocation),
    #[error("it redirects without saying where")]
    Nowhere,
    #[error("it redirects more than {MAX_REDIRECTS} times")]
    TooManyRedirects,
    #[error("instance metadata is not asked, whoever links there")]
    Metadata,
    #[error("not asked: {MAX_REQUESTS} requests are the limit; name fewer projects")]
    TooManyRequests,
    #[error("no answer in time, {} s for one request and {} s for all", PATIENCE_EACH.as_secs(), PATIENCE.as_secs())]
    TooSlow,
    #[error(
        "its certificate is not trusted: {0}; name the certificates of its authority with pip's `cert` or SSL_CERT_FILE"
    )]
    Untrusted(String),
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
}

fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => {
            ": does it want a name and a password? They stand in the URL; netrc and keyrings are not read"
        }
        404 => ": there is nothing",
        407 => ": the proxy wants a name and a password",
        _ => "",
    }
}

impl FetchError {
    /// Did somebody answer? Then another page may do better.
    pub(crate) const fn is_answer(&self) -> bool {
        matches!(self.problem, Problem::Status(_))
    }
}

/// The client and what it has still to spend.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    proxies: Proxies,
    requests: Cell<u32>,
    end: Instant,
}

impl Client {
    pub(crate) fn new(tls: ureq::tls::TlsConfig, proxies: Proxies) -> Self {
        let config = Agent::config_builder()
            .tls_config(tls)
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(concat!("egress-warden/", env!("CARGO_PKG_VERSION")))
            .accept(ACCEPT)
            .max_idle_connections(0);
        let end = Instant::now() + PATIENCE;
        Self { agent: config.build().new_agent(), proxies, requests: Cell::new(0), end }
    }

    /// Does a proxy stand between here and this place?
    pub(crate) fn is_proxied(&self, place: &Location) -> bool {
        self.proxies.of(place.site().https, place.url()).is_some()
    }

    /// Fetches the first `limit` bytes of a page. Every site that was asked is told to `on_the_way`, also when it fails.
    pub(crate) fn page(
        &self,
        place: &Location,
        limit: usize,
        on_the_way: &mut impl FnMut(&Location),
    ) -> Result<Page, FetchError> {
        let (at, response) = self.follow(place, false, on_the_way)?;
        let media_type = header(&response, "content-type").unwrap_or_default();
        let mut body = Vec::new();
        let read = response.into_body().into_reader().take(limit as u64 + 1).read_to_end(&mut body);
        read.map_err(|error| FetchError { site: at.site().clone(), problem: Problem::of(&error.into()) })?;
        let cut = body.len() > limit;
        body.truncate(limit);
        Ok(Page { at, media_type, body, cut })
    }

    /// Asks for the first byte of a file, to see whether another site serves it.
    pub(crate) fn probe(
        &self,
        place: &Location,
        on_the_way: &mut impl FnMut(&Location),
    ) -> Result<(), FetchError> {
        self.follow(place, true, on_the_way).map(drop)
    }

    fn follow(
        &self,
        place: &Location,
        one_byte: bool,
        on_the_way: &mut impl FnMut(&Location),
    ) -> Result<(Location, Response<Body>), FetchError> {
        let mut at = place.clone();
        for _ in 0..=MAX_REDIRECTS {
            let fail = |problem| FetchError { site: at.site().clone(), problem };
            if is_metadata(&at.site().host) {
                return Err(fail(Problem::Metadata));
            }
            on_the_way(&at);
            let response = self.ask(&at, one_byte).map_err(fail)?;
            match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => {}
                200..=299 => return Ok((at, response)),
                status => return Err(fail(Problem::Status(status))),
            }
            let to = header(&response, "location").ok_or_else(|| fail(Problem::Nowhere))?;
            at = at.join(&to).map_err(|bad| fail(Problem::Redirect(bad)))?;
        }
        Err(FetchError { site: place.site().clone(), problem: Problem::TooManyRedirects })
    }

    fn ask(&self, at: &Location, one_byte: bool) -> Result<Response<Body>, Problem> {
        if self.requests.replace(self.requests.get() + 1) >= MAX_REQUESTS {
            return Err(Problem::TooManyRequests);
        }
        let left = self.end.saturating_duration_since(Instant::now()).min(PATIENCE_EACH);
        if left.is_zero() {
            return Err(Problem::TooSlow);
        }
        let mut request = self.agent.get(at.url());
        if let Some(authorization) = at.authorization() {
            request = request.header("Authorization", authorization);
        }
        if one_byte {
            request = request.header("Range", "bytes=0-0").header("Accept", "*/*");
        }
        let proxy = self.proxies.of(at.site().https, at.url()).cloned();
        let request = request.config().timeout_global(Some(left)).proxy(proxy).build();
        request.call().map_err(|error| Problem::of(&error))
    }
}

impl Problem {
    fn of(error: &ureq::Error) -> Self {
        match error {
            ureq::Error::Timeout(_) => Self::TooSlow,
            ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => Self::TooSlow,
            ureq::Error::Rustls(error) => Self::tls(error),
            ureq::Error::Io(outer) => match outer.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(error) => Self::tls(error),
                None => Self::Unreachable(outer.to_string()),
            },
            // It would quote the URL.
            ureq::Error::BadUri(_) => Self::Unreachable("the client does not understand its URL".to_owned()),
            other => Self::Unreachable(other.to_string()),
        }
    }

    fn tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::Untrusted(format!("{error:?}")),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Addresses at which clouds hand out credentials: no index is there.
pub(crate) fn is_metadata(host: &Host) -> bool {
    match host {
        Host::Address(address) => metadata::networks().iter().any(|network| network.contains(address)),
        Host::Name(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    fn client(left: Duration) -> Client {
        let client = Client::new(ureq::tls::TlsConfig::default(), Proxies::default());
        Client { end: Instant::now() + left, ..client }
    }

    fn said(client: &Client, port: u16) -> String {
        let place = Location::parse(&format!("http://127.0.0.1:{port}/SECRET/")).unwrap();
        client.page(&place, 1 << 20, &mut |_| {}).unwrap_err().to_string()
    }

    #[test]
    fn whoever_does_not_answer_or_not_to_the_end_is_not_waited_for() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let slow = TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = [&silent, &slow].map(|listener| listener.local_addr().unwrap().port());
        let (done, ended) = channel::<()>();
        let half = thread::spawn(move || {
            let (mut stream, _) = slow.accept().unwrap();
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 99\r\n\r\n<a href='a.whl'>";
            stream.write_all(head.as_bytes()).unwrap();
            // Until the test has ended.
            ended.recv().unwrap_err();
        });
        for port in ports {
            let said = said(&client(Duration::from_millis(300)), port);
            assert!(said.starts_with(&format!("http://127.0.0.1:{port}: no answer in time")), "{said}");
        }
        drop(done);
        half.join().unwrap();
        assert!(said(&client(Duration::ZERO), ports[0]).contains("no answer in time"));
    }

    #[test]
    fn requests_are_counted() {
        let client = client(PATIENCE);
        client.requests.set(MAX_REQUESTS);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let said = said(&client, listener.local_addr().unwrap().port());
        assert!(said.contains("not asked: 60 requests are the limit"), "{said}");
    }
}
