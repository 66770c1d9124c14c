//! Ingress: remember flows that begin outside, so that they may be answered. It refuses nothing but forgeries.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::debug;
use core::ffi::c_void;
use egress_warden_common::Address;
use egress_warden_common::limits::{UDP_FLOW_NS, UDP_FLOW_WAYS};
use egress_warden_common::packet::Packet;
use egress_warden_common::reason::{IPPROTO_TCP, IPPROTO_UDP};
use egress_warden_common::state::{SOCKET_INBOUND, SocketState, UDP_FLOW_BUSY, udp_flow_set};

use crate::atomic;
use crate::connect::is_audit;
use crate::egress::full_socket;
use crate::maps::{SOCKETS, UDP_FLOWS};
use crate::rules::boot_ns;
use crate::shared::{LOOPBACK_INTERFACE, NO_PACKET, forged, judge, walk};
use crate::workload::{Workload, bounded, bump, in_own_namespace};

const DROP: i32 = 0;
const PASS: i32 = 1;
const STATE_ESTABLISHED: u32 = 1;
const STATE_LISTEN: u32 = 10;

/// Looks at every packet that a socket of the workload receives.
#[cgroup_skb(ingress)]
pub(crate) fn ingress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let sk = full_socket(skb);
    if sk.is_null() {
        return PASS;
    }
    let full: *const bpf_sock = sk.cast();
    // SAFETY: fields of a full socket.
    let (state, protocol) = unsafe { ((*full).state, (*full).protocol as u8) };
    // SAFETY: a field of the program's context.
    let interface = unsafe { (*skb).ifindex };
    let on_loopback = interface == LOOPBACK_INTERFACE;
    let begins_flow = match protocol {
        IPPROTO_TCP => state == STATE_LISTEN,
        // A connected socket chose its peer itself: that flow began inside.
        IPPROTO_UDP => state != STATE_ESTABLISHED,
        _ => false,
    };
    if !on_loopback && !begins_flow {
        return PASS;
    }
    // SAFETY: the storage lives as long as the socket, which the packet holds.
    let Some(socket) = SOCKETS.get(sk).map(|socket| unsafe { &mut *socket }) else { return PASS };
    let Some(workload) = Workload::of_socket(Some(socket)) else { return PASS };
    let mut packet = NO_PACKET;
    if !walk(skb, &mut packet).allows() {
        return PASS;
    }
    let own_namespace = in_own_namespace(socket.flags);
    if on_loopback {
        return if forged(&workload, own_namespace, &packet) { drop_forged(&ctx, &workload) } else { PASS };
    }
    if !own_namespace {
        return PASS;
    }
    if !workload.has_uplink(interface) {
        let begins = protocol == IPPROTO_TCP && packet.begins_tcp();
        let forged = begins && !may_answer(&workload, &packet, interface);
        return if forged { drop_forged(&ctx, &workload) } else { PASS };
    }
    if protocol == IPPROTO_TCP {
        if packet.begins_tcp() {
            socket.flags |= SOCKET_INBOUND;
        }
    } else if !asked(socket, &packet) {
        learn_udp(sk, &workload, &packet);
    }
    PASS
}

#[inline(always)]
fn drop_forged(ctx: &SkBuffContext, workload: &Workload) -> i32 {
    bump!(workload, forged_dropped);
    debug!(ctx, "packet from outside that did not come by an uplink dropped");
    DROP
}

/// May the workload send to where this packet says it comes from, as to any destination?
///
/// Asked of a SYN that came by an interface which is no uplink: one that somebody made inside, perhaps to forge callers.
/// The mark of a listener stands for all that it accepts, so such a SYN may not profit from the mark that an honest
/// caller left. Where the answer is no, its SYN-ACK would have been refused without the mark; nothing honest is lost.
#[inline(always)]
fn may_answer(workload: &Workload, packet: &Packet, interface: u32) -> bool {
    let answer = Packet {
        source: packet.destination,
        destination: packet.source,
        source_port: packet.port,
        port: packet.source_port,
        ..*packet
    };
    judge(workload.slot, &answer, 0, interface).reason.allows() || is_audit(workload)
}

/// Is the datagram's sender the peer that this socket wrote to last, by the allowlist? Then the flow began inside.
#[inline(always)]
fn asked(socket: &SocketState, packet: &Packet) -> bool {
    socket.allowed_generation != 0
        && socket.allowed_protocol == IPPROTO_UDP
        && socket.allowed_port == packet.source_port
        && Address::from_bytes(socket.allowed) == packet.source
}

#[inline(always)]
fn learn_udp(sk: *mut c_void, workload: &Workload, packet: &Packet) {
    let Some(flows) = UDP_FLOWS.get_or_create(sk) else {
        bump!(workload, storage_failed);
        return;
    };
    // SAFETY: the storage lives as long as the socket, which the packet holds.
    let set = unsafe { &mut (*flows).sets[udp_flow_set(packet.source, packet.source_port)] };
    let now = boot_ns();
    let (mut victim, mut oldest) = (0, u64::MAX);
    for (way, flow) in set.iter_mut().enumerate() {
        // SAFETY: an aligned field of a live map value.
        let seen = unsafe { atomic::load(&raw const flow.seen) };
        if seen == UDP_FLOW_BUSY {
            continue;
        }
        if seen != 0
            && flow.peer_port == packet.source_port
            && flow.local_port == packet.port
            && Address::from_bytes(flow.peer) == packet.source
        {
            // SAFETY: see above. Should another processor have taken the place, this datagram is not learnt.
            unsafe { atomic::replace(&raw mut flow.seen, seen, now) };
            return;
        }
        if seen < oldest {
            (victim, oldest) = (way, seen);
        }
    }
    let flow = &mut set[bounded(victim, UDP_FLOW_WAYS)];
    // A place is claimed before it is written: two peers whose datagrams arrive at once must not mix.
    // SAFETY: see above.
    if oldest == UDP_FLOW_BUSY || !unsafe { atomic::replace(&raw mut flow.seen, oldest, UDP_FLOW_BUSY) } {
        bump!(workload, udp_flows_evicted);
        return;
    }
    flow.peer = packet.source.to_bytes();
    flow.peer_port = packet.source_port;
    flow.local_port = packet.port;
    // SAFETY: see above.
    unsafe { atomic::replace(&raw mut flow.seen, UDP_FLOW_BUSY, now) };
    if oldest != 0 && now.saturating_sub(oldest) < UDP_FLOW_NS {
        bump!(workload, udp_flows_evicted);
    }
}
