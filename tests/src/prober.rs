//! Many attempts from one process, one after the other: each known on the wire by its number, which is its source port, the
//! identifier of its echo request, or the beginning of its datagram. Most have a socket of their own.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io::{self, BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use libc::{AF_INET, AF_INET6, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, c_int};

use crate::forge::checksum;
use crate::sys;

/// Never waited for in full: an attempt is refused at once or answered at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// What follows the number in datagrams; of even length, as the checksum takes it.
const PAYLOAD: &[u8] = b"attempts";

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Connects over TCP and reads to the end of what the other side says.
    Tcp,
    /// The same with a socket of MPTCP.
    Mptcp,
    /// Sends a datagram with sendto.
    Udp,
    /// Sends a datagram on a connected socket.
    UdpConnected,
    /// Sends two datagrams with sendto, from a socket that all attempts of this kind share.
    UdpShared,
    /// The same, and connects it anew.
    UdpConnectedShared,
    /// Sends a datagram of UDP-Lite with sendto.
    UdpLite,
    /// Sends an echo request with a ping socket.
    Ping,
    /// Sends an ICMP message with a raw socket. Its type stands in the place of the port.
    Raw,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 9] = [
        Kind::Tcp,
        Kind::Mptcp,
        Kind::Udp,
        Kind::UdpConnected,
        Kind::UdpShared,
        Kind::UdpConnectedShared,
        Kind::UdpLite,
        Kind::Ping,
        Kind::Raw,
    ];

    /// Its name on a line of [`serve`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Tcp => "tcp",
            Kind::Mptcp => "mptcp",
            Kind::Udp => "udp",
            Kind::UdpConnected => "udp-connected",
            Kind::UdpShared => "udp-shared",
            Kind::UdpConnectedShared => "udp-connected-shared",
            Kind::UdpLite => "udp-lite",
            Kind::Ping => "ping",
            Kind::Raw => "raw",
        }
    }

    /// How many datagrams it sends.
    #[must_use]
    pub const fn datagrams(self) -> usize {
        if matches!(self, Kind::UdpShared | Kind::UdpConnectedShared) { 2 } else { 1 }
    }

    /// Whether an IPv6 socket of this kind can speak IPv4.
    #[must_use]
    pub const fn has_mapped(self) -> bool {
        !matches!(self, Kind::Ping | Kind::Raw)
    }

    const fn socket(self, family: c_int) -> (c_int, c_int) {
        let icmp = if family == AF_INET { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
        match self {
            Kind::Tcp => (SOCK_STREAM, libc::IPPROTO_TCP),
            Kind::Mptcp => (SOCK_STREAM, libc::IPPROTO_MPTCP),
            Kind::Udp | Kind::UdpConnected | Kind::UdpShared | Kind::UdpConnectedShared => {
                (SOCK_DGRAM, libc::IPPROTO_UDP)
            }
            Kind::UdpLite => (SOCK_DGRAM, libc::IPPROTO_UDPLITE),
            Kind::Ping => (SOCK_DGRAM, icmp),
            Kind::Raw => (SOCK_RAW, icmp),
        }
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Kind> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.with_context(|| format!("no such kind of probe: {text}"))
    }
}

/// One attempt. Its text form is a line of [`serve`]: `KIND NUMBER ADDRESS:PORT WAITS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What it does.
    pub kind: Kind,
    /// By what it is known on the wire.
    pub number: u16,
    /// Where it goes. An IPv4-mapped address makes it an IPv6 socket that speaks IPv4.
    pub to: SocketAddr,
    /// Whether an echo request waits for its answer. Over IPv6 the kernel tells nobody that it was refused.
    pub waits: bool,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.kind.name(), self.number, self.to, self.waits)
    }
}

impl FromStr for Attempt {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Attempt> {
        let words: Vec<&str> = text.split(' ').collect();
        let [kind, number, to, waits] = words[..] else { bail!("no attempt: {text}") };
        Ok(Attempt { kind: kind.parse()?, number: number.parse()?, to: to.parse()?, waits: waits.parse()? })
    }
}

/// How an attempt ended. Its text form is the answer of [`serve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// All of it was done.
    Done,
    /// This call failed, with this errno.
    Failed(Call, i32),
}

/// What an attempt calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// socket
    Socket,
    /// bind, which never fails because of a policy.
    Bind,
    /// connect
    Connect,
    /// send or sendto
    Send,
    /// recv or read
    Receive,
}

impl Call {
    const NAMES: [(Call, &str); 5] = [
        (Call::Socket, "socket"),
        (Call::Bind, "bind"),
        (Call::Connect, "connect"),
        (Call::Send, "send"),
        (Call::Receive, "receive"),
    ];
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Said::Failed(call, errno) = self else { return f.write_str("done 0") };
        let name = Call::NAMES.iter().find(|(known, _)| known == call).map_or("", |(_, name)| name);
        write!(f, "{name} {errno}")
    }
}

impl FromStr for Said {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Said> {
        let (name, errno) = text.split_once(' ').with_context(|| format!("the prober said `{text}`"))?;
        if name == "done" {
            return Ok(Said::Done);
        }
        let found = Call::NAMES.iter().find(|(_, known)| *known == name);
        let (call, _) = found.with_context(|| format!("the prober said `{text}`"))?;
        Ok(Said::Failed(*call, errno.parse()?))
    }
}

/// Sockets that several attempts share. Those that go to IPv4-mapped addresses have one of their own: connected to one of
/// the other family, a socket keeps its source.
type Shared = HashMap<(Kind, bool, bool), UdpSocket>;

/// Reads attempts, one a line, and answers each with how it ended.
///
/// # Errors
/// When a line is no attempt.
pub fn serve() -> Result<()> {
    let mut shared = Shared::new();
    for line in io::stdin().lock().lines() {
        let attempt: Attempt = line?.parse()?;
        let said = match attempt.make(&mut shared) {
            Ok(()) => Said::Done,
            Err((call, error)) => Said::Failed(call, error.raw_os_error().unwrap_or_default()),
        };
        println!("{said}");
        io::stdout().flush()?;
    }
    Ok(())
}

type Ended = Result<(), (Call, io::Error)>;

fn at<T>(call: Call, result: io::Result<T>) -> Result<T, (Call, io::Error)> {
    result.map_err(|error| (call, error))
}

impl Attempt {
    fn make(&self, shared: &mut Shared) -> Ended {
        match self.kind {
            Kind::Tcp | Kind::Mptcp => self.converse(&self.own_socket()?),
            Kind::Udp | Kind::UdpLite => self.send(&self.own_socket()?),
            Kind::UdpConnected => self.send_connected(&self.own_socket()?),
            Kind::UdpShared => self.send(self.shared_socket(shared)?),
            Kind::UdpConnectedShared => self.send_connected(self.shared_socket(shared)?),
            Kind::Ping => self.ping(&self.own_socket()?),
            Kind::Raw => {
                // For a port there is a type, which is one byte.
                let message = self.message(self.to.port() as u8);
                at(Call::Send, self.own_socket()?.send_to(&message, (self.to.ip(), 0))).map(drop)
            }
        }
    }

    /// Of whatever kind it is: std's type is a descriptor with connect, send and recv.
    fn socket(&self, port: u16) -> Result<UdpSocket, (Call, io::Error)> {
        let family = if self.to.is_ipv4() { AF_INET } else { AF_INET6 };
        let (kind, protocol) = self.kind.socket(family);
        let socket = UdpSocket::from(at(Call::Socket, sys::inet_socket(family, kind, protocol))?);
        at(Call::Socket, socket.set_read_timeout(Some(PATIENCE)))?;
        at(Call::Socket, socket.set_write_timeout(Some(PATIENCE)))?;
        if kind != SOCK_RAW {
            at(Call::Bind, sys::bind_any(&socket, family, port))?;
        }
        Ok(socket)
    }

    fn own_socket(&self) -> Result<UdpSocket, (Call, io::Error)> {
        self.socket(self.number)
    }

    fn shared_socket<'a>(&self, shared: &'a mut Shared) -> Result<&'a UdpSocket, (Call, io::Error)> {
        let is_mapped = matches!(self.to.ip(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        Ok(match shared.entry((self.kind, self.to.is_ipv4(), is_mapped)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(self.socket(0)?),
        })
    }

    fn send(&self, socket: &UdpSocket) -> Ended {
        self.all_datagrams(|datagram| socket.send_to(datagram, self.to))
    }

    fn send_connected(&self, socket: &UdpSocket) -> Ended {
        at(Call::Connect, socket.connect(self.to))?;
        self.all_datagrams(|datagram| socket.send(datagram))
    }

    /// Sends all of them, whatever becomes of the first, and gives what became of the last.
    fn all_datagrams(&self, send: impl Fn(&[u8]) -> io::Result<usize>) -> Ended {
        let datagram = [&self.number.to_be_bytes()[..], PAYLOAD].concat();
        let mut last = Ok(());
        for _ in 0..self.kind.datagrams() {
            last = at(Call::Send, send(&datagram)).map(drop);
        }
        last
    }

    fn ping(&self, socket: &UdpSocket) -> Ended {
        let message = self.message(echo_request(self.to.ip()));
        at(Call::Send, socket.send_to(&message, (self.to.ip(), 0)))?;
        if self.waits {
            at(Call::Receive, socket.recv(&mut [0; 64]))?;
        }
        Ok(())
    }

    fn converse(&self, socket: &UdpSocket) -> Ended {
        at(Call::Connect, socket.connect(self.to))?;
        while at(Call::Receive, socket.recv(&mut [0; 64]))? > 0 {}
        // Ended with a reset: nothing waits for its time to run out, and sends without a socket meanwhile.
        let reset = libc::linger { l_onoff: 1, l_linger: 0 };
        at(Call::Receive, sys::set_linger(socket, reset))
    }

    /// An ICMP message of this type, whose identifier is the number.
    fn message(&self, kind: u8) -> Vec<u8> {
        let mut message = vec![kind, 0, 0, 0];
        message.extend(self.number.to_be_bytes());
        message.extend([0, 1]);
        message.extend(PAYLOAD);
        // Over IPv6 the kernel fills it in.
        if self.to.is_ipv4() {
            let sum = checksum(&message).to_be_bytes();
            message[2..4].copy_from_slice(&sum);
        }
        message
    }
}

/// The type of an echo request to this address.
#[must_use]
pub const fn echo_request(to: IpAddr) -> u8 {
    match to {
        IpAddr::V4(_) => 8,
        IpAddr::V6(_) => 128,
    }
}

/// An IPv4 address as a socket of IPv6 writes it.
#[must_use]
pub fn mapped(address: Ipv4Addr) -> IpAddr {
    IpAddr::V6(address.to_ipv6_mapped())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_and_what_became_of_them_survive_their_text() {
        for kind in Kind::ALL {
            let to = SocketAddr::new(mapped(Ipv4Addr::new(10, 77, 1, 2)), 80);
            let attempt = Attempt { kind, number: 10_000, to, waits: true };
            assert_eq!(attempt.to_string().parse::<Attempt>().unwrap(), attempt);
        }
        for (call, _) in Call::NAMES {
            let said = Said::Failed(call, libc::EPERM);
            assert_eq!(said.to_string().parse::<Said>().unwrap(), said);
        }
        assert_eq!("done 0".parse::<Said>().unwrap(), Said::Done);
        assert!("tcp 1".parse::<Attempt>().is_err() && "socket".parse::<Said>().is_err());
    }

    #[test]
    fn a_message_has_its_checksum() {
        let to = "10.77.2.2:13".parse().unwrap();
        let message = Attempt { kind: Kind::Raw, number: 4711, to, waits: false }.message(13);
        assert_eq!((checksum(&message), message[0], &message[4..6]), (0, 13, &4711_u16.to_be_bytes()[..]));
    }
}
