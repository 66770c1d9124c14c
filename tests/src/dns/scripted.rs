//! A resolver that answers as a test tells it to: late, twice, wrongly, or in somebody else's name.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hickory_proto::op::Message;

use crate::{Namespace, sys};

/// A question that arrived.
#[derive(Clone, Debug)]
pub struct Question {
    /// As it was read; none where it is no message.
    pub message: Option<Message>,
    /// As it came.
    pub bytes: Vec<u8>,
    /// Whose it is.
    pub from: SocketAddr,
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reply {
    after: Duration,
    bytes: Vec<u8>,
    source: Option<SocketAddr>,
    to: Option<SocketAddr>,
}

impl Reply {
    /// At once, to who asked.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply { after: Duration::ZERO, bytes: bytes.into(), source: None, to: None }
    }

    /// This long after the question.
    #[must_use]
    pub fn after(self, delay: Duration) -> Reply {
        Reply { after: delay, ..self }
    }

    /// In the name of this place, whosever it is.
    #[must_use]
    pub fn from(self, source: SocketAddr) -> Reply {
        Reply { source: Some(source), ..self }
    }

    /// To somebody else than who asked.
    #[must_use]
    pub fn to(self, place: SocketAddr) -> Reply {
        Reply { to: Some(place), ..self }
    }
}

/// The resolver, on a thread.
pub struct Scripted {
    address: SocketAddr,
    socket: Arc<UdpSocket>,
    asked: Arc<Mutex<Vec<Question>>>,
    thread: Option<JoinHandle<()>>,
    /// Closed to end the thread.
    stop: Option<UnixStream>,
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Scripted {
    /// Starts one. `script` is asked what to send for each question.
    ///
    /// # Errors
    /// When the place cannot be bound.
    pub fn start(
        namespace: &Namespace,
        at: SocketAddr,
        mut script: impl FnMut(&Question) -> Vec<Reply> + Send + 'static,
    ) -> Result<Scripted> {
        let socket = namespace.enter(|| UdpSocket::bind(at)).with_context(|| format!("cannot bind {at}"))?;
        socket.set_nonblocking(true)?;
        let (socket, asked) = (Arc::new(socket), Arc::new(Mutex::new(Vec::new())));
        let (stop, stopped) = UnixStream::pair()?;
        let mut desk =
            Desk { namespace: namespace.clone(), socket: Arc::clone(&socket), due: BinaryHeap::new() };
        let log = Arc::clone(&asked);
        let thread = thread::Builder::new().name(format!("scripted {at}")).spawn(move || {
            while let Ok([_, false]) =
                sys::wait_readable([desk.socket.as_fd(), stopped.as_fd()], desk.until_due())
            {
                while let Some(question) = desk.receive() {
                    log.lock().unwrap_or_else(PoisonError::into_inner).push(question.clone());
                    desk.plan(&question, script(&question));
                }
                desk.send_what_is_due();
            }
        })?;
        Ok(Scripted { address: socket.local_addr()?, socket, asked, thread: Some(thread), stop: Some(stop) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The questions so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Question> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends something that nobody asked for now.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) -> Result<()> {
        self.socket.send_to(bytes, to).map(drop).with_context(|| format!("cannot send to {to}"))
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Desk {
    namespace: Namespace,
    socket: Arc<UdpSocket>,
    due: BinaryHeap<Reverse<(Instant, Reply, SocketAddr)>>,
}

impl Desk {
    fn receive(&self) -> Option<Question> {
        let mut buffer = [0; 4096];
        let (length, from) = self.socket.recv_from(&mut buffer).ok()?;
        let bytes = buffer[..length].to_vec();
        Some(Question { message: Message::from_vec(&bytes).ok(), bytes, from })
    }

    fn plan(&mut self, question: &Question, replies: Vec<Reply>) {
        let now = Instant::now();
        for reply in replies {
            let to = reply.to.unwrap_or(question.from);
            self.due.push(Reverse((now + reply.after, reply, to)));
        }
    }

    fn until_due(&self) -> Option<Duration> {
        let Reverse((when, ..)) = self.due.peek()?;
        // Poll counts whole milliseconds: one that is not over yet must not become a busy loop.
        let left = when.saturating_duration_since(Instant::now());
        Some(if left.is_zero() { left } else { left + Duration::from_millis(1) })
    }

    fn send_what_is_due(&mut self) {
        while self.due.peek().is_some_and(|Reverse((when, ..))| *when <= Instant::now()) {
            let Some(Reverse((_, reply, to))) = self.due.pop() else { return };
            // A client that has gone does not need it.
            match reply.source {
                None => self.socket.send_to(&reply.bytes, to).map(drop).ok(),
                Some(source) => send_as(&self.namespace, source, to, &reply.bytes).ok(),
            };
        }
    }
}

/// Sends a datagram in the name of a place that need not be this namespace's own.
///
/// # Errors
/// When the kernel refuses it.
pub fn send_as(namespace: &Namespace, source: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Result<()> {
    namespace
        .enter(|| sys::transparent_socket(source)?.send_to(bytes, to))
        .map(drop)
        .with_context(|| format!("cannot send to {to} in the name of {source}"))
}
