//! Refused attempts and allowed datagrams from every processor at once, as fast as they go.
//!
//! Made to find the datagram that slips out behind a quarantine: each carries the number of refused attempts that had
//! *returned* before it was sent. One that arrives with the threshold's number or more came too late.

use std::io::{self, BufRead, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::sys;

/// Never waited for in full: an attempt is refused at once, or met with a reset.
const PATIENCE: Duration = Duration::from_secs(1);

/// Prints `ready`, waits for a line on standard input, makes the attempts, and prints how many of them were refused and
/// how many allowed datagrams left: `done ATTEMPTS SENT`.
///
/// # Errors
/// When a socket cannot be opened, or an attempt is not refused.
pub fn run(refused: SocketAddr, allowed: SocketAddr, attempts: u64) -> Result<()> {
    println!("ready");
    io::stdout().flush()?;
    io::stdin().lock().read_line(&mut String::new())?;
    let flood = Flood {
        refused,
        allowed,
        attempts,
        begun: AtomicU64::new(0),
        returned: AtomicU64::new(0),
        sent: AtomicU64::new(0),
    };
    let processors = sys::processors()?;
    thread::scope(|scope| {
        let flood = &flood;
        let threads: Vec<_> =
            processors.into_iter().map(|cpu| scope.spawn(move || flood.from(cpu))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })?;
    println!("done {} {}", flood.returned.into_inner(), flood.sent.into_inner());
    Ok(())
}

/// What the threads share.
struct Flood {
    refused: SocketAddr,
    allowed: SocketAddr,
    attempts: u64,
    begun: AtomicU64,
    /// Refused attempts that have returned.
    returned: AtomicU64,
    /// Allowed datagrams that the kernel took.
    sent: AtomicU64,
}

impl Flood {
    fn from(&self, cpu: usize) -> Result<()> {
        sys::pin(cpu)?;
        let any: SocketAddr =
            if self.allowed.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        // Both kinds: what the kernel remembers with a connected socket must not outlast the quarantine either.
        let (connected, unconnected) = (UdpSocket::bind(any)?, UdpSocket::bind(any)?);
        connected.connect(self.allowed)?;
        while self.begun.fetch_add(1, Ordering::SeqCst) < self.attempts {
            attempt(self.refused)?;
            self.returned.fetch_add(1, Ordering::SeqCst);
            self.note(&connected.send(&self.number()));
            self.note(&unconnected.send_to(&self.number(), self.allowed));
        }
        Ok(())
    }

    fn number(&self) -> Vec<u8> {
        self.returned.load(Ordering::SeqCst).to_string().into_bytes()
    }

    fn note(&self, sent: &io::Result<usize>) {
        // A refusal is what the quarantine is for; the far side tells whether it held.
        if sent.is_ok() {
            self.sent.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn attempt(refused: SocketAddr) -> Result<()> {
    match TcpStream::connect_timeout(&refused, PATIENCE) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        Err(error) => Err(anyhow!("not refused: {error}")),
        Ok(_) => Err(anyhow!("not refused but connected")),
    }
}
