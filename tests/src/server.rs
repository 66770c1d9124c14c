//! The far end of a connection: small servers that count who came.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

use crate::netns::Namespace;
use crate::sys;

/// A server on a thread. It listens from when it is started until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    served: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
    /// Closed to end the thread.
    stop: Option<UnixStream>,
}

impl Server {
    /// Accepts TCP connections, says its greeting first, and closes.
    ///
    /// # Errors
    /// When the place cannot be bound.
    pub fn tcp_greeter(namespace: &Namespace, at: SocketAddr, greeting: &'static [u8]) -> Result<Server> {
        let listener =
            namespace.enter(|| TcpListener::bind(at)).with_context(|| format!("cannot listen on {at}"))?;
        listener.set_nonblocking(true)?;
        Self::start(listener.local_addr()?, Greeter { listener, greeting })
    }

    /// Sends every UDP datagram back to where it came from.
    ///
    /// # Errors
    /// When the place cannot be bound.
    pub fn udp_echo(namespace: &Namespace, at: SocketAddr) -> Result<Server> {
        let socket = namespace.enter(|| UdpSocket::bind(at)).with_context(|| format!("cannot bind {at}"))?;
        socket.set_nonblocking(true)?;
        Self::start(socket.local_addr()?, Echo { socket })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it accepted or datagrams it received.
    #[must_use]
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    fn start(address: SocketAddr, service: impl Service + Send + 'static) -> Result<Server> {
        let (stop, stopped) = UnixStream::pair()?;
        let served = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&served);
        let thread = thread::Builder::new().name(address.to_string()).spawn(move || {
            while let Ok([_, false]) = sys::wait_readable([service.descriptor(), stopped.as_fd()], None) {
                while service.serve_one(&counter).is_ok() {}
            }
        })?;
        Ok(Server { address, served, thread: Some(thread), stop: Some(stop) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// What differs between servers.
trait Service {
    fn descriptor(&self) -> BorrowedFd<'_>;
    /// Serves whoever is waiting; an error means that nobody is. Counts before it answers: who has the answer may ask
    /// for the count.
    fn serve_one(&self, served: &AtomicUsize) -> io::Result<()>;
}

struct Greeter {
    listener: TcpListener,
    greeting: &'static [u8],
}

impl Service for Greeter {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn serve_one(&self, served: &AtomicUsize) -> io::Result<()> {
        let (mut stream, _) = self.listener.accept()?;
        served.fetch_add(1, Ordering::SeqCst);
        // A client that left early has still been here.
        stream.set_nonblocking(false).and_then(|()| stream.write_all(self.greeting)).ok();
        Ok(())
    }
}

struct Echo {
    socket: UdpSocket,
}

impl Service for Echo {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn serve_one(&self, served: &AtomicUsize) -> io::Result<()> {
        let mut buffer = [0; 1 << 16];
        let (length, from) = self.socket.recv_from(&mut buffer)?;
        served.fetch_add(1, Ordering::SeqCst);
        // An answer that is refused on its way is for the client to notice.
        self.socket.send_to(&buffer[..length], from).ok();
        Ok(())
    }
}
