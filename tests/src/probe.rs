//! The near end of a connection: one attempt, and exactly how it went.
//!
//! A thread cannot be in another cgroup than its process, so an attempt from inside a cgroup is a small program,
//! `egress-warden-probe`, which makes it and prints the [`Outcome`]. Without a cgroup the same functions serve
//! directly.

use std::fmt;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Stdio;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::{Namespace, TestCgroup, sys};

/// What an attempt does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Connects over TCP and reads until the other side closes.
    Tcp,
    /// Sends one UDP datagram with sendto and waits for one answer.
    Udp,
    /// Sends one UDP datagram on a connected socket and waits for one answer.
    UdpConnected,
    /// Sends one datagram of UDP-Lite, for which nobody waits.
    UdpLite,
    /// The same without connect, with a datagram that takes several fragments.
    UdpFragments,
}

/// More than three times what Ethernet carries.
const FRAGMENTED: [u8; 5000] = [b'f'; 5000];

impl Attempt {
    const NAMES: [(Attempt, &str); 5] = [
        (Attempt::Tcp, "tcp"),
        (Attempt::Udp, "udp"),
        (Attempt::UdpConnected, "udp-connected"),
        (Attempt::UdpLite, "udp-lite"),
        (Attempt::UdpFragments, "udp-fragments"),
    ];

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(attempt, _)| *attempt == self).map_or("", |(_, name)| name)
    }

    /// Makes the attempt from the calling thread's own network namespace and cgroup.
    #[must_use]
    pub fn make(self, to: SocketAddr, timeout: Duration) -> Outcome {
        let start = Instant::now();
        let result = match self {
            Attempt::Tcp => tcp(to, timeout),
            Attempt::Udp => udp(to, timeout, false, b"probe"),
            Attempt::UdpConnected => udp(to, timeout, true, b"probe"),
            Attempt::UdpFragments => udp(to, timeout, false, &FRAGMENTED),
            Attempt::UdpLite => udp_lite(to),
        };
        let elapsed = start.elapsed();
        match result {
            Ok(received) => Outcome { errno: 0, elapsed, received },
            // std reports a timeout of its own without a number.
            Err(error) => {
                Outcome { errno: error.raw_os_error().unwrap_or(libc::ETIMEDOUT), elapsed, received: 0 }
            }
        }
    }

    /// Makes the attempt in a namespace, from a process inside a cgroup.
    ///
    /// # Errors
    /// When the probe itself does not work; a refused attempt is an [`Outcome`].
    pub fn make_inside(
        self,
        namespace: &Namespace,
        cgroup: &TestCgroup,
        to: SocketAddr,
        timeout: Duration,
    ) -> Result<Outcome> {
        let mut command = namespace.command(probe_binary()?);
        command.args(self.arguments(to, timeout)).stdout(Stdio::piped());
        let output = cgroup.spawn(command)?.wait_with_output()?;
        String::from_utf8_lossy(&output.stdout).trim().parse()
    }

    /// The probe's arguments for this attempt, for a test that starts it by way of another program.
    #[must_use]
    pub fn arguments(self, to: SocketAddr, timeout: Duration) -> [String; 3] {
        [self.name().to_owned(), to.to_string(), timeout.as_millis().to_string()]
    }
}

impl FromStr for Attempt {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Attempt> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text);
        found.map(|(attempt, _)| *attempt).ok_or_else(|| anyhow!("no such attempt: {text}"))
    }
}

/// How an attempt went. Its text form is what the probe prints: `errno microseconds bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// 0 for success; a timeout is ETIMEDOUT, or EAGAIN while waiting for an answer.
    pub errno: i32,
    /// How long it took.
    pub elapsed: Duration,
    /// How many bytes came back.
    pub received: usize,
}

impl Outcome {
    /// Whether it succeeded.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.errno == 0
    }

    /// Whether it was refused with EPERM, which is what a job under an allowlist sees.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.errno == libc::EPERM
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.errno, self.elapsed.as_micros(), self.received)
    }
}

impl FromStr for Outcome {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Outcome> {
        let wrong = || format!("the probe printed `{text}`");
        let fields: Vec<&str> = text.split(' ').collect();
        let [errno, microseconds, received] = fields[..] else { bail!(wrong()) };
        Ok(Outcome {
            errno: errno.parse().with_context(wrong)?,
            elapsed: Duration::from_micros(microseconds.parse().with_context(wrong)?),
            received: received.parse().with_context(wrong)?,
        })
    }
}

/// The probe, which cargo builds beside the test binaries.
///
/// # Errors
/// When the crate's tests were built without its binary.
pub fn probe_binary() -> Result<PathBuf> {
    binary("egress-warden-probe")
}

/// A program of this crate.
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let near = test.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    near.into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| anyhow!("{name} is not built; run `cargo build --package egress-warden-tests`"))
}

fn tcp(to: SocketAddr, timeout: Duration) -> io::Result<usize> {
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received)
}

fn udp(to: SocketAddr, timeout: Duration, connected: bool, payload: &[u8]) -> io::Result<usize> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(timeout))?;
    if connected {
        socket.connect(to)?;
        socket.send(payload)?;
    } else {
        socket.send_to(payload, to)?;
    }
    socket.recv(&mut [0; 1 << 13])
}

fn udp_lite(to: SocketAddr) -> io::Result<usize> {
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = UdpSocket::from(sys::inet_socket(family, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)?);
    socket.send_to(b"probe", to).map(|_| 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_survives_its_text() {
        let outcome = Outcome { errno: 1, elapsed: Duration::from_micros(77), received: 0 };
        assert_eq!(outcome.to_string().parse::<Outcome>().unwrap(), outcome);
        assert!("".parse::<Outcome>().is_err() && "1 2".parse::<Outcome>().is_err());
    }

    #[test]
    fn an_attempt_survives_its_arguments() {
        for (attempt, _) in Attempt::NAMES {
            let [name, ..] = attempt.arguments(([127, 0, 0, 1], 9).into(), Duration::from_secs(1));
            assert_eq!(name.parse::<Attempt>().unwrap(), attempt);
        }
    }
}
