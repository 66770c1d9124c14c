use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

use super::{HEAD_TIME, MAX_CONNECTIONS, serve};
use crate::enforce::{Handle, Request, Snapshot};
use crate::metrics::testing::busy;

/// How long anything may take that has no limit of its own.
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a client against the server and a reconciler that always answers with this snapshot; `None` is one that is
/// gone.
fn with_server<F: Future<Output = ()>>(
    listen: &str,
    snapshot: Option<Snapshot>,
    client: impl FnOnce(SocketAddr) -> F,
) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (handle, mut requests) = Handle::new();
        let reconciler = async move {
            let Some(snapshot) = snapshot else { return };
            while let Some(request) = requests.recv().await {
                if let Request::Snapshot(reply) = request {
                    reply.send(snapshot.clone()).unwrap();
                }
            }
        };
        tokio::spawn(reconciler);
        tokio::select! {
            never = serve(listener, handle) => match never {},
            done = tokio::time::timeout(DEADLINE, client(address)) => done.expect("in time"),
        }
    });
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    rest(&mut stream).await
}

/// What comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset ends an answer as well.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")
}

#[test]
fn each_path_answers_as_it_should() {
    with_server("127.0.0.1:0", Some(busy(2)), async |address| {
        let metrics = ask(address, &get("/metrics")).await;
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{metrics}");
        assert!(metrics.contains("\negress_warden_ready 1\n"), "{metrics}");
        for path in ["/healthz", "/readyz"] {
            let answer = ask(address, &get(path)).await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
        }
        for path in ["/", "/metrics/", "/metricsx", "/../healthz"] {
            assert!(ask(address, &get(path)).await.starts_with("HTTP/1.1 404 "), "{path}");
        }
    });
}

#[test]
fn a_node_that_is_not_ready_says_why_and_is_alive() {
    let mut snapshot = busy(1);
    snapshot.ready = Err("no allowlists\u{1b}[2J".to_owned());
    with_server("127.0.0.1:0", Some(snapshot), async |address| {
        let ready = ask(address, &get("/readyz")).await;
        assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
        assert!(ready.ends_with("\r\n\r\nno allowlists\\u{1b}[2J\n"), "{ready}");
        assert!(ask(address, &get("/healthz")).await.starts_with("HTTP/1.1 200 "));
        assert!(ask(address, &get("/metrics")).await.contains("\negress_warden_ready 0\n"));
    });
}

#[test]
fn without_a_reconciler_there_are_no_figures() {
    with_server("127.0.0.1:0", None, async |address| {
        for path in ["/metrics", "/readyz"] {
            assert!(ask(address, &get(path)).await.starts_with("HTTP/1.1 503 "), "{path}");
        }
    });
}

#[test]
fn other_methods_are_refused() {
    with_server("127.0.0.1:0", Some(busy(1)), async |address| {
        for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
            let request = format!("{method} /metrics HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\n\r\n");
            let answer = ask(address, &request).await;
            assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nallow: GET\r\n"), "{answer}");
        }
    });
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    with_server("127.0.0.1:0", Some(busy(1)), async |address| {
        let long = format!("GET /metrics HTTP/1.1\r\nHost: node\r\nX: {}\r\n\r\n", "x".repeat(100_000));
        let many = format!("GET /metrics HTTP/1.1\r\nHost: node\r\n{}\r\n", "X: x\r\n".repeat(100));
        for request in [long, many] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The server may close before it has read everything.
            let _ = stream.write_all(request.as_bytes()).await;
            let answer = rest(&mut stream).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
        }
        assert!(ask(address, &get("/healthz")).await.starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn one_connection_serves_one_request() {
    with_server("127.0.0.1:0", Some(busy(1)), async |address| {
        let answer = ask(address, &get("/healthz").repeat(2)).await;
        assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 1, "{answer}");
    });
}

#[test]
fn a_client_that_drips_its_head_is_cut() {
    with_server("127.0.0.1:0", Some(busy(1)), async |address| {
        let start = Instant::now();
        let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
        let drip = async {
            let mut beat = tokio::time::interval(Duration::from_millis(200));
            for byte in b"GET /metrics HTTP/1.1\r\nHost: ".iter().chain(b"x".iter().cycle()) {
                beat.tick().await;
                if writer.write_all(&[*byte]).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            () = drip => unreachable!("it drips for ever"),
            _ = reader.read_to_end(&mut answer) => (),
        }
        let elapsed = start.elapsed();
        assert!(elapsed >= HEAD_TIME.mul_f32(0.9) && elapsed < HEAD_TIME.mul_f32(1.5), "{elapsed:?}");
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    });
}

#[test]
fn one_connection_too_many_is_refused_at_once_and_later_ones_are_served() {
    with_server("127.0.0.1:0", Some(busy(1)), async |address| {
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let start = Instant::now();
        let refused = rest(&mut TcpStream::connect(address).await.unwrap()).await;
        assert!(refused.starts_with("HTTP/1.1 503 "), "{refused:?}");
        assert!(start.elapsed() < HEAD_TIME / 2, "{:?}", start.elapsed());
        drop(idle);
        // The server learns of the closed ones in its own time.
        while !ask(address, &get("/healthz")).await.starts_with("HTTP/1.1 200 ") {}
    });
}

#[test]
fn a_reconciler_that_hangs_keeps_nobody_waiting() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (handle, _requests) = Handle::new();
        let request = get("/metrics");
        let start = Instant::now();
        let answer = tokio::select! {
            never = serve(listener, handle) => match never {},
            answer = ask(address, &request) => answer,
        };
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("did not answer"), "{answer}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    });
}

#[test]
fn it_listens_on_ipv6() {
    with_server("[::1]:0", Some(busy(1)), async |address| {
        assert!(ask(address, &get("/readyz")).await.starts_with("HTTP/1.1 200 "));
    });
}
