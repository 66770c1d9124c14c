//! Live TCP connections of a network namespace, and their end: sock_diag over netlink.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use super::KernelError;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// Every state of TCP but TIME_WAIT, CLOSE and LISTEN: bit n for state n.
const LIVE: u32 = 0xfff & !(1 << 6 | 1 << 7 | 1 << 10 | 1);
const HEADER: usize = 16;
/// `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// `struct inet_diag_sockid`, at byte 4 of a message and byte 8 of a request.
const SOCKET_ID: usize = 48;

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Id of the cgroup whose process opened the socket.
    pub cgroup: u64,
    family: u8,
    id: [u8; SOCKET_ID],
}

/// What came of ending connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Ended: their owner gets an error at once.
    pub ended: usize,
    /// Left open, because they may go on.
    pub kept: usize,
}

/// Ends the connections in this namespace that `end` chooses.
///
/// # Errors
/// Where the kernel cannot be asked, or has no `CONFIG_INET_DIAG_DESTROY`.
pub fn end_connections(
    namespace: &File,
    end: impl Fn(&Connection) -> bool + Sync,
) -> Result<Ended, KernelError> {
    // On a thread of its own, which ends there: this one stays where it is.
    let done = thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            end_here(&end)
        });
        inside.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    });
    done.map_err(|source| KernelError::Namespace { what: "ending its connections", source })
}

fn end_here(end: &impl Fn(&Connection) -> bool) -> io::Result<Ended> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let mut done = Ended::default();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        for connection in dump(&netlink, family)? {
            if !end(&connection) {
                done.kept += 1;
            } else if destroy(&netlink, &connection)? {
                done.ended += 1;
            }
        }
    }
    Ok(done)
}

fn dump(netlink: &OwnedFd, family: u8) -> io::Result<Vec<Connection>> {
    send(netlink, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, family, LIVE, &[0; SOCKET_ID])?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for (kind, body) in messages(&buffer[..length]) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(error_in(body)),
                SOCK_DIAG_BY_FAMILY => found.extend(connection(body)),
                _ => {}
            }
        }
    }
}

/// False where it ended by itself meanwhile.
fn destroy(netlink: &OwnedFd, connection: &Connection) -> io::Result<bool> {
    send(netlink, SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, connection.family, LIVE, &connection.id)?;
    let mut buffer = [0; 4096];
    let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    for (kind, body) in messages(&buffer[..length]) {
        if kind == NLMSG_ERROR {
            let error = error_in(body);
            return match error.raw_os_error() {
                Some(0) => Ok(true),
                Some(libc::ENOENT) => Ok(false),
                _ => Err(error),
            };
        }
    }
    Err(io::Error::other("the kernel did not answer"))
}

fn send(
    netlink: &OwnedFd,
    kind: u16,
    flags: u16,
    family: u8,
    states: u32,
    id: &[u8; SOCKET_ID],
) -> io::Result<()> {
    let mut message = Vec::with_capacity(HEADER + 8 + SOCKET_ID);
    message.extend(((HEADER + 8 + SOCKET_ID) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    message.extend(states.to_ne_bytes());
    message.extend(id);
    sendto(netlink.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

/// The messages of a datagram, each with its kind. What is cut short ends the list.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let length = length as usize;
        let Some(body) = bytes.get(HEADER..length) else { break };
        found.push((kind, body));
        let Some(rest) = bytes.get(length.next_multiple_of(4)..) else { break };
        bytes = rest;
    }
    found
}

fn error_in(body: &[u8]) -> io::Error {
    let number = u32_at(body, 0).unwrap_or_default().cast_signed();
    io::Error::from_raw_os_error(-number)
}

fn connection(body: &[u8]) -> Option<Connection> {
    let family = *body.first()?;
    let id: [u8; SOCKET_ID] = body.get(4..4 + SOCKET_ID)?.try_into().ok()?;
    let address = |at: usize| -> Option<IpAddr> {
        if i32::from(family) == libc::AF_INET {
            let bytes: [u8; 4] = id.get(at..at + 4)?.try_into().ok()?;
            return Some(Ipv4Addr::from(bytes).into());
        }
        let bytes: [u8; 16] = id.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(bytes).to_canonical())
    };
    let port = |at: usize| Some(u16::from_be_bytes(id.get(at..at + 2)?.try_into().ok()?));
    Some(Connection {
        local: SocketAddr::new(address(4)?, port(0)?),
        remote: SocketAddr::new(address(20)?, port(2)?),
        cgroup: attribute(body.get(MESSAGE..)?, INET_DIAG_CGROUP_ID)?,
        family,
        id,
    })
}

/// A number of 64 bits among the attributes.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<u64> {
    while let (Some(length), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) {
        let length = usize::from(length);
        if length < 4 {
            return None;
        }
        if kind == wanted {
            return Some(u64::from_ne_bytes(bytes.get(4..12)?.try_into().ok()?));
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Vec<u8> {
        let mut body = vec![libc::AF_INET as u8, 1, 0, 0];
        body.extend(443_u16.to_be_bytes());
        body.extend(50_000_u16.to_be_bytes());
        body.extend([10, 0, 0, 1]);
        body.extend([0; 12]);
        body.extend([10, 0, 0, 2]);
        body.resize(MESSAGE, 0);
        for (kind, value) in [(9_u16, 1_u64), (INET_DIAG_CGROUP_ID, 77)] {
            body.extend(12_u16.to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value.to_ne_bytes());
        }
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_message_is_read() {
        let bytes = message();
        let [(kind, body)] = messages(&bytes)[..] else { panic!("one message") };
        let found = connection(body).unwrap();
        assert_eq!((kind, found.cgroup), (SOCK_DIAG_BY_FAMILY, 77));
        assert_eq!(found.local, "10.0.0.1:443".parse().unwrap());
        assert_eq!(found.remote, "10.0.0.2:50000".parse().unwrap());
    }

    #[test]
    fn what_is_cut_short_is_no_connection_and_no_panic() {
        let bytes = message();
        for length in 0..bytes.len() {
            let cut = messages(&bytes[..length]);
            assert!(cut.is_empty(), "{length}");
            assert!(connection(bytes.get(HEADER..length).unwrap_or_default()).is_none(), "{length}");
        }
    }
}
