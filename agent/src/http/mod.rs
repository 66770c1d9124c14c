//! `/metrics`, `/healthz` and `/readyz`. Whoever can reach the port can ask, so it takes little and keeps nobody waiting:
//! few connections, one request each, and a limit of time for every part.
#![forbid(unsafe_code)]

mod answer;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::enforce::Handle;

/// Connections at once.
pub const MAX_CONNECTIONS: usize = 16;
/// For the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// For the answer, after the head.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The smallest buffer that hyper takes; a longer head is refused.
const HEAD_BYTES: usize = 8192;
/// Scrapers send about ten.
const HEADERS: usize = 32;
/// Before the next try where the machine has no descriptor for a connection.
const BREATH: Duration = Duration::from_millis(100);

/// What one connection too many is told.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Answers until it is dropped, which ends its connections as well.
pub async fn serve(listener: TcpListener, handle: Handle) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(BREATH).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        if connections.len() < MAX_CONNECTIONS {
            connections.spawn(converse(stream, handle.clone()));
        } else {
            // Who does not listen at once is not waited for.
            let _ = stream.try_write(BUSY);
        }
    }
}

/// One request and its answer. What goes wrong concerns this client only, who sees it.
async fn converse(stream: TcpStream, handle: Handle) {
    let service = service_fn(move |request| answer::answer(request, handle.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = timeout(HEAD_TIME + ANSWER_TIME, connection).await;
}
