//! The few system calls that std does not offer. All `unsafe` of this crate's library is here and in the two
//! `pre_exec` hooks.

use std::ffi::{CStr, CString, c_int};
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::null;
use std::time::Duration;

/// Puts the calling thread into a new network namespace.
pub(crate) fn unshare_net() -> io::Result<()> {
    // SAFETY: takes no pointers; affects the calling thread only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Puts the calling thread into an existing network namespace. Async-signal-safe.
pub(crate) fn set_net(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers; affects the calling thread only.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// The processors that the calling thread may run on.
///
/// # Errors
/// None in practice.
pub fn processors() -> io::Result<Vec<usize>> {
    // SAFETY: a cpu_set_t is plain bits, for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: the kernel writes at most the size that it is given into `set`.
    check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) })?;
    let count = usize::try_from(libc::CPU_SETSIZE).unwrap_or_default();
    // SAFETY: every index is below CPU_SETSIZE.
    Ok((0..count).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

/// Ties the calling thread to one processor.
///
/// # Errors
/// When it may not run there.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: a cpu_set_t is plain bits, for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: the index comes from `processors`, so it is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the kernel reads the size that it is given from `set`.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) }).map(drop)
}

/// A descriptor of another process, as one of the caller's: a socket keeps the cgroup and the namespace of who made it.
///
/// # Errors
/// When there is no such process, or it has no such descriptor.
pub fn take_descriptor(process: u32, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) };
    // SAFETY: the descriptor is new and nobody else's.
    let process = unsafe { OwnedFd::from_raw_fd(check(c_int::try_from(raw).unwrap_or(-1))?) };
    // SAFETY: takes numbers.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    // SAFETY: see above.
    Ok(unsafe { OwnedFd::from_raw_fd(check(c_int::try_from(raw).unwrap_or(-1))?) })
}

/// The number of an interface in the calling thread's network namespace.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the name is a C string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// An AF_PACKET socket that sees every frame of one interface, in the calling thread's network namespace.
pub(crate) fn packet_socket(interface: u32) -> io::Result<OwnedFd> {
    // Protocol 0 keeps it deaf until it is bound; otherwise it would first collect frames of other interfaces.
    // SAFETY: takes no pointers.
    let raw = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let bytes: c_int = 64 << 20;
    // SAFETY: the kernel reads the size that it is given from `bytes`.
    check(unsafe {
        libc::setsockopt(
            raw,
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            length_of::<c_int>(),
        )
    })?;
    // SAFETY: a sockaddr_ll is plain data, for which all zeros is a value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
    address.sll_ifindex = interface.cast_signed();
    // SAFETY: the kernel reads the size that it is given from `address`.
    check(unsafe { libc::bind(raw, (&raw const address).cast(), length_of::<libc::sockaddr_ll>()) })?;
    Ok(socket)
}

/// A raw socket for UDP that is handed whole IPv4 packets, in the calling thread's network namespace.
pub(crate) fn raw_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: takes no pointers.
    let raw = check(unsafe { libc::socket(libc::AF_INET, kind, libc::IPPROTO_UDP) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let on: c_int = 1;
    // SAFETY: the kernel reads the size that it is given from `on`.
    check(unsafe {
        libc::setsockopt(
            raw,
            libc::IPPROTO_IP,
            libc::IP_HDRINCL,
            (&raw const on).cast(),
            length_of::<c_int>(),
        )
    })?;
    Ok(socket)
}

/// A socket of a family, type and protocol that std does not offer together, in the calling thread's network namespace.
pub(crate) fn inet_socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let raw = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Binds a socket to this port, or to this identifier where it is a ping socket, and to any address.
pub(crate) fn bind_any(socket: &impl AsFd, family: c_int, port: u16) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    if family == libc::AF_INET {
        // SAFETY: a sockaddr_in is plain data, for which all zeros is a value.
        let mut any: libc::sockaddr_in = unsafe { zeroed() };
        any.sin_family = libc::sa_family_t::try_from(family).unwrap_or_default();
        any.sin_port = port.to_be();
        // SAFETY: the kernel reads the size that it is given from `any`.
        check(unsafe { libc::bind(fd, (&raw const any).cast(), length_of::<libc::sockaddr_in>()) }).map(drop)
    } else {
        // SAFETY: a sockaddr_in6 is plain data, for which all zeros is a value.
        let mut any: libc::sockaddr_in6 = unsafe { zeroed() };
        any.sin6_family = libc::sa_family_t::try_from(family).unwrap_or_default();
        any.sin6_port = port.to_be();
        // SAFETY: the kernel reads the size that it is given from `any`.
        check(unsafe { libc::bind(fd, (&raw const any).cast(), length_of::<libc::sockaddr_in6>()) }).map(drop)
    }
}

/// Sends these bytes on a bound socket.
pub(crate) fn send(socket: &impl AsFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads the length that it is given from `bytes`.
    let sent = unsafe { libc::send(socket.as_fd().as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends these bytes to an IPv4 place.
pub(crate) fn send_to(socket: &impl AsFd, bytes: &[u8], to: SocketAddrV4) -> io::Result<()> {
    // SAFETY: a sockaddr_in is plain data, for which all zeros is a value.
    let mut address: libc::sockaddr_in = unsafe { zeroed() };
    address.sin_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
    address.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
    // SAFETY: both buffers are passed with their own sizes.
    let sent = unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const address).cast(),
            length_of::<libc::sockaddr_in>(),
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one frame into `buffer`: its length, and whether this side sent it.
pub(crate) fn receive_frame(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
    // SAFETY: a sockaddr_ll is plain data, for which all zeros is a value.
    let mut from: libc::sockaddr_ll = unsafe { zeroed() };
    let mut from_length = length_of::<libc::sockaddr_ll>();
    // SAFETY: both buffers are passed with their own sizes.
    let length = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
            (&raw mut from).cast(),
            &raw mut from_length,
        )
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok((length, from.sll_pkttype == libc::PACKET_OUTGOING))
}

/// How many frames a packet socket lost since the last call, for want of room.
pub(crate) fn frames_lost(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: a tpacket_stats is plain data, for which all zeros is a value.
    let mut statistics: libc::tpacket_stats = unsafe { zeroed() };
    let mut length = length_of::<libc::tpacket_stats>();
    // SAFETY: the kernel writes at most `length` bytes into `statistics`.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    })?;
    Ok(statistics.tp_drops)
}

/// Waits until one of the descriptors can be read, and tells which can.
pub(crate) fn wait_readable<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = descriptors.map(|descriptor| libc::pollfd {
        fd: descriptor.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    let milliseconds =
        timeout.map_or(-1, |timeout| c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX));
    let count = libc::nfds_t::try_from(N).unwrap_or_default();
    // SAFETY: `polled` has N entries.
    match check(unsafe { libc::poll(polled.as_mut_ptr(), count, milliseconds) }) {
        Ok(_) => Ok(polled.map(|entry| entry.revents != 0)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok([false; N]),
        Err(error) => Err(error),
    }
}

/// Detaches the calling process from its terminal's signals. Async-signal-safe.
pub(crate) fn new_session() -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::setsid() }).map(drop)
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: takes no pointers and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Gives the calling process mounts of its own that it can change without anybody else seeing it. Async-signal-safe.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: takes no pointers; affects the calling process only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the paths are C strings, and the other pointers may be null for this kind of mount.
    check(unsafe { libc::mount(null(), c"/".as_ptr(), null(), flags, null()) }).map(drop)
}

/// Lays a file over another. Async-signal-safe.
pub(crate) fn bind_mount(source: &CStr, place: &CStr) -> io::Result<()> {
    // SAFETY: the paths are C strings, and the other pointers may be null for a bind mount.
    check(unsafe { libc::mount(source.as_ptr(), place.as_ptr(), null(), libc::MS_BIND, null()) }).map(drop)
}

/// A UDP socket that is bound to a place that need not be this machine's own, in the calling thread's network namespace.
pub(crate) fn transparent_socket(source: SocketAddr) -> io::Result<UdpSocket> {
    let (family, level, option) = match source {
        SocketAddr::V4(_) => (libc::AF_INET, libc::SOL_IP, libc::IP_TRANSPARENT),
        SocketAddr::V6(_) => (libc::AF_INET6, libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    let socket = inet_socket(family, libc::SOCK_DGRAM, 0)?;
    set_on(&socket, level, option)?;
    // Who is being impersonated may be bound there as well.
    set_on(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    bind(&socket, source)?;
    Ok(socket.into())
}

/// Has a listener keep as many connections waiting as the kernel allows; std asks for 128.
pub(crate) fn lengthen_backlog(listener: &impl AsFd) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::listen(listener.as_fd().as_raw_fd(), c_int::MAX) }).map(drop)
}

/// Lets the kernel hand several datagrams to this socket in one piece.
pub(crate) fn merge_datagrams(socket: &impl AsFd) -> io::Result<()> {
    set_on(socket, libc::SOL_UDP, libc::UDP_GRO)
}

/// Has what this socket sends in one call go out as datagrams of this many bytes, which stay one piece for as long as the way
/// allows.
///
/// # Errors
/// Where the kernel does not know of it.
pub fn cut_datagrams(socket: &impl AsFd, bytes: u16) -> io::Result<()> {
    set(socket, libc::SOL_UDP, libc::UDP_SEGMENT, bytes.into())
}

fn set_on(socket: &impl AsFd, level: c_int, option: c_int) -> io::Result<()> {
    set(socket, level, option, 1)
}

fn set(socket: &impl AsFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the size that it is given from `value`.
    check(unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length_of::<c_int>()) })
        .map(drop)
}

fn bind(socket: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    match to {
        SocketAddr::V4(to) => {
            // SAFETY: a sockaddr_in is plain data, for which all zeros is a value.
            let mut address: libc::sockaddr_in = unsafe { zeroed() };
            address.sin_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
            address.sin_port = to.port().to_be();
            address.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
            // SAFETY: the kernel reads the size that it is given from `address`.
            check(unsafe { libc::bind(fd, (&raw const address).cast(), length_of::<libc::sockaddr_in>()) })
        }
        SocketAddr::V6(to) => {
            // SAFETY: a sockaddr_in6 is plain data, for which all zeros is a value.
            let mut address: libc::sockaddr_in6 = unsafe { zeroed() };
            address.sin6_family = libc::sa_family_t::try_from(libc::AF_INET6).unwrap_or_default();
            address.sin6_port = to.port().to_be();
            address.sin6_addr.s6_addr = to.ip().octets();
            // SAFETY: the kernel reads the size that it is given from `address`.
            check(unsafe { libc::bind(fd, (&raw const address).cast(), length_of::<libc::sockaddr_in6>()) })
        }
    }
    .map(drop)
}

/// What closing does with what was not sent.
pub(crate) fn set_linger(socket: &impl AsFd, linger: libc::linger) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `linger` lives until after the call and has the length that is told.
    check(unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length_of::<libc::linger>(),
        )
    })
    .map(drop)
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default()
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
