//! What the names lead to: every address of the served ranges, on the ports of a package index.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};

use crate::wait::{DEADLINE, until};
use crate::{Namespace, sys};

/// The ports that it listens on.
pub const PORTS: [u16; 3] = [80, 443, 8080];

/// The pages, by host and path.
type Pages = Arc<Mutex<HashMap<(String, String), Vec<u8>>>>;

/// Answers HTTP, and sends everything else back to where it came from, for as long as the client likes.
#[derive(Debug)]
pub struct Web {
    accepted: Arc<AtomicUsize>,
    pages: Pages,
    threads: Vec<JoinHandle<()>>,
    /// Closed to end the threads.
    stop: Vec<UnixStream>,
}

impl Web {
    /// Listens on every address of the namespace, of both IP versions.
    pub(super) fn start(namespace: &Namespace) -> Result<Web> {
        let (accepted, pages) = (Arc::default(), Pages::default());
        let mut web = Web { accepted, pages, threads: Vec::new(), stop: Vec::new() };
        for port in PORTS {
            let any = SocketAddr::from(([0_u16; 8], port));
            let listener = namespace
                .enter(|| TcpListener::bind(any))
                .with_context(|| format!("cannot listen on {any}"))?;
            listener.set_nonblocking(true)?;
            // A SYN that finds no room is sent again a second later, which a client would take for a slow grant.
            sys::lengthen_backlog(&listener)?;
            let (stop, stopped) = UnixStream::pair()?;
            let (accepted, pages) = (Arc::clone(&web.accepted), Arc::clone(&web.pages));
            web.stop.push(stop);
            web.threads.push(thread::Builder::new().name(format!("web {port}")).spawn(move || {
                while let Ok([_, false]) = sys::wait_readable([listener.as_fd(), stopped.as_fd()], None) {
                    while let Ok((stream, _)) = listener.accept() {
                        accepted.fetch_add(1, Ordering::SeqCst);
                        let pages = Arc::clone(&pages);
                        // It ends when the client does, which the namespace's end brings about at the latest.
                        thread::spawn(move || serve(stream, &pages));
                    }
                }
            })?);
        }
        Ok(web)
    }

    /// How many connections were accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Waits until this many were accepted: a client may be done before its connection is taken up.
    ///
    /// # Errors
    /// When there are fewer after a while, or more.
    pub fn wait_accepted(&self, count: usize) -> Result<()> {
        let enough = || (self.accepted() >= count).then(|| self.accepted());
        let accepted = until(&format!("{count} connections"), DEADLINE, enough)?;
        ensure!(accepted == count, "{accepted} connections instead of {count}");
        Ok(())
    }

    /// Puts up a page. What there is no page for is answered with `ok`.
    pub fn put(&self, host: &str, path: &str, body: Vec<u8>) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.insert((host.to_owned(), path.to_owned()), body);
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stop.clear();
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

fn serve(mut stream: TcpStream, pages: &Pages) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    stream.set_nonblocking(false).ok();
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        request.extend(&buffer[..length]);
        if !b"GET ".starts_with(&request[..request.len().min(4)]) {
            // A client that left has what it wanted.
            stream.write_all(&request).ok();
            request.clear();
        } else if request.ends_with(b"\r\n\r\n") {
            stream.write_all(&respond(&String::from_utf8_lossy(&request), pages)).ok();
            return;
        }
    }
}

fn respond(request: &str, pages: &Pages) -> Vec<u8> {
    let path = request.split(' ').nth(1).unwrap_or_default();
    let host = request.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap_or_default();
    let pages = pages.lock().unwrap_or_else(PoisonError::into_inner);
    let body = pages.get(&(host.to_owned(), path.to_owned())).map_or(&b"ok\n"[..], Vec::as_slice);
    let kind = if path.ends_with('/') { "text/html" } else { "application/octet-stream" };
    let mut response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    response.extend(body);
    response
}
