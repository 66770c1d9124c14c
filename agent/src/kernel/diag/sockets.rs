//! What is said to the kernel about sockets, and what it answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// How long the kernel may be silent in the middle of an answer.
const SILENCE_SECONDS: i64 = 5;
/// The kernel sends a dump in messages of at most this many bytes.
const RECEIVE: usize = 1 << 16;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// The two upper bits of an attribute's type are flags.
const NLA_TYPE_MASK: u16 = 0x3fff;

const HEADER: usize = 16;
const SOCKET_ID: usize = 48;
/// `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// Where in it the socket's identity begins.
const MESSAGE_ID: usize = 4;

/// Where in a socket's identity its cookie stands, the lower half first.
const COOKIE: usize = 40;

const TCP_SYN_SENT: u32 = 2;
const TCP_SYN_RECV: u32 = 3;
const TCP_TIME_WAIT: u32 = 6;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;
const TCP_NEW_SYN_RECV: u32 = 12;
/// Every state in which there is a connection. A UDP socket has the one of an established connection while it is connected.
const STATES: u32 = !(1 << TCP_TIME_WAIT | 1 << TCP_CLOSE | 1 << TCP_LISTEN);

/// A socket as the kernel tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) family: u8,
    pub(super) protocol: u8,
    pub(super) state: u8,
    pub(super) cgroup: u64,
    /// `struct inet_diag_sockid`: ports, addresses, interface, cookie. Handed back as it came, it names this socket only.
    pub(super) id: [u8; SOCKET_ID],
}

impl Socket {
    pub(super) fn port(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.id[at], self.id[at + 1]])
    }

    pub(super) fn local(&self) -> IpAddr {
        self.address(4)
    }

    pub(super) fn remote(&self) -> IpAddr {
        self.address(20)
    }

    pub(super) fn cookie(&self) -> u64 {
        let half = |at: usize| u64::from(u32::from_ne_bytes([0, 1, 2, 3].map(|byte| self.id[at + byte])));
        half(COOKIE) | half(COOKIE + 4) << 32
    }

    pub(super) fn is_established(&self) -> bool {
        !matches!(u32::from(self.state), TCP_SYN_SENT | TCP_SYN_RECV | TCP_NEW_SYN_RECV)
    }

    fn address(&self, at: usize) -> IpAddr {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.id[at..at + 16]);
        if i32::from(self.family) == libc::AF_INET {
            let [a, b, c, d, ..] = bytes;
            return Ipv4Addr::new(a, b, c, d).into();
        }
        Ipv6Addr::from(bytes).to_canonical()
    }
}

/// What goes wrong between us and the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It said so.
    Kernel(Errno),
    /// It is not understood.
    Answer(&'static str),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

/// A socket to the kernel, in the namespace in which it was opened.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> Result<Self, Errno> {
        let kind = (SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag);
        let fd = socket(AddressFamily::Netlink, kind.0, kind.1, kind.2)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(SILENCE_SECONDS))?;
        Ok(Self(fd))
    }

    /// Every connection of this family and protocol, as far as the kernel tells whose it is.
    pub(super) fn dump(&self, family: u8, protocol: u8) -> Result<Vec<Socket>, Trouble> {
        let message = request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, (family, protocol), &[0; SOCKET_ID]);
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut sockets = Vec::new();
        let mut buffer = vec![0; RECEIVE];
        while parse_dump(self.receive(&mut buffer)?, protocol, &mut sockets)? == Progress::More {}
        Ok(sockets)
    }

    pub(super) fn destroy(&self, socket: &Socket) -> Result<(), Trouble> {
        send(
            self.0.as_raw_fd(),
            &request(SOCK_DESTROY, NLM_F_ACK, (socket.family, socket.protocol), &socket.id),
            MsgFlags::empty(),
        )?;
        let mut buffer = vec![0; 1 << 10];
        parse_acknowledgement(self.receive(&mut buffer)?)
    }

    fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8], Trouble> {
        loop {
            // With MSG_TRUNC the whole length is told, so a message that was cut is not taken for a short one.
            match recv(self.0.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) => return buffer.get(..length).ok_or(Trouble::Answer("longer than any message")),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// A request about one socket, or with a zero identity about all.
fn request(kind: u16, flags: u16, (family, protocol): (u8, u8), id: &[u8; SOCKET_ID]) -> Vec<u8> {
    let length = (HEADER + 8 + SOCKET_ID) as u32;
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence and port: there is one request at a time, and the kernel fills in the port.
    message.extend([0; 8]);
    message.extend([family, protocol, 0, 0]);
    message.extend(STATES.to_ne_bytes());
    message.extend(id);
    message
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    More,
    Done,
}

/// Reads one datagram of a dump.
fn parse_dump(datagram: &[u8], protocol: u8, sockets: &mut Vec<Socket>) -> Result<Progress, Trouble> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let (kind, payload, after) = split_message(rest)?;
        match kind {
            NLMSG_DONE | NLMSG_ERROR => {
                // Both begin with a negated error number; a dump's end may leave it out.
                return match errno(payload) {
                    Some(Errno::UnknownErrno) => Ok(Progress::Done),
                    None if kind == NLMSG_DONE => Ok(Progress::Done),
                    Some(errno) => Err(errno.into()),
                    None => Err(Trouble::Answer("an error without a number")),
                };
            }
            SOCK_DIAG_BY_FAMILY => sockets.extend(parse_socket(payload, protocol)?),
            _ => {}
        }
        rest = after;
    }
    Ok(Progress::More)
}

/// Reads the answer to a request with `NLM_F_ACK`.
fn parse_acknowledgement(datagram: &[u8]) -> Result<(), Trouble> {
    let (kind, payload, _) = split_message(datagram)?;
    match errno(payload) {
        Some(Errno::UnknownErrno) if kind == NLMSG_ERROR => Ok(()),
        Some(errno) if kind == NLMSG_ERROR => Err(errno.into()),
        _ => Err(Trouble::Answer("no acknowledgement")),
    }
}

/// The error number at the beginning of a payload; `UnknownErrno`, which is 0, for success.
fn errno(payload: &[u8]) -> Option<Errno> {
    let number = i32::from_ne_bytes(*payload.first_chunk()?);
    Some(Errno::from_raw(number.saturating_neg()))
}

/// The first message: its type, its payload, and what follows it.
fn split_message(bytes: &[u8]) -> Result<(u16, &[u8], &[u8]), Trouble> {
    const SHORT: Trouble = Trouble::Answer("a message ends too early");
    let header = bytes.first_chunk::<HEADER>().ok_or(SHORT)?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let payload = bytes.get(HEADER..length).ok_or(SHORT)?;
    // The last message need not be padded.
    Ok((kind, payload, bytes.get(aligned(length)..).unwrap_or_default()))
}

/// `None` for a socket of which the kernel does not tell whose it is.
fn parse_socket(payload: &[u8], protocol: u8) -> Result<Option<Socket>, Trouble> {
    const SHORT: Trouble = Trouble::Answer("a socket ends too early");
    let message = payload.first_chunk::<MESSAGE>().ok_or(SHORT)?;
    let mut id = [0; SOCKET_ID];
    id.copy_from_slice(&message[MESSAGE_ID..MESSAGE_ID + SOCKET_ID]);
    let mut rest = &payload[MESSAGE..];
    while !rest.is_empty() {
        let header = rest.first_chunk::<4>().ok_or(SHORT)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = rest.get(4..length).ok_or(SHORT)?;
        if kind == INET_DIAG_CGROUP_ID {
            let cgroup = u64::from_ne_bytes(value.try_into().map_err(|_| SHORT)?);
            return Ok(Some(Socket { family: message[0], protocol, state: message[1], cgroup, id }));
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    Ok(None)
}

/// Netlink pads to four bytes.
const fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const TCP: u8 = 6;

    pub(in crate::kernel::diag) fn id(local: &str, remote: &str) -> [u8; SOCKET_ID] {
        let place = |text: &str| {
            let place: std::net::SocketAddr = text.parse().unwrap();
            let mut bytes = [0; 16];
            match place.ip() {
                IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
                IpAddr::V6(v6) => bytes = v6.octets(),
            }
            (place.port().to_be_bytes(), bytes)
        };
        let (local, remote) = (place(local), place(remote));
        let mut id = [7; SOCKET_ID];
        id[..2].copy_from_slice(&local.0);
        id[2..4].copy_from_slice(&remote.0);
        id[4..20].copy_from_slice(&local.1);
        id[20..36].copy_from_slice(&remote.1);
        id
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + payload.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn told(family: i32, id: [u8; SOCKET_ID], attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut payload = vec![family as u8, 1, 0, 0];
        payload.extend(id);
        payload.resize(MESSAGE, 0);
        payload.extend(attributes.concat());
        message(SOCK_DIAG_BY_FAMILY, &payload)
    }

    fn two_sockets() -> Vec<u8> {
        let shutdown = attribute(8, &[0]);
        let cgroup = |number: u64| attribute(INET_DIAG_CGROUP_ID, &number.to_ne_bytes());
        [
            told(libc::AF_INET, id("10.0.0.1:4000", "10.0.0.2:80"), &[shutdown.clone(), cgroup(77)]),
            told(libc::AF_INET6, id("[fd00::1]:4001", "[::ffff:10.0.0.3]:443"), &[shutdown, cgroup(78)]),
        ]
        .concat()
    }

    #[test]
    fn a_dump_is_read_to_its_end() {
        let mut sockets = Vec::new();
        assert_eq!(parse_dump(&two_sockets(), TCP, &mut sockets), Ok(Progress::More));
        let end = message(NLMSG_DONE, &0i32.to_ne_bytes());
        assert_eq!(parse_dump(&end, TCP, &mut sockets), Ok(Progress::Done));
        assert_eq!(parse_dump(&message(NLMSG_DONE, &[]), TCP, &mut sockets), Ok(Progress::Done));
        assert_eq!(sockets.iter().map(|socket| socket.cgroup).collect::<Vec<_>>(), [77, 78]);
        assert_eq!((sockets[0].port(0), sockets[0].port(2)), (4000, 80));
        assert_eq!(sockets[0].local(), IpAddr::from([10, 0, 0, 1]));
        assert_eq!(sockets[1].remote(), IpAddr::from([10, 0, 0, 3]), "a mapped address is the IPv4 one");
        assert_eq!(sockets[1].id[36..], [7; 12], "interface and cookie go back as they came");
        assert_eq!(sockets[1].cookie(), 0x0707_0707_0707_0707);
        assert!(sockets[0].is_established());
    }

    #[test]
    fn whose_a_socket_is_may_be_untold() {
        let mut sockets = Vec::new();
        let half_open = told(libc::AF_INET, id("10.0.0.1:80", "10.0.0.2:4000"), &[attribute(15, &[0; 4])]);
        assert_eq!(parse_dump(&half_open, TCP, &mut sockets), Ok(Progress::More));
        assert_eq!(sockets, []);
    }

    #[test]
    fn errors_of_the_kernel_are_told_as_such() {
        let refused = message(NLMSG_ERROR, &(-libc::EOPNOTSUPP).to_ne_bytes());
        let expected = Trouble::Kernel(Errno::EOPNOTSUPP);
        assert_eq!(parse_acknowledgement(&refused), Err(expected));
        assert_eq!(parse_dump(&refused, TCP, &mut Vec::new()), Err(expected));
        assert_eq!(parse_acknowledgement(&message(NLMSG_ERROR, &0i32.to_ne_bytes())), Ok(()));
        assert!(matches!(parse_acknowledgement(&message(NLMSG_ERROR, &[])), Err(Trouble::Answer(_))));
        assert!(matches!(parse_acknowledgement(&message(NLMSG_DONE, &[0; 4])), Err(Trouble::Answer(_))));
    }

    #[test]
    fn whatever_is_cut_or_wrong_is_no_panic_and_no_endless_loop() {
        let whole = two_sockets();
        for length in 0..whole.len() {
            let mut sockets = Vec::new();
            let read = parse_dump(&whole[..length], TCP, &mut sockets);
            // Only between two messages can it be cut unnoticed.
            assert_eq!(read.is_ok(), length == 0 || length == whole.len() / 2, "{length}: {read:?}");
            assert!(sockets.len() <= length / (whole.len() / 2));
            let _ = parse_acknowledgement(&whole[..length]);
        }
        for place in 0..whole.len() {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[place] = value;
                let _ = parse_dump(&bytes, TCP, &mut Vec::new());
                let _ = parse_acknowledgement(&bytes);
            }
        }
    }
}
