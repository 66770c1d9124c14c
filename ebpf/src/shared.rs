//! Functions that the verifier checks once for each program, by themselves, instead of along every path that leads to
//! them. What they write through a pointer is unknown to the caller's paths, which therefore meet again behind the
//! call: together this took the verified instructions of all programs from 400,000 down to a budget that a test holds.
//! Pointers come from the caller's stack; the verifier makes each function check them for null all the same.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::{bpf_sk_fullsock, bpf_skb_load_bytes};
use core::ffi::c_void;
use core::mem::MaybeUninit;
use egress_warden_common::packet::{Bytes, Packet, outline, parse};
use egress_warden_common::reason::{IPPROTO_TCP, IPPROTO_UDP};
use egress_warden_common::ruleset::{FOREVER, NO_RULE, Ruleset};
use egress_warden_common::state::SOCKET_INBOUND;
use egress_warden_common::{Address, Facts, Reason, Route, Verdict, decide};

use crate::backends::judge_service;
use crate::dns::by_grant;
use crate::rules::{KernelClock, KernelWords};
use crate::workload::{Workload, in_own_namespace, is_node};

/// 1 in the programs of a node's agent, 0 in those of one command. A constant to the verifier, so that a command does not wait
/// until it has walked through what has no meaning there: flows from before, load balancers above.
#[unsafe(no_mangle)]
static ON_NODE: u32 = 0;

/// Do these programs belong to a node's agent?
#[inline(always)]
pub(crate) fn on_node() -> bool {
    // SAFETY: a live constant. The loader sets it, so the compiler must not take it for what stands here.
    unsafe { core::ptr::read_volatile(&raw const ON_NODE) != 0 }
}

/// The packet's bytes from the IP header on.
pub(crate) struct PacketBytes {
    skb: *mut __sk_buff,
    /// Bytes in front of it: none where a cgroup's programs look, the link's header on the way through an interface.
    base: u32,
}

impl PacketBytes {
    #[inline(always)]
    pub(crate) fn new(skb: *mut __sk_buff, base: u32) -> Self {
        Self { skb, base }
    }
}

/// What stands at a multiple of its size in a header is read out of this in one piece. From bytes anywhere it would be read
/// one by one, and the stack of Linux 6.1 has no room for them.
#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);

impl Bytes for PacketBytes {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut loaded = MaybeUninit::<Aligned<N>>::uninit();
        let (skb, offset) = (self.skb.cast(), self.base.wrapping_add(offset));
        // SAFETY: the program's context, and as many bytes as there is room for.
        let result = unsafe { bpf_skb_load_bytes(skb, offset, loaded.as_mut_ptr().cast(), N as u32) };
        // SAFETY: all bytes were written, unless it failed.
        if result == 0 { Some(unsafe { loaded.assume_init() }.0) } else { None }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: a field of the program's context.
        unsafe { (*self.skb).len }.saturating_sub(self.base)
    }
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

/// Where a cgroup's programs look, a packet begins with its IP header.
pub(crate) const NO_LINK_HEADER: u32 = 0;

/// A packet of which nothing is known.
pub(crate) const NO_PACKET: Packet = Packet {
    source: Address { high: 0, low: 0 },
    destination: Address { high: 0, low: 0 },
    protocol: u8::MAX,
    tcp_flags: 0,
    fragment: 0,
    bare: 0,
    source_port: 0,
    port: 0,
};

/// Walks the packet's headers behind `base` bytes. The result allows, or is the reason to refuse the packet; then
/// `packet`, which has to be [`NO_PACKET`] before, holds at most what the fixed header says.
#[inline(always)]
pub(crate) fn walk(skb: *mut __sk_buff, base: u32, packet: &mut Packet) -> Reason {
    // SAFETY: `skb` is the program's context and `packet` is on its stack.
    let reason = unsafe { walk_packet(skb, base, packet) };
    if reason == 0 { Reason::Allowed } else { refusal(reason) }
}

#[inline(always)]
fn refusal(number: u32) -> Reason {
    Reason::from_number(number as u8).unwrap_or(Reason::Malformed)
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn walk_packet(skb: *mut __sk_buff, base: u32, packet: *mut Packet) -> u32 {
    // SAFETY: the verifier checked the size of what it points at.
    let Some(packet) = (unsafe { packet.as_mut() }) else { return Reason::Malformed as u32 };
    let bytes = PacketBytes::new(skb, base);
    match parse(&bytes) {
        Ok(found) => {
            *packet = found;
            0
        }
        Err(reason) => {
            // Not the whole: to clear the rest, of which nothing is known, would be a call and 32 bytes of stack more.
            if let Some(Packet { source, destination, protocol, .. }) = outline(&bytes) {
                (packet.source, packet.destination, packet.protocol) = (source, destination, protocol);
            }
            reason as u32
        }
    }
}

/// Is this a TCP socket that waits for callers?
#[inline(always)]
pub(crate) fn is_listening(sk: *mut c_void) -> bool {
    if sk.is_null() {
        return false;
    }
    let full: *const bpf_sock = sk.cast();
    // SAFETY: a field of a full socket.
    unsafe { (*full).state == STATE_LISTEN }
}

const STATE_LISTEN: u32 = 10;

/// Index of the loopback interface, in every network namespace.
pub(crate) const LOOPBACK_INTERFACE: u32 = 1;
/// Stands for the interface of a packet that does not exist yet: the way is told from the destination.
pub(crate) const UNSENT: u32 = 0;
/// Beside the flags of a socket: this datagram answers an inbound one.
pub(crate) const UDP_REPLY: u32 = 1 << 31;
/// Beside the flags of a socket: this segment belongs to a connection that was allowed, by this ruleset or one before.
pub(crate) const LIVES: u32 = 1 << 29;

/// Asks [`decide`] about a packet of the workload, leaving by `interface` from a socket with these flags; and about the
/// service that its destination stands for.
#[inline(always)]
pub(crate) fn judge(workload: &Workload, packet: &Packet, socket_flags: u32, interface: u32) -> Verdict {
    let mut verdict = judge_itself(workload, packet, socket_flags, interface);
    judge_service(workload, packet, core::ptr::null_mut(), interface, &mut verdict);
    verdict
}

/// Asks [`decide`] about the packet's own destination only.
#[inline(always)]
pub(crate) fn judge_itself(
    workload: &Workload,
    packet: &Packet,
    socket_flags: u32,
    interface: u32,
) -> Verdict {
    let mut verdict = refused(Reason::NoRuleset);
    // Slot and ruleset in one: five arguments is all that a function may have.
    let place = u64::from(workload.ruleset) << 32 | u64::from(workload.slot);
    // SAFETY: both are on the program's stack.
    unsafe { judge_packet(place, packet, socket_flags, interface, &raw mut verdict) };
    by_grant(workload, packet, (interface, socket_flags), &mut verdict);
    verdict
}

/// A refusal that no rule is behind.
#[inline(always)]
pub(crate) const fn refused(reason: Reason) -> Verdict {
    Verdict { reason, rule: NO_RULE, until: FOREVER }
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn judge_packet(
    place: u64,
    packet: *const Packet,
    socket_flags: u32,
    interface: u32,
    verdict: *mut Verdict,
) -> u32 {
    // SAFETY: the verifier checked the sizes of what they point at.
    let (Some(packet), Some(verdict)) = (unsafe { packet.as_ref() }, unsafe { verdict.as_mut() }) else {
        return 0;
    };
    let Some(workload) = Workload::at(place as u32) else {
        *verdict = refused(Reason::Unclassified);
        return 0;
    };
    let own_namespace = in_own_namespace(socket_flags);
    let on_loopback = if interface == UNSENT {
        reaches_itself(&workload, own_namespace, packet.destination)
    } else {
        interface == LOOPBACK_INTERFACE
    };
    if on_loopback && interface != UNSENT && forged(&workload, own_namespace, packet) {
        *verdict = refused(Reason::SourceSpoofed);
        return 0;
    }
    let (reply, quarantined) = (is_reply(packet, socket_flags), workload.quarantined());
    let facts = Facts {
        destination: packet.destination,
        protocol: packet.protocol,
        port: packet.port,
        route: if on_loopback { Route::Loopback } else { Route::Uplink },
        host_namespace: workload.host_namespace(),
        reply,
        to_node: reply && quarantined && is_node(packet.destination),
        quarantined,
        own_resolver: workload.asks(packet.destination, packet.port),
    };
    *verdict = decide(&Ruleset::new(&KernelWords, (place >> 32) as u32), &KernelClock, &facts);
    0
}

#[inline(always)]
fn reaches_itself(workload: &Workload, own_namespace: bool, destination: Address) -> bool {
    destination.is_loopback() || destination.is_unspecified() || (own_namespace && workload.owns(destination))
}

/// Does this packet answer a flow that began outside?
#[inline(always)]
pub(crate) fn is_reply(packet: &Packet, socket_flags: u32) -> bool {
    match packet.protocol {
        IPPROTO_TCP => socket_flags & SOCKET_INBOUND != 0 && !packet.begins_tcp(),
        IPPROTO_UDP => socket_flags & UDP_REPLY != 0,
        _ => false,
    }
}

/// A raw socket can send itself, over loopback, a packet "from outside" and so make an inbound flow out of nothing.
/// On loopback a source is a loopback address, the destination itself, or another own address.
#[inline(always)]
pub(crate) fn forged(workload: &Workload, own_namespace: bool, packet: &Packet) -> bool {
    !packet.source.is_loopback()
        && packet.source != packet.destination
        && !(own_namespace && workload.owns(packet.source))
}
