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
use egress_warden_common::state::{SOCKET_INBOUND, SocketState, UdpFlow, udp_flow_set};

use crate::egress::full_socket;
use crate::maps::{SOCKETS, UDP_FLOWS};
use crate::rules::boot_ns;
use crate::shared::{LOOPBACK_INTERFACE, NO_PACKET, forged, walk};
use crate::workload::{Workload, bump, in_own_namespace};

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
        if !forged(&workload, own_namespace, &packet) {
            return PASS;
        }
        bump!(workload, forged_dropped);
        debug!(&ctx, "packet with a foreign source dropped on loopback");
        return DROP;
    }
    if !own_namespace || !workload.has_uplink(interface) {
        return PASS;
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
        if flow.seen != 0
            && flow.peer_port == packet.source_port
            && flow.local_port == packet.port
            && Address::from_bytes(flow.peer) == packet.source
        {
            flow.seen = now;
            return;
        }
        if flow.seen < oldest {
            (victim, oldest) = (way, flow.seen);
        }
    }
    if now.saturating_sub(oldest) < UDP_FLOW_NS && oldest != 0 {
        bump!(workload, udp_flows_evicted);
    }
    set[victim % UDP_FLOW_WAYS] = UdpFlow {
        peer: packet.source.to_bytes(),
        seen: now,
        peer_port: packet.source_port,
        local_port: packet.port,
        reserved: 0,
    };
}
