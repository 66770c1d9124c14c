//! Flows that are older than the enforcement of their workload: some go on although their destination is not allowed
//! (`existing: keep`), some are about to be ended and may tell their far end (`cut`). The agent writes them down before it
//! attaches, each with its addresses, ports and socket; a packet that differs in any of them is judged like any other, and
//! so is a packet that begins a connection.
//!
//! `deny`, quarantine and what the policy says of loopback come first: asked is only of what no rule speaks of.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release,
};
use egress_warden_common::packet::Packet;
use egress_warden_common::reason::{IPPROTO_TCP, Reason};
use egress_warden_common::state::{Interface, KEPT_ENDS, KeptKey, SOCKET_CONNECTED, SocketState};

use crate::maps::KEPT;
use crate::shared::on_node;
use crate::tuple::tuple_of;
use crate::workload::Workload;

/// Stands for the socket of a packet that has none any more. No socket's number is 0.
const ANY_SOCKET: u64 = 0;

/// What becomes of a packet of a flow that is older than the enforcement.
#[repr(u32)]
pub(crate) enum Kept {
    /// It is judged.
    No = 0,
    /// It passes.
    GoesOn = 1,
    /// Its connection is about to be ended: it does not pass, and is no violation.
    Ends = 2,
}

impl Kept {
    #[inline(always)]
    fn from_number(number: u32) -> Self {
        match number {
            1 => Self::GoesOn,
            2 => Self::Ends,
            _ => Self::No,
        }
    }
}

/// The socket was connected since: what it was before does not count any more, be it with the same far end.
#[inline(always)]
pub(crate) fn chose_anew(socket: Option<&mut SocketState>) {
    if let Some(socket) = socket {
        socket.flags |= SOCKET_CONNECTED;
    }
}

/// Is the refused packet one of a kept flow? Where packets leave their socket.
#[inline(always)]
pub(crate) fn kept_by_socket(
    skb: *mut __sk_buff,
    workload: &Workload,
    socket: Option<&SocketState>,
    packet: &Packet,
    reason: Reason,
) -> Kept {
    if !on_node() || !is_open_question(reason) {
        return Kept::No;
    }
    if let Some(socket) = socket
        && socket.flags & SOCKET_CONNECTED != 0
    {
        return Kept::No;
    }
    // SAFETY: the program's context; `packet` is on its stack.
    let found = unsafe { find_kept(packet, workload.slot, bpf_get_socket_cookie(skb.cast())) };
    Kept::from_number(found)
}

/// Is the refused packet one of a kept flow? On the wire, where it may have lost its socket; then there must at least be a
/// connection that it belongs to.
#[inline(always)]
pub(crate) fn kept_on_wire(
    skb: *mut __sk_buff,
    interface: *const Interface,
    workload: &Workload,
    is_known: bool,
    packet: &Packet,
    reason: Reason,
) -> bool {
    let whose = if is_known { workload.slot + 1 } else { 0 };
    // SAFETY: the program's context, a live map value, and a packet on the program's stack.
    is_open_question(reason) && unsafe { goes_on(skb, interface, packet, whose) != 0 }
}

/// Is it refused because no entry covers it, and not because something speaks against it?
#[inline(always)]
fn is_open_question(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NotAllowlisted | Reason::PortNotAllowed | Reason::ProtocolNotAllowed | Reason::Expired
    )
}

// Checked by the verifier once, by itself: see `shared`. The result is a `Kept`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn find_kept(packet: *const Packet, slot: u32, cookie: u64) -> u32 {
    // SAFETY: the verifier checked the size of what it points at.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    if packet.begins_tcp() {
        return 0;
    }
    let key = KeptKey {
        local: packet.source.to_bytes(),
        remote: packet.destination.to_bytes(),
        slot,
        local_port: packet.source_port,
        remote_port: packet.port,
        protocol: packet.protocol,
        reserved: [0; 7],
    };
    // SAFETY: the value is written once, before its workload's programs are attached.
    let Some(kept) = (unsafe { KEPT.get(key) }) else { return 0 };
    if cookie != ANY_SOCKET && cookie != kept.cookie {
        return 0;
    }
    if kept.how == KEPT_ENDS && !packet.is_bare_reset() { 2 } else { 1 }
}

// Checked by the verifier once, by itself: see `shared`. It also keeps what it needs off the stack of a program that has
// hardly any left.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn goes_on(
    skb: *mut __sk_buff,
    interface: *const Interface,
    packet: *const Packet,
    whose: u32,
) -> u32 {
    // SAFETY: the verifier checked the sizes of what they point at.
    let (Some(interface), Some(packet)) = (unsafe { interface.as_ref() }, unsafe { packet.as_ref() }) else {
        return 0;
    };
    if whose != 0 {
        // SAFETY: the program's context; `packet` is what the caller gave.
        return u32::from(unsafe { find_kept(packet, whose - 1, bpf_get_socket_cookie(skb.cast())) } == 1);
    }
    for slot in &interface.slots {
        // SAFETY: `packet` is what the caller gave.
        if *slot != 0 && unsafe { find_kept(packet, *slot - 1, ANY_SOCKET) } == 1 {
            // A reset is the last of its connection, which may be gone by now.
            return if packet.is_bare_reset() {
                1
            } else {
                // SAFETY: the program's context; `packet` is what the caller gave.
                unsafe { has_connection(skb, packet, interface.namespace) }
            };
        }
    }
    0
}

// Checked by the verifier once, by itself: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn has_connection(skb: *mut __sk_buff, packet: *const Packet, namespace: i32) -> u32 {
    // SAFETY: the verifier checked the size of what it points at.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    if namespace < 0 {
        return 0;
    }
    let (mut tuple, size) = tuple_of(packet);
    // SAFETY: the context, a tuple on the stack and its size.
    let found = unsafe {
        if packet.protocol == IPPROTO_TCP {
            bpf_sk_lookup_tcp(skb.cast(), &raw mut tuple, size, namespace as u64, 0)
        } else {
            bpf_sk_lookup_udp(skb.cast(), &raw mut tuple, size, namespace as u64, 0)
        }
    };
    if found.is_null() {
        return 0;
    }
    // SAFETY: `found` is not null, and is given back. A listener, or a socket that is not connected, is found for every far
    // end; only a connection has one.
    unsafe {
        let connected = u16::from_be((*found).dst_port) == packet.port;
        bpf_sk_release(found.cast());
        u32::from(connected)
    }
}
