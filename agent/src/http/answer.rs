//! What is answered to what.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::timeout;

use crate::enforce::{Handle, Snapshot};
use crate::metrics;
use crate::text::visible;

/// How long the reconciler may take. Less than the answer may, so that the client is told.
const SNAPSHOT_TIME: Duration = Duration::from_secs(4);

const TEXT: &str = "text/plain; charset=utf-8";

/// The answer to one request.
pub(super) async fn answer(
    request: Request<Incoming>,
    handle: Handle,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        return Ok(text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"));
    }
    if request.method() != Method::GET {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return Ok(refused);
    }
    Ok(match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => snapshot(&handle).await.map_or_else(unavailable, |snapshot| ready(&snapshot)),
        _ => snapshot(&handle).await.map_or_else(unavailable, |snapshot| page(&snapshot)),
    })
}

async fn snapshot(handle: &Handle) -> Result<Snapshot, &'static str> {
    match timeout(SNAPSHOT_TIME, handle.snapshot()).await {
        Ok(Some(snapshot)) => Ok(snapshot),
        Ok(None) => Err("the agent is ending"),
        Err(_) => Err("the reconciler did not answer within 4 s"),
    }
}

fn ready(snapshot: &Snapshot) -> Response<Full<Bytes>> {
    match &snapshot.ready {
        Ok(()) => text(StatusCode::OK, "ok\n"),
        Err(why) => unavailable(why),
    }
}

fn page(snapshot: &Snapshot) -> Response<Full<Bytes>> {
    match metrics::render(snapshot) {
        Ok(page) => typed(StatusCode::OK, metrics::CONTENT_TYPE, page),
        Err(error) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, &format!("the metrics cannot be written: {error}\n"))
        }
    }
}

fn unavailable(why: &str) -> Response<Full<Bytes>> {
    text(StatusCode::SERVICE_UNAVAILABLE, &format!("{}\n", visible(why)))
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    typed(status, TEXT, body.to_owned())
}

/// Paths of users stand in the body: no browser may take it for anything but text.
fn typed(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
