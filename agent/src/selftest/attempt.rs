//! The attempts themselves, made by a process inside the cgroup and the network namespace.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use rustix::net::{SendFlags, connect_unspec};

use super::frames;
use super::place::{ALLOWED, ALLOWED_V6, INTERFACE, PORT, REFUSED, Token};
use crate::kernel::packet::{any_socket, bypass_qdisc, own_header, own_header_v6, packet_socket};

/// How long a connection may take. On this wire, far less than a millisecond.
const CONNECT_WITHIN: Duration = Duration::from_millis(300);
const UDP_LITE: libc::c_int = 136;

/// Why an attempt did not go out.
#[derive(Debug)]
pub(super) enum Failure {
    /// The kernel refused it with this number.
    Refused(i32),
    /// It could not be made.
    Impossible(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // std reports a timeout of its own without a number.
        Self::Refused(error.raw_os_error().unwrap_or(libc::ETIMEDOUT))
    }
}

pub(super) type Tried = Result<(), Failure>;

/// What an attempt needs beforehand; without it nothing was tried.
fn needed<T>(what: &str, result: io::Result<T>) -> Result<T, Failure> {
    result.map_err(|error| Failure::Impossible(format!("{what}: {error}")))
}

pub(super) fn tcp(token: Token) -> Tried {
    Ok(TcpStream::connect_timeout(&token.refused(), CONNECT_WITHIN).map(drop)?)
}

pub(super) fn tcp_v6(token: Token) -> Tried {
    Ok(TcpStream::connect_timeout(&token.refused_v6(), CONNECT_WITHIN).map(drop)?)
}

pub(super) fn tcp_mapped(token: Token) -> Tried {
    let to = SocketAddr::from((REFUSED.to_ipv6_mapped(), token.port()));
    Ok(TcpStream::connect_timeout(&to, CONNECT_WITHIN).map(drop)?)
}

/// Connects where it may, goes back, and connects where it may not.
pub(super) fn tcp_turned(token: Token) -> Tried {
    let allowed = SocketAddr::from((ALLOWED, PORT));
    let stream = needed("an allowed connection", TcpStream::connect_timeout(&allowed, CONNECT_WITHIN))?;
    needed("connect(AF_UNSPEC)", connect_unspec(&stream).map_err(io::Error::from))?;
    // The first packet is what counts; its answer is not waited for.
    needed("a socket that does not wait", stream.set_nonblocking(true))?;
    match rustix::net::connect(&stream, &token.refused()) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(()),
        Err(errno) => Err(Failure::Refused(errno.raw_os_error())),
    }
}

pub(super) fn tcp_control(token: Token) -> Tried {
    greet((ALLOWED, PORT).into(), token)
}

pub(super) fn tcp_control_v6(token: Token) -> Tried {
    greet((ALLOWED_V6, PORT).into(), token)
}

pub(super) fn tcp_control_mapped(token: Token) -> Tried {
    greet((ALLOWED.to_ipv6_mapped(), PORT).into(), token)
}

fn greet(to: SocketAddr, token: Token) -> Tried {
    let mut stream = TcpStream::connect_timeout(&to, CONNECT_WITHIN)?;
    Ok(io::Write::write_all(&mut stream, &token.control())?)
}

pub(super) fn udp(token: Token) -> Tried {
    datagram(token.refused(), &token.attempt())
}

pub(super) fn udp_connected(token: Token) -> Tried {
    let socket = needed("a UDP socket", UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    needed("connect of a UDP socket", socket.connect(token.refused()))?;
    Ok(socket.send(&token.attempt()).map(drop)?)
}

pub(super) fn udp_v6(token: Token) -> Tried {
    datagram(token.refused_v6(), &token.attempt())
}

pub(super) fn udp_mapped(token: Token) -> Tried {
    datagram((REFUSED.to_ipv6_mapped(), token.port()).into(), &token.attempt())
}

pub(super) fn other_port(token: Token) -> Tried {
    datagram((ALLOWED, token.port()).into(), &token.attempt())
}

pub(super) fn udp_control(token: Token) -> Tried {
    datagram((ALLOWED, PORT).into(), &token.control())
}

pub(super) fn udp_control_v6(token: Token) -> Tried {
    datagram((ALLOWED_V6, PORT).into(), &token.control())
}

pub(super) fn udp_control_mapped(token: Token) -> Tried {
    datagram((ALLOWED.to_ipv6_mapped(), PORT).into(), &token.control())
}

fn datagram(to: SocketAddr, payload: &[u8]) -> Tried {
    let any: SocketAddr =
        if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = needed("a UDP socket", UdpSocket::bind(any))?;
    Ok(socket.send_to(payload, to).map(drop)?)
}

pub(super) fn udp_lite(token: Token) -> Tried {
    let socket = UdpSocket::from(any_socket(libc::AF_INET, libc::SOCK_DGRAM, UDP_LITE)?);
    Ok(socket.send_to(&token.attempt(), token.refused()).map(drop)?)
}

/// A raw socket that the policy does not open.
pub(super) fn raw_icmp(_: Token) -> Tried {
    Ok(any_socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP).map(drop)?)
}

/// One that would send any protocol.
pub(super) fn raw_any(_: Token) -> Tried {
    Ok(any_socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW).map(drop)?)
}

pub(super) fn raw_refused(token: Token) -> Tried {
    raw(&frames::refused(&token.attempt(), token.port()), REFUSED)
}

pub(super) fn forged_source(token: Token) -> Tried {
    raw(&frames::forged(&token.attempt()), ALLOWED)
}

pub(super) fn ip_options(token: Token) -> Tried {
    raw(&frames::with_options(&token.attempt()), ALLOWED)
}

pub(super) fn later_fragment(token: Token) -> Tried {
    raw(&frames::later_fragment(&token.attempt()), ALLOWED)
}

pub(super) fn raw_control(token: Token) -> Tried {
    raw(&frames::plain(&token.control()), ALLOWED)
}

/// The policy opens raw sockets of UDP, so that there is one with which to try what its packets may hold.
fn raw(packet: &[u8], to: Ipv4Addr) -> Tried {
    let socket = needed("a raw socket", any_socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP))?;
    needed("IP_HDRINCL", own_header(&socket))?;
    Ok(UdpSocket::from(socket).send_to(packet, (to, 0)).map(drop)?)
}

pub(super) fn routing_header(token: Token) -> Tried {
    raw_v6(&frames::with_routing_header(&token.attempt()))
}

pub(super) fn raw_control_v6(token: Token) -> Tried {
    raw_v6(&frames::plain_v6(&token.control()))
}

fn raw_v6(packet: &[u8]) -> Tried {
    let socket = needed("a raw socket", any_socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_UDP))?;
    needed("IPV6_HDRINCL", own_header_v6(&socket))?;
    Ok(UdpSocket::from(socket).send_to(packet, (ALLOWED_V6, 0)).map(drop)?)
}

/// Where the policy would let a packet go, so that nothing but the kind of the socket is wrong.
pub(super) fn frame(token: Token) -> Tried {
    send_frame(&sender()?, &frames::frame(frames::IPV4, &frames::plain(&token.attempt())))
}

pub(super) fn frame_past_qdisc(token: Token) -> Tried {
    let socket = sender()?;
    needed("PACKET_QDISC_BYPASS", bypass_qdisc(&socket))?;
    send_frame(&socket, &frames::frame(frames::IPV4, &frames::plain(&token.attempt())))
}

pub(super) fn frame_in_vlan(token: Token) -> Tried {
    send_frame(&sender()?, &frames::tagged(&frames::plain(&token.attempt())))
}

pub(super) fn frame_of_another_kind(token: Token) -> Tried {
    send_frame(&sender()?, &frames::frame(frames::EXPERIMENTAL, &token.attempt()))
}

fn sender() -> Result<OwnedFd, Failure> {
    let index = needed(INTERFACE, if_nametoindex(INTERFACE).map_err(io::Error::from))?;
    needed("a packet socket", packet_socket(index, false))
}

fn send_frame(socket: &OwnedFd, frame: &[u8]) -> Tried {
    rustix::net::send(socket, frame, SendFlags::empty())
        .map(drop)
        .map_err(|errno| io::Error::from(errno).into())
}

/// In namespaces of its own making the process has every capability. There is no way back, so the control comes first.
pub(super) fn nested_namespace(token: Token) -> Tried {
    if let Err(failure) = udp_control(token) {
        return Err(Failure::Impossible(format!("an allowed datagram: {failure:?}")));
    }
    let made = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET);
    needed("namespaces of its own", made.map_err(io::Error::from))?;
    tcp(token)
}

pub(super) fn control_was_first(_: Token) -> Tried {
    Ok(())
}
