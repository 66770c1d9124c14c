//! What really came past an interface.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, process};

use anyhow::{Context, Result, bail};

use crate::frame::{Direction, Frame};
use crate::netns::Namespace;
use crate::sys;
use crate::wait::DEADLINE;

/// What begins the payload of a sentinel.
const SENTINEL: &[u8] = b"egress-warden sentinel ";

/// Keeps every frame that passes one interface of a namespace, from when it is started.
#[derive(Debug)]
pub struct Capture {
    seen: Arc<Seen>,
    socket: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    /// Closed to end the thread.
    stop: Option<UnixStream>,
}

#[derive(Debug, Default)]
struct Seen {
    frames: Mutex<Frames>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Frames {
    kept: Vec<Frame>,
    sentinels: Vec<Vec<u8>>,
    failure: Option<io::Error>,
}

impl Capture {
    /// Starts one. When this returns, no frame can be missed any more.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn start(namespace: &Namespace, interface: &str) -> Result<Capture> {
        let socket = namespace.enter(|| -> Result<OwnedFd> {
            let index =
                sys::interface_index(interface).with_context(|| format!("no interface {interface}"))?;
            Ok(sys::packet_socket(index)?)
        })?;
        let (stop, stopped) = UnixStream::pair()?;
        let (seen, socket) = (Arc::new(Seen::default()), Arc::new(socket));
        let thread = {
            let (seen, socket) = (Arc::clone(&seen), Arc::clone(&socket));
            thread::Builder::new().name("capture".into()).spawn(move || seen.collect(&socket, &stopped))?
        };
        Ok(Capture { seen, socket, thread: Some(thread), stop: Some(stop) })
    }

    /// How many of the frames seen so far fit. To prove that something was *not* sent, call [`Capture::settle`] first.
    #[must_use]
    pub fn count(&self, fits: impl Fn(&Frame) -> bool) -> usize {
        self.seen.lock().kept.iter().filter(|frame| fits(frame)).count()
    }

    /// The frames seen so far that fit.
    #[must_use]
    pub fn frames(&self, fits: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        self.seen.lock().kept.iter().filter(|frame| fits(frame)).cloned().collect()
    }

    /// Waits for a frame that fits.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn wait_for(&self, fits: impl Fn(&Frame) -> bool, deadline: Duration) -> Result<Frame> {
        self.seen.wait(deadline, |frames| frames.kept.iter().find(|frame| fits(frame)).cloned())
    }

    /// Waits until everything has been seen that was sent from `from` before this call: sends sentinels down the same
    /// road, to any place whose road passes this interface, and waits for them. They are not kept as frames.
    ///
    /// A frame waits in the queue of the processor that sent it, so every processor sends a sentinel of its own.
    ///
    /// # Errors
    /// When a sentinel does not arrive, or when the capture lost frames and so can prove nothing.
    pub fn settle(&self, from: &Namespace, to: SocketAddr) -> Result<()> {
        let sent = from.enter(|| send_sentinels(to)).context("cannot send a sentinel")?;
        let all_seen =
            |frames: &Frames| sent.iter().all(|payload| frames.sentinels.contains(payload)).then_some(());
        self.seen.wait(DEADLINE, all_seen).context("a sentinel did not arrive")?;
        match sys::frames_lost(self.socket.as_fd())? {
            0 => Ok(()),
            lost => bail!("the capture lost {lost} frames, so it proves nothing"),
        }
    }
}

/// Sends one sentinel from each processor, and returns their payloads.
fn send_sentinels(to: SocketAddr) -> io::Result<Vec<Vec<u8>>> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    let mut sent = Vec::new();
    for cpu in sys::processors()? {
        sys::pin(cpu)?;
        let mut payload = SENTINEL.to_vec();
        payload.extend(format!("{} {}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)).into_bytes());
        socket.send_to(&payload, to)?;
        sent.push(payload);
    }
    Ok(sent)
}

impl Seen {
    fn lock(&self) -> std::sync::MutexGuard<'_, Frames> {
        // A test that fails while it looks at the frames must not hide its message behind a poisoned lock.
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self, socket: &OwnedFd, stopped: &UnixStream) {
        // A segmented TCP packet passes whole: up to 64 KiB, and its headers.
        let mut buffer = vec![0; 1 << 17];
        loop {
            match sys::wait_readable([socket.as_fd(), stopped.as_fd()], None) {
                Ok([_, true]) => return,
                Ok(_) => {}
                Err(error) => return self.fail(error),
            }
            loop {
                match sys::receive_frame(socket.as_fd(), &mut buffer) {
                    Ok((length, is_ours)) => self.keep(is_ours, &buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return self.fail(error),
                }
            }
        }
    }

    fn keep(&self, is_ours: bool, bytes: &[u8]) {
        let frame = Frame::parse(if is_ours { Direction::Out } else { Direction::In }, bytes);
        let mut frames = self.lock();
        if frame.is_udp() && frame.payload.starts_with(SENTINEL) {
            frames.sentinels.push(frame.payload);
        } else {
            frames.kept.push(frame);
        }
        self.more.notify_all();
    }

    fn fail(&self, error: io::Error) {
        self.lock().failure = Some(error);
        self.more.notify_all();
    }

    fn wait<T>(&self, deadline: Duration, find: impl Fn(&Frames) -> Option<T>) -> Result<T> {
        let end = Instant::now() + deadline;
        let mut frames = self.lock();
        loop {
            if let Some(found) = find(&frames) {
                return Ok(found);
            }
            if let Some(error) = &frames.failure {
                bail!("the capture ended: {error}");
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("waited {deadline:?} in vain; {} frames were seen", frames.kept.len());
            }
            frames = self.more.wait_timeout(frames, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
