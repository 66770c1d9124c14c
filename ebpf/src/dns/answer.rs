//! An answer on its way to an application: what it names is opened before it can be read.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_loop};
use core::ffi::c_void;
use egress_warden_common::Address;
use egress_warden_common::decide::DNS_PORT;
use egress_warden_common::dns::{MAX_ADDRESSES, Problem};
use egress_warden_common::grant::{GrantKey, Granted, Rejection};
use egress_warden_common::limits::UNOPENED_NS;
use egress_warden_common::names::NO_CLASS;
use egress_warden_common::packet::{Bytes, Packet};
use egress_warden_common::ruleset::Ruleset;

use super::scratch::{Scratch, give_back, lend, lent_at, read_message, udp_offset, walk_answer};
use super::{grants, judges_names, pending};
use crate::rules::{KernelWords, boot_ns};
use crate::shared::{NO_LINK_HEADER, PacketBytes, on_node};
use crate::workload::{Workload, bounded, bump};

/// It is no answer of a resolver.
pub(crate) const OTHER: u32 = 0;
/// The application may read it.
pub(crate) const READ: u32 = 1;
/// It may not.
pub(crate) const DROPPED: u32 = 2;

/// How a packet came.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) on_loopback: bool,
    /// Through an uplink of the workload's own network namespace.
    pub(crate) by_uplink: bool,
}

/// Could it be an answer? Of most packets a short look tells.
#[inline(always)]
pub(crate) fn may_answer(skb: *mut __sk_buff) -> bool {
    let offset = udp_offset(skb, NO_LINK_HEADER);
    if offset == 0 {
        return false;
    }
    match PacketBytes::new(skb, NO_LINK_HEADER).load::<2>(offset) {
        Some(port) => u16::from_be_bytes(port) == DNS_PORT,
        None => false,
    }
}

/// Are answers over loopback believed? In the namespace of a node, or of the caller of `exec`, somebody outside has the
/// resolver's port. In a namespace of the workload's own root inside could be the resolver; what that asks itself is judged and
/// learnt from, so its answers need not be.
#[inline(always)]
pub(crate) fn believes_loopback(workload: &Workload) -> bool {
    !on_node() || workload.host_namespace()
}

/// Learns from an answer: [`OTHER`], [`READ`] or [`DROPPED`].
#[inline(always)]
pub(crate) fn learn(skb: *mut __sk_buff, workload: &Workload, packet: &Packet, way: Way) -> u32 {
    if packet.source_port != DNS_PORT || !judges_names(workload) {
        return OTHER;
    }
    if !workload.has_resolver(packet.source) {
        return OTHER;
    }
    if way.on_loopback && !believes_loopback(workload) {
        return OTHER;
    }
    let believed = way.on_loopback || way.by_uplink;
    let place = u64::from(workload.ruleset) << 32 | u64::from(workload.slot);
    // SAFETY: the program's context.
    let lent = unsafe { read_in_scratch(skb, place, u32::from(believed)) };
    let scratch = lent_at(lent);
    if scratch.is_null() {
        return reject(workload, Rejection::Quota as u32);
    }
    // SAFETY: a live map value that nobody else has.
    let (class, mut rejected) = unsafe { ((*scratch).class, (*scratch).rejected) };
    // SAFETY: see above.
    if rejected == ACCEPTED && unsafe { (*scratch).tells } != 0 {
        // SAFETY: takes numbers.
        if unsafe { make_known(place, lent) } != 0 {
            rejected = open(workload, class, scratch);
        } else if class != NO_CLASS {
            rejected = Rejection::Quota as u32;
        }
    }
    // SAFETY: lent above.
    unsafe { give_back(scratch) };
    if rejected == ACCEPTED { READ } else { reject(workload, rejected) }
}

/// Counts an answer that opens nothing. In audit it is read all the same.
#[inline(always)]
fn reject(workload: &Workload, rejected: u32) -> u32 {
    let reason = bounded(rejected as usize, Rejection::SLOTS);
    bump!(workload, dns.rejected[reason]);
    if workload.is_audit() { READ } else { DROPPED }
}

// Checked by the verifier once, by itself: see `shared`. The result is which scratch is lent, from 1, with the answer in it.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn read_in_scratch(skb: *mut __sk_buff, place: u64, believed: u32) -> u32 {
    let Some(workload) = Workload::at(place as u32) else { return 0 };
    let lent = lend();
    let scratch = lent_at(lent);
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: a live map value that nobody else has.
    let scratch = unsafe { &mut *scratch };
    scratch.tells = 0;
    scratch.rejected = read(skb, &workload, (place >> 32) as u32, believed != 0, scratch);
    lent
}

/// Stands for no [`Rejection`].
const ACCEPTED: u32 = u32::MAX;

/// Reads an answer. The result is [`ACCEPTED`], or the number of the [`Rejection`] of the whole.
#[inline(always)]
fn read(
    skb: *mut __sk_buff,
    workload: &Workload,
    ruleset: u32,
    believed: bool,
    scratch: &mut Scratch,
) -> u32 {
    // SAFETY: a field of the program's context.
    if unsafe { (*skb).gso_size } != 0 {
        return Rejection::Merged as u32;
    }
    if !read_message(skb, NO_LINK_HEADER, scratch) {
        return Rejection::TooLarge as u32;
    }
    walk_answer(scratch);
    let problem = scratch.answer.problem;
    if problem == Problem::TooLarge as u32 || problem == Problem::TooMany as u32 {
        return Rejection::TooLarge as u32;
    }
    if problem != 0 {
        return Rejection::Malformed as u32;
    }
    if !believed {
        return Rejection::Way as u32;
    }
    // SAFETY: the program's context.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    if !pending::take(workload, cookie, &scratch.answer) {
        // What names nothing opens nothing: the answer to a refused query is one that nobody asked a resolver for.
        return if scratch.answer.answers == 0 { ACCEPTED } else { Rejection::Unsolicited as u32 };
    }
    if scratch.answer.truncated != 0 {
        bump!(workload, dns.truncated);
    }
    let class = scratch.class_of_answer(workload, ruleset);
    scratch.class = class;
    // In audit, where the answer to every name passes, the record of what follows can say by which name it was found.
    let tells = scratch.answer.count != 0 && (class != NO_CLASS || workload.is_audit());
    scratch.tells = u64::from(tells);
    ACCEPTED
}

/// Addresses that are opened, one by one.
struct Opening {
    scratch: *mut Scratch,
    slot: u32,
    serial: u32,
    ruleset: u32,
    class: u32,
    generation: u32,
    rejected: u32,
    now: u64,
}

/// Opens the addresses. In the program itself, and not in a function of its own: what is called from here takes the rest of
/// the stack that Linux 6.1 has.
#[inline(always)]
fn open(workload: &Workload, class: u32, scratch: *mut Scratch) -> u32 {
    let (slot, serial) = (workload.slot, workload.binding.serial);
    let (ruleset, generation) = (workload.ruleset, workload.generation);
    let (now, rejected) = (boot_ns(), ACCEPTED);
    let mut opening = Opening { scratch, slot, serial, ruleset, class, generation, rejected, now };
    // SAFETY: a live map value, and `open_step` has the signature that `bpf_loop` calls, with the pointer given here.
    unsafe {
        let count = (*scratch).answer.count;
        bpf_loop(count, open_step as *mut c_void, (&raw mut opening).cast(), 0);
    }
    opening.rejected
}

// Checked by the verifier once, by itself: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn make_known(place: u64, lent: u32) -> u32 {
    let Some(workload) = Workload::at(place as u32) else { return 0 };
    let scratch = lent_at(lent);
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: a live map value that is lent to the caller.
    let scratch = unsafe { &mut *scratch };
    // No grant of an answer is longer than the longest of all, so its name is known for that long.
    let longest = if scratch.class == NO_CLASS {
        UNOPENED_NS
    } else {
        u64::from(Ruleset::new(&KernelWords, (place >> 32) as u32).life(u32::MAX)) * SECOND
    };
    u32::from(grants::name(&workload, scratch, longest))
}

const SECOND: u64 = 1_000_000_000;

unsafe extern "C" fn open_step(index: u64, opening: *mut c_void) -> i64 {
    // SAFETY: `open` passes an `Opening` that outlives the loop, as its scratch does.
    let opening = unsafe { &mut *opening.cast::<Opening>() };
    // SAFETY: see above.
    let scratch = unsafe { &mut *opening.scratch };
    let ruleset = Ruleset::new(&KernelWords, opening.ruleset);
    let found = scratch.answer.addresses[bounded(index as usize, MAX_ADDRESSES)];
    let mut granted = Granted {
        name: scratch.answer.name.hash,
        since: opening.now,
        until: opening.now + u64::from(ruleset.life(found.ttl)) * SECOND,
        class: opening.class,
        generation: opening.generation,
    };
    let key = GrantKey { address: found.address, slot: opening.slot, serial: opening.serial };
    if found.mapped == 0 && opening.class != NO_CLASS && grants::renew(&key, &granted) {
        return 0;
    }
    let Some(workload) = Workload::at(opening.slot) else { return 1 };
    if opening.class != NO_CLASS
        && (found.mapped != 0 || !ruleset.may_point(opening.class, Address::from_bytes(found.address)))
    {
        bump!(workload, dns.rejected[Rejection::Address as usize]);
        granted.class = NO_CLASS;
    }
    if granted.class == NO_CLASS {
        // In audit, records say by which name a destination was found. Whether there is room for that is nobody's harm.
        if found.mapped == 0 && workload.is_audit() {
            granted.until = opening.now + UNOPENED_NS;
            grants::add(&workload, &key, &granted, &mut scratch.grant);
        }
        return 0;
    }
    if grants::add(&workload, &key, &granted, &mut scratch.grant) {
        return 0;
    }
    opening.rejected = Rejection::Quota as u32;
    1
}
