//! Egress: the authority. Every packet of a socket passes here, after netfilter, whatever made it.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::debug;
use egress_warden_common::Verdict;
use egress_warden_common::decide::DNS_PORT;
use egress_warden_common::packet::Packet;
use egress_warden_common::reason::{IPPROTO_TCP, IPPROTO_UDP, Reason};
use egress_warden_common::state::{
    COUNTED_FLOW, SOCKET_INBOUND, SOCKET_TCP, SocketState, WAY_LOOPBACK, WAY_SERVICE, WAY_UPLINK,
};

use crate::backends::judge_service;
use crate::chatter::{is_chatter, is_kernels};
use crate::dns::{Asked, believes_loopback, is_answered, is_query, judge_query, judges_names, knows_names};
use crate::kept::{Kept, kept_by_socket};
use crate::memory::{
    already_counted, datagram_counted, remember, remember_counted, remembered, remembered_from_before,
    stored, udp_reply,
};
use crate::shared::{
    LIVES, LOOPBACK_INTERFACE, NO_LINK_HEADER, NO_PACKET, UDP_REPLY, full_socket, is_listening, is_reply,
    judge_itself, refused, walk,
};
use crate::violation::{Attempt, NO_PROCESS, count};
use crate::workload::{Workload, bump, in_own_namespace};

const DROP: i32 = 0;
const PASS: i32 = 1;

/// Judges every packet that leaves a socket of the workload.
#[cgroup_skb(egress)]
pub(crate) fn egress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let sk = full_socket(skb);
    let mut socket = stored(sk);
    let workload = match Workload::of_socket(socket.as_deref()) {
        Some(workload) => workload,
        None => {
            let Some(workload) = Workload::of_packet(skb) else { return DROP };
            if let Some(socket) = socket.as_deref_mut() {
                workload.claim(socket);
            }
            workload
        }
    };
    let mut packet = NO_PACKET;
    let unreadable = walk(skb, NO_LINK_HEADER, &mut packet);
    let answers_caller = is_listening(sk);
    let by_kernel = socket.is_none() && is_kernels(sk);
    if !unreadable.allows() {
        return refuse(&workload, socket, &packet, refused(unreadable), answers_caller);
    }
    // SAFETY: a field of the program's context.
    let interface = unsafe { (*skb).ifindex };
    let way = if interface == LOOPBACK_INTERFACE { WAY_LOOPBACK } else { WAY_UPLINK };
    let mut socket_flags = 0;
    if let Some(socket) = socket.as_deref_mut() {
        // A socket that begins a flow of its own is judged by destination, whatever it was before: the mark outlives
        // connect(AF_UNSPEC) and would otherwise open every destination.
        if packet.begins_tcp() {
            socket.flags &= !SOCKET_INBOUND;
        } else if way == WAY_UPLINK && !workload.quarantined() && remembered(&workload, socket, &packet, way)
        {
            return PASS;
        }
        socket_flags = workload.flags_of(socket);
        if knows_names()
            && packet.protocol == IPPROTO_TCP
            && !packet.begins_tcp()
            && remembered_from_before(&workload, socket, &packet, way)
        {
            socket_flags |= LIVES;
        }
    }
    if packet.protocol == IPPROTO_UDP && udp_reply(sk, packet.destination, packet.port, packet.source_port) {
        socket_flags |= UDP_REPLY;
    }
    if way == WAY_LOOPBACK && poses_as_resolver(&workload, &packet) {
        return refuse(&workload, socket, &packet, refused(Reason::SourceSpoofed), answers_caller);
    }
    let mut verdict = judge_itself(&workload, &packet, socket_flags, interface);
    let by_service = judge_service(&workload, &packet, sk, interface, &mut verdict);
    if matches!(verdict.reason, Reason::Allowed) {
        if is_query(&packet) && judges_names(&workload) {
            return ask(skb, &workload, socket.as_deref(), &packet, interface);
        }
        let way = if by_service { WAY_SERVICE } else { way };
        // A listener answers many callers: nothing of it is worth remembering.
        if !answers_caller {
            remember(&workload, socket, &packet, &verdict, way);
        }
        return PASS;
    }
    if verdict.reason.allows() {
        return PASS;
    }
    let kept = kept_by_socket(skb, &workload, socket.as_deref(), &packet, verdict.reason);
    if matches!(kept, Kept::GoesOn) {
        return PASS;
    }
    debug!(&ctx, "packet to port {} refused, reason {}", packet.port, verdict.reason as u8);
    let answers_caller = answers_caller || is_reply(&packet, socket_flags) || matches!(kept, Kept::Ends);
    // What the kernel tells the link for a namespace that was made inside is as little an attempt as an answer.
    let answers_caller = answers_caller || (by_kernel && is_chatter(&packet));
    refuse(&workload, socket, &packet, verdict, answers_caller)
}

/// Does a datagram claim to come from a resolver on the node? That one is outside of the workload, and what it answers over
/// loopback is believed.
#[inline(always)]
fn poses_as_resolver(workload: &Workload, packet: &Packet) -> bool {
    packet.protocol == IPPROTO_UDP
        && packet.source_port == DNS_PORT
        && judges_names(workload)
        && believes_loopback(workload)
        && workload.has_resolver(packet.source)
}

/// Judges a query by its name. One that is refused goes on to the backstop where there is one: that tells the client so,
/// instead of leaving it to wait, and counts it.
#[inline(always)]
fn ask(
    skb: *mut __sk_buff,
    workload: &Workload,
    socket: Option<&SocketState>,
    packet: &Packet,
    interface: u32,
) -> i32 {
    let audit = workload.is_audit();
    let own = match socket {
        Some(socket) => in_own_namespace(workload.flags_of(socket)),
        None => false,
    };
    let guarded = !audit && own && workload.has_backstop(interface);
    let flags = Asked::NOTES | Asked::COUNTS | if guarded { Asked::ANSWERED } else { 0 };
    let process = socket.map_or(NO_PROCESS, |socket| socket.process);
    let flags = if audit { flags | Asked::AUDIT } else { flags };
    let asked = Asked { base: NO_LINK_HEADER, flags };
    let verdict = judge_query(workload, skb, asked, packet, process);
    if verdict.reason.allows() || audit || (guarded && is_answered(verdict.reason)) { PASS } else { DROP }
}

/// Refuses a packet and counts the attempt that it belongs to.
///
/// A datagram is an attempt. Of a TCP socket the first packet toward a destination is one, the rest are its
/// retransmissions. An answer to a caller from outside is none: somebody else began it, and could otherwise bring the
/// workload into quarantine, or keep counting against it there.
#[inline(always)]
fn refuse(
    workload: &Workload,
    socket: Option<&mut SocketState>,
    packet: &Packet,
    verdict: Verdict,
    answers_caller: bool,
) -> i32 {
    let audit = workload.is_audit();
    let outcome = if audit { PASS } else { DROP };
    if answers_caller {
        bump!(workload, replies_refused);
        return outcome;
    }
    let mut attempt = Attempt { verdict, process: NO_PROCESS };
    if let Some(socket) = socket {
        let is_tcp = socket.flags & SOCKET_TCP != 0;
        if is_tcp && already_counted(socket, packet) {
            return outcome;
        }
        if !is_tcp && datagram_counted(socket, packet) {
            return outcome;
        }
        // In audit it goes on to the backstop, which does not count it again.
        if is_tcp || audit {
            remember_counted(socket, packet.destination, packet.protocol, packet.port, COUNTED_FLOW);
        }
        attempt.process = socket.process;
    }
    count(workload, packet, &attempt, audit);
    outcome
}
