//! A web server that answers as it is told, and knows what it was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use anyhow::Result;
use egress_warden_tests::wait::DEADLINE;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    /// Header lines, in lower case up to the colon.
    pub(crate) headers: Vec<String>,
}

impl Asked {
    pub(crate) fn authorization(&self) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix("authorization: "))
    }
}

/// An answer: status, header lines, body.
pub(crate) struct Answer(u16, Vec<String>, Vec<u8>);

pub(crate) fn html(body: &str) -> Answer {
    typed("text/html; charset=utf-8", body)
}

pub(crate) fn json(body: &str) -> Answer {
    typed("application/vnd.pypi.simple.v1+json", body)
}

pub(crate) fn typed(media_type: &str, body: &str) -> Answer {
    Answer(200, vec![format!("Content-Type: {media_type}")], body.as_bytes().to_vec())
}

pub(crate) fn status(status: u16) -> Answer {
    Answer(status, Vec::new(), b"an error page with no link".to_vec())
}

pub(crate) fn redirect(to: &str) -> Answer {
    Answer(302, vec![format!("Location: {to}")], Vec::new())
}

/// A server on 127.0.0.1, which is `localhost` too. It answers until it is dropped.
pub(crate) struct Web {
    at: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Web {
    pub(crate) fn start(answer: impl Fn(&Asked) -> Answer + Send + 'static) -> Result<Web> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let at = listener.local_addr()?;
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (told, stopped) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                // A client that has read enough leaves early.
                serve(&stream, &told, &answer).ok();
            }
        });
        Ok(Web { at, asked, stop, thread: Some(thread) })
    }

    pub(crate) fn port(&self) -> u16 {
        self.at.port()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no test failed with it").clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        TcpStream::connect(self.at).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn serve(
    stream: &TcpStream,
    told: &Mutex<Vec<Asked>>,
    answer: &impl Fn(&Asked) -> Answer,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut first = [0];
    stream.peek(&mut first)?;
    if !first[0].is_ascii_uppercase() {
        // TLS, which would wait for an answer as long as this waits for a line.
        return Ok(());
    }
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push(format!("{}:{value}", name.to_ascii_lowercase()));
    }
    let asked = Asked { path, headers };
    let Answer(status, headers, body) = answer(&asked);
    told.lock().expect("no test failed with it").push(asked);
    let mut out = stream;
    write!(out, "HTTP/1.1 {status} As Told\r\nContent-Length: {}\r\nConnection: close\r\n", body.len())?;
    for header in headers {
        write!(out, "{header}\r\n")?;
    }
    out.write_all(b"\r\n")?;
    out.write_all(&body)
}
