//! Packets that lost their socket on the way: generic receive offload merges segments into one without, and what the
//! kernel answers for a connection in its first or last state has none to show.

use aya_ebpf::bindings::{
    __sk_buff, bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use aya_ebpf::helpers::generated::{bpf_sk_fullsock, bpf_sk_release, bpf_skc_lookup_tcp};
use egress_warden_common::packet::Packet;
use egress_warden_common::state::SOCKET_INBOUND;

use crate::memory::{allowed_before, stored};

const STATE_TIME_WAIT: u32 = 6;
const STATE_NEW_SYN_RECV: u32 = 12;

/// Does the connection that this packet belongs to by its addresses and ports, in the namespace behind the interface, have
/// a caller outside at its far end?
#[inline(always)]
pub(crate) fn belongs_to_caller(skb: *mut __sk_buff, packet: &Packet, namespace: i32) -> bool {
    // SAFETY: `skb` is the program's context and `packet` is on its stack.
    unsafe { connection_of(skb, packet, namespace) & CALLED != 0 }
}

/// Was the connection that this packet belongs to, by its addresses and ports, allowed toward this very destination?
#[inline(always)]
pub(crate) fn belongs_to_allowed(skb: *mut __sk_buff, packet: &Packet, namespace: i32) -> bool {
    // SAFETY: see above.
    unsafe { connection_of(skb, packet, namespace) & ALLOWED != 0 }
}

/// It has a caller outside.
const CALLED: u32 = 1;
/// It was allowed by its workload's ruleset, or by one before.
const ALLOWED: u32 = 2;

// Checked by the verifier once, by itself: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn connection_of(skb: *mut __sk_buff, packet: *const Packet, namespace: i32) -> u32 {
    // SAFETY: the verifier checked the size of what it points at.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    if namespace < 0 {
        return 0;
    }
    let (mut tuple, size) = tuple_of(packet);
    // SAFETY: the context, a tuple on the stack and its size.
    let found = unsafe { bpf_skc_lookup_tcp(skb.cast(), &raw mut tuple, size, namespace as u64, 0) };
    if found.is_null() {
        return 0;
    }
    // SAFETY: `found` is not null, and is given back below.
    unsafe {
        let state = (*found).state;
        let kind = if state == STATE_TIME_WAIT || state == STATE_NEW_SYN_RECV {
            CALLED
        } else {
            kind_of(found, packet)
        };
        bpf_sk_release(found.cast());
        kind
    }
}

#[inline(always)]
unsafe fn kind_of(found: *mut bpf_sock, packet: &Packet) -> u32 {
    // SAFETY: the caller's promise.
    let full: *mut bpf_sock = unsafe { bpf_sk_fullsock(found.cast()) };
    if full.is_null() {
        return 0;
    }
    // SAFETY: a field of a full socket. A listener is found for every far end; only a connection has one.
    if unsafe { u16::from_be((*full).dst_port) } != packet.port {
        return 0;
    }
    match stored(full.cast()) {
        Some(socket) => {
            let called = if socket.flags & SOCKET_INBOUND != 0 { CALLED } else { 0 };
            called | if allowed_before(socket, packet) { ALLOWED } else { 0 }
        }
        None => 0,
    }
}

/// As the far end would send: what it calls its source is the packet's destination.
#[inline(always)]
pub(crate) fn tuple_of(packet: &Packet) -> (bpf_sock_tuple, u32) {
    let (sport, dport) = (packet.port.to_be(), packet.source_port.to_be());
    let (far, near) = (packet.destination, packet.source);
    if let (Some(far), Some(near)) = (far.as_v4(), near.as_v4()) {
        let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: far.to_be(),
            daddr: near.to_be(),
            sport,
            dport,
        };
        let size = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32;
        return (bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv4 } }, size);
    }
    let words = |address: egress_warden_common::Address| {
        [
            ((address.high >> 32) as u32).to_be(),
            (address.high as u32).to_be(),
            ((address.low >> 32) as u32).to_be(),
            (address.low as u32).to_be(),
        ]
    };
    let ipv6 =
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr: words(far), daddr: words(near), sport, dport };
    let size = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>() as u32;
    (bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv6 } }, size)
}
