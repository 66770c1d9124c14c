//! Sockets that no safe wrapper makes: packet sockets, and those of protocols of which hardly anybody has heard.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// From linux/if_packet.h.
const PACKET_QDISC_BYPASS: libc::c_int = 20;
/// From linux/in6.h; the libc crate does not name it on every target.
const IPV6_HDRINCL: libc::c_int = 36;

/// A socket of any kind. Nobody waits on it.
pub fn any_socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers.
    let made = Errno::result(unsafe { libc::socket(family, kind | flags, protocol) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

/// A packet socket on one interface of the calling thread's namespace. A `listening` one is given every frame that passes it.
pub fn packet_socket(index: u32, listening: bool) -> io::Result<OwnedFd> {
    // Bound first: one that listens from the start would be given the frames of every interface until then.
    let socket = any_socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    // SAFETY: a record of integers, for which all zeros is a value.
    let mut place: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    place.sll_family = libc::AF_PACKET as u16;
    place.sll_protocol = if listening { (libc::ETH_P_ALL as u16).to_be() } else { 0 };
    place.sll_ifindex = libc::c_int::try_from(index).map_err(io::Error::other)?;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `place` outlives the call and `length` is its size.
    Errno::result(unsafe { libc::bind(socket.as_raw_fd(), (&raw const place).cast(), length) })?;
    Ok(socket)
}

/// Frames go to the device at once, past its queueing discipline and the programs on it.
pub fn bypass_qdisc(socket: impl AsFd) -> io::Result<()> {
    set(socket, libc::SOL_PACKET, PACKET_QDISC_BYPASS)
}

/// Packets of a raw IPv4 socket carry a header of the sender's own.
pub fn own_header(socket: impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_HDRINCL)
}

/// The same over IPv6.
pub fn own_header_v6(socket: impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IPV6, IPV6_HDRINCL)
}

fn set(socket: impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `on` outlives the call and `length` is its size.
    let done = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const on).cast(), length)
    };
    Errno::result(done)?;
    Ok(())
}
