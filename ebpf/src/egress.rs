//! Egress: the authority. Every packet of a socket passes here, after netfilter, whatever made it.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::bpf_sk_fullsock;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::debug;
use core::ffi::c_void;
use egress_warden_common::decide::Clock;
use egress_warden_common::limits::UDP_FLOW_NS;
use egress_warden_common::packet::Packet;
use egress_warden_common::reason::{IPPROTO_TCP, IPPROTO_UDP, Reason};
use egress_warden_common::ruleset::FOREVER;
use egress_warden_common::state::{SOCKET_INBOUND, SOCKET_TCP, SocketState, UDP_FLOW_BUSY, udp_flow_set};
use egress_warden_common::{Address, Protocol, Verdict};

use crate::connect::is_audit;
use crate::maps::{SOCKETS, UDP_FLOWS};
use crate::rules::{KernelClock, boot_ns};
use crate::shared::{NO_PACKET, UDP_REPLY, judge, refused, walk};
use crate::violation::{Attempt, count};
use crate::workload::{Workload, bounded, bump};

const DROP: i32 = 0;
const PASS: i32 = 1;

/// Judges every packet that leaves a socket of the workload.
#[cgroup_skb(egress)]
pub(crate) fn egress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let sk = full_socket(skb);
    let mut socket = stored(sk);
    let Some(workload) = Workload::of_socket(socket.as_deref()).or_else(|| Workload::of_packet(skb)) else {
        return DROP;
    };
    let mut packet = NO_PACKET;
    let unreadable = walk(skb, &mut packet);
    if !unreadable.allows() {
        return refuse(&workload, socket, &packet, refused(unreadable));
    }
    let mut socket_flags = 0;
    if let Some(socket) = socket.as_deref_mut() {
        // A socket that begins a flow of its own is judged by destination, whatever it was before: the mark outlives
        // connect(AF_UNSPEC) and would otherwise open every destination.
        if packet.begins_tcp() {
            socket.flags &= !SOCKET_INBOUND;
        } else if !workload.quarantined() && remembered(&workload, socket, &packet) {
            return PASS;
        }
        socket_flags = socket.flags;
    }
    if packet.protocol == IPPROTO_UDP && udp_reply(sk, packet.destination, packet.port, packet.source_port) {
        socket_flags |= UDP_REPLY;
    }
    // SAFETY: a field of the program's context.
    let interface = unsafe { (*skb).ifindex };
    let verdict = judge(workload.slot, &packet, socket_flags, interface);
    if matches!(verdict.reason, Reason::Allowed) {
        remember(&workload, socket, &packet, &verdict);
        return PASS;
    }
    if verdict.reason.allows() {
        return PASS;
    }
    debug!(&ctx, "packet to port {} refused, reason {}", packet.port, verdict.reason as u8);
    refuse(&workload, socket, &packet, verdict)
}

/// The packet's full socket, or null.
#[inline(always)]
pub(crate) fn full_socket(skb: *mut __sk_buff) -> *mut c_void {
    // SAFETY: a field of the program's context; the verifier knows that it may be null.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: `sk` is not null.
    let full: *mut bpf_sock = unsafe { bpf_sk_fullsock(sk) };
    full.cast()
}

#[inline(always)]
fn stored(sk: *mut c_void) -> Option<&'static mut SocketState> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: the storage lives as long as the socket, which the packet holds.
    SOCKETS.get(sk).map(|socket| unsafe { &mut *socket })
}

/// Stands for "not known yet" where a local port is asked for; no datagram leaves a UDP socket from port 0. (A number
/// and not an `Option`: the compiler reads the absent half of one before it looks which half there is.)
pub(crate) const ANY_PORT: u16 = 0;

/// Does this datagram answer one that came in through an uplink a moment ago?
#[inline(always)]
pub(crate) fn udp_reply(sk: *mut c_void, peer: Address, peer_port: u16, local_port: u16) -> bool {
    if sk.is_null() {
        return false;
    }
    let Some(flows) = UDP_FLOWS.get(sk) else { return false };
    // SAFETY: the storage lives as long as the socket, which the packet holds.
    let set = unsafe { &(*flows).sets[udp_flow_set(peer, peer_port)] };
    let now = boot_ns();
    for flow in set {
        if flow.seen != 0
            && flow.seen != UDP_FLOW_BUSY
            && now.saturating_sub(flow.seen) < UDP_FLOW_NS
            && flow.peer_port == peer_port
            && (local_port == ANY_PORT || local_port == flow.local_port)
            && Address::from_bytes(flow.peer) == peer
        {
            return true;
        }
    }
    false
}

/// Was this destination allowed to this socket before, by the ruleset that is still in force?
///
/// Asked of TCP sockets alone. Two processors may send from one UDP socket at once, and what they remember of two
/// allowed destinations may mix: the address of the one with the port of the other is allowed to nobody.
#[inline(always)]
fn remembered(workload: &Workload, socket: &SocketState, packet: &Packet) -> bool {
    packet.protocol == IPPROTO_TCP
        && socket.flags & SOCKET_TCP != 0
        && same_allowed(workload, socket, packet)
        && (socket.allowed_until == FOREVER || KernelClock.unix_seconds() < socket.allowed_until)
}

#[inline(always)]
fn same_allowed(workload: &Workload, socket: &SocketState, packet: &Packet) -> bool {
    socket.allowed_generation == workload.binding.generation
        && socket.allowed_port == packet.port
        && socket.allowed_protocol == packet.protocol
        && Address::from_bytes(socket.allowed) == packet.destination
}

#[inline(always)]
fn remember(workload: &Workload, socket: Option<&mut SocketState>, packet: &Packet, verdict: &Verdict) {
    if let Some(socket) = socket {
        let known = same_allowed(workload, socket, packet);
        socket.allowed_generation = 0;
        socket.allowed = packet.destination.to_bytes();
        socket.allowed_port = packet.port;
        socket.allowed_protocol = packet.protocol;
        socket.allowed_until = verdict.until;
        socket.allowed_generation = workload.binding.generation;
        if known {
            return;
        }
    }
    let protocol = bounded(Protocol::from_ip(packet.protocol) as usize, Protocol::ALL.len());
    bump!(workload, allowed[protocol]);
}

/// Notes the destination for which this socket was counted.
#[inline(always)]
pub(crate) fn remember_counted(socket: &mut SocketState, destination: Address, protocol: u8, port: u16) {
    socket.counted = destination.to_bytes();
    socket.counted_port = port;
    socket.counted_protocol = protocol;
    socket.counted_valid = 1;
}

#[inline(always)]
fn already_counted(socket: &SocketState, packet: &Packet) -> bool {
    socket.counted_valid != 0
        && socket.counted_port == packet.port
        && socket.counted_protocol == packet.protocol
        && Address::from_bytes(socket.counted) == packet.destination
}

/// Refuses a packet and counts the attempt that it belongs to.
///
/// A datagram is an attempt. Of a TCP socket the first packet toward a destination is one, the rest are its
/// retransmissions. An answer to a caller from outside is none: somebody else began it.
#[inline(always)]
fn refuse(workload: &Workload, socket: Option<&mut SocketState>, packet: &Packet, verdict: Verdict) -> i32 {
    let audit = is_audit(workload);
    let outcome = if audit { PASS } else { DROP };
    if packet.accepts_tcp() {
        bump!(workload, replies_refused);
        return outcome;
    }
    let mut attempt =
        Attempt::unsent(packet.destination, packet.protocol, packet.port, verdict, Default::default());
    if let Some(socket) = socket {
        if packet.protocol == IPPROTO_TCP {
            if already_counted(socket, packet) {
                return outcome;
            }
            remember_counted(socket, packet.destination, packet.protocol, packet.port);
        }
        attempt.process = socket.process;
    }
    attempt.source = packet.source;
    attempt.source_port = packet.source_port;
    attempt.audit = audit;
    count(workload.slot, &attempt);
    outcome
}
