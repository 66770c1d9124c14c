//! What is remembered with a socket: the destination last allowed, the one last counted, and the inbound UDP flows.

use core::ffi::c_void;
use egress_warden_common::decide::Clock;
use egress_warden_common::limits::UDP_FLOW_WAYS;
use egress_warden_common::packet::Packet;
use egress_warden_common::reason::IPPROTO_UDP;
use egress_warden_common::ruleset::FOREVER;
use egress_warden_common::state::{
    Approved, COUNTED_DATAGRAM, COUNTED_FLOW, SocketState, UDP_FLOW_BUSY, UdpFlows, WAY_UPLINK,
    udp_flow_is_open, udp_flow_set,
};
use egress_warden_common::{Address, Protocol, Verdict};

use crate::atomic;
use crate::maps::{SOCKETS, UDP_FLOWS};
use crate::rules::{KernelClock, boot_ns};
use crate::workload::{Workload, bounded, bump};

#[inline(always)]
pub(crate) fn stored(sk: *mut c_void) -> Option<&'static mut SocketState> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: the storage lives as long as the socket, which the packet holds.
    SOCKETS.get(sk).map(|socket| unsafe { &mut *socket })
}

/// Was this destination allowed to this socket before, on this way and by the ruleset that is still in force?
#[inline(always)]
pub(crate) fn remembered(workload: &Workload, socket: &mut SocketState, packet: &Packet, way: u8) -> bool {
    let whose = u64::from(workload.binding.serial) << 32 | u64::from(workload.slot);
    // SAFETY: the socket's storage, and a packet on the program's stack.
    unsafe { fits_approved(socket, packet, workload.generation, whose, way.into()) != 0 }
}

/// Was it allowed by this workload's ruleset, or by one that it had before?
#[inline(always)]
pub(crate) fn remembered_from_before(
    workload: &Workload,
    socket: &mut SocketState,
    packet: &Packet,
    way: u8,
) -> bool {
    let whose = u64::from(workload.binding.serial) << 32 | u64::from(workload.slot);
    // SAFETY: the socket's storage, and a packet on the program's stack.
    unsafe { fits_approved(socket, packet, ANY_GENERATION, whose, way.into()) != 0 }
}

/// The same of a socket by itself: its own workload allowed it.
#[inline(always)]
pub(crate) fn allowed_before(socket: &mut SocketState, packet: &Packet) -> bool {
    let whose = u64::from(socket.serial) << 32 | u64::from(socket.slot.wrapping_sub(1));
    // SAFETY: see above.
    unsafe { fits_approved(socket, packet, ANY_GENERATION, whose, WAY_UPLINK.into()) != 0 }
}

/// No ruleset has this number.
const ANY_GENERATION: u32 = 0;

// Checked by the verifier once, by itself: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn fits_approved(
    socket: *mut SocketState,
    packet: *const Packet,
    generation: u32,
    whose: u64,
    way: u32,
) -> u32 {
    // SAFETY: the verifier checked the sizes of what they point at.
    let (Some(socket), Some(packet)) = (unsafe { socket.as_mut() }, unsafe { packet.as_ref() }) else {
        return 0;
    };
    let fits = |approved: &Approved| {
        (approved.generation == generation || generation == ANY_GENERATION)
            && u64::from(approved.serial) << 32 | u64::from(approved.slot) == whose
            && approved.port == packet.port
            && approved.protocol == packet.protocol
            && u32::from(approved.way) == way
            && Address::from_bytes(approved.destination) == packet.destination
            && (approved.until == FOREVER || KernelClock.unix_seconds() < approved.until)
    };
    u32::from(matches!(look(socket, fits), Some(true)))
}

/// What `fits` says of the verdict that stands with a socket; `None` where another processor wrote it meanwhile.
#[inline(always)]
fn look(socket: &mut SocketState, fits: impl FnOnce(&Approved) -> bool) -> Option<bool> {
    let approved = &raw mut socket.approved;
    let turn = turn_of(approved);
    if is_being_written(turn) {
        return None;
    }
    // SAFETY: the socket's storage. What is read counts only if nobody wrote meanwhile.
    let fits = fits(unsafe { &*approved });
    if turn_of(approved) == turn { Some(fits) } else { None }
}

#[inline(always)]
const fn is_being_written(turn: u64) -> bool {
    turn & 1 != 0
}

/// An addition of nothing, because it is a barrier as well: what stands before it is read before, what stands behind it
/// after.
#[inline(always)]
fn turn_of(approved: *mut Approved) -> u64 {
    // SAFETY: an aligned field of the socket's storage.
    unsafe { atomic::add(&raw mut (*approved).turn, 0) }
}

/// Remembers that this destination is allowed, and counts the flow if it is a new one. Where another processor is at it,
/// that one's destination is kept.
#[inline(always)]
pub(crate) fn remember(
    workload: &Workload,
    socket: Option<&mut SocketState>,
    packet: &Packet,
    verdict: &Verdict,
    way: u8,
) {
    if let Some(socket) = socket {
        if remembered(workload, socket, packet, way) {
            return;
        }
        let approved = &raw mut socket.approved;
        let turn = turn_of(approved);
        // SAFETY: an aligned field of the socket's storage.
        if !is_being_written(turn) && unsafe { atomic::replace(&raw mut (*approved).turn, turn, turn + 1) } {
            let approved = &mut socket.approved;
            approved.destination = packet.destination.to_bytes();
            approved.until = verdict.until;
            approved.generation = workload.generation;
            approved.serial = workload.binding.serial;
            approved.slot = workload.slot;
            approved.port = packet.port;
            approved.protocol = packet.protocol;
            approved.way = way;
            // SAFETY: see above.
            unsafe { atomic::add(&raw mut approved.turn, 1) };
        }
    }
    let protocol = bounded(Protocol::from_ip(packet.protocol) as usize, Protocol::ALL.len());
    bump!(workload, allowed[protocol]);
}

/// Notes the destination for which this socket was counted, and how: [`COUNTED_FLOW`] or [`COUNTED_DATAGRAM`].
#[inline(always)]
pub(crate) fn remember_counted(
    socket: &mut SocketState,
    destination: Address,
    protocol: u8,
    port: u16,
    how: u8,
) {
    socket.counted = destination.to_bytes();
    socket.counted_port = port;
    socket.counted_protocol = protocol;
    socket.counted_valid = how;
}

#[inline(always)]
pub(crate) fn already_counted(socket: &SocketState, packet: &Packet) -> bool {
    socket.counted_valid == COUNTED_FLOW && same_counted(socket, packet)
}

/// Is this the datagram that sendmsg refused and counted, sent all the same because an ancestor's program undid that?
#[inline(always)]
pub(crate) fn datagram_counted(socket: &mut SocketState, packet: &Packet) -> bool {
    let counted = socket.counted_valid == COUNTED_DATAGRAM && same_counted(socket, packet);
    socket.counted_valid = 0;
    counted
}

/// The next datagram is another one than sendmsg counted.
#[inline(always)]
pub(crate) fn forget_datagram(socket: &mut SocketState) {
    if socket.counted_valid == COUNTED_DATAGRAM {
        socket.counted_valid = 0;
    }
}

#[inline(always)]
fn same_counted(socket: &SocketState, packet: &Packet) -> bool {
    socket.counted_port == packet.port
        && socket.counted_protocol == packet.protocol
        && Address::from_bytes(socket.counted) == packet.destination
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
    unsafe { find_flow(flows, peer.high, peer.low, u32::from(peer_port), u32::from(local_port)) != 0 }
}

// Checked by the verifier once, by itself: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn find_flow(
    flows: *mut UdpFlows,
    high: u64,
    low: u64,
    peer_port: u32,
    local_port: u32,
) -> u32 {
    // SAFETY: the verifier checked the size of what it points at.
    let Some(flows) = (unsafe { flows.as_mut() }) else { return 0 };
    let peer = Address { high, low };
    let now = boot_ns();
    for flow in &mut flows.sets[udp_flow_set(peer, peer_port as u16)] {
        // SAFETY: an aligned field of a live map value.
        let seen = unsafe { atomic::load(&raw const flow.seen) };
        if udp_flow_is_open(seen, now)
            && u32::from(flow.peer_port) == peer_port
            && (local_port == u32::from(ANY_PORT) || local_port == u32::from(flow.local_port))
            && Address::from_bytes(flow.peer) == peer
        {
            // Given to another peer meanwhile, it would be half the one and half the other. (A datagram that arrives at
            // this very moment looks alike; its answer is lost, as it may be on any way.)
            // SAFETY: see above. An addition of nothing, which no other access overtakes.
            return u32::from(unsafe { atomic::add(&raw mut flow.seen, 0) } == seen);
        }
    }
    0
}

/// Is the datagram's sender the peer that this socket wrote to last, by the allowlist of then? Then the flow began inside.
/// Where it cannot be told, it may have.
#[inline(always)]
pub(crate) fn asked(socket: &mut SocketState, packet: &Packet) -> bool {
    let asked = look(socket, |approved| {
        approved.generation != 0
            && approved.protocol == IPPROTO_UDP
            && approved.port == packet.source_port
            && Address::from_bytes(approved.destination) == packet.source
    });
    !matches!(asked, Some(false))
}

/// Notes the flow that this datagram begins or goes on with.
#[inline(always)]
pub(crate) fn learn_udp(sk: *mut c_void, workload: &Workload, packet: &Packet) {
    let Some(flows) = UDP_FLOWS.get_or_create(sk) else {
        bump!(workload, storage_failed);
        return;
    };
    // SAFETY: the storage lives as long as the socket, which the packet holds; `packet` is on the program's stack.
    if unsafe { learn_flow(flows, packet) } != 0 {
        bump!(workload, udp_flows_evicted);
    }
}

// Checked by the verifier once, by itself: see `shared`. The result is 1 when a flow lost its place, or found none.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn learn_flow(flows: *mut UdpFlows, packet: *const Packet) -> u32 {
    // SAFETY: the verifier checked the sizes of what they point at.
    let (Some(flows), Some(packet)) = (unsafe { flows.as_mut() }, unsafe { packet.as_ref() }) else {
        return 0;
    };
    let set = &mut flows.sets[udp_flow_set(packet.source, packet.source_port)];
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
            return 0;
        }
        if seen < oldest {
            (victim, oldest) = (way, seen);
        }
    }
    let flow = &mut set[bounded(victim, UDP_FLOW_WAYS)];
    // A place is claimed before it is written: two peers whose datagrams arrive at once must not mix.
    // SAFETY: see above.
    if oldest == UDP_FLOW_BUSY || !unsafe { atomic::replace(&raw mut flow.seen, oldest, UDP_FLOW_BUSY) } {
        return 1;
    }
    flow.peer = packet.source.to_bytes();
    flow.peer_port = packet.source_port;
    flow.local_port = packet.port;
    // SAFETY: see above.
    unsafe { atomic::replace(&raw mut flow.seen, UDP_FLOW_BUSY, now) };
    u32::from(udp_flow_is_open(oldest, now))
}
