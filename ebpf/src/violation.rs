//! Counting: exact totals, refused destinations, the quarantine window, and a record for whoever watches.

use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;
use egress_warden_common::dns::Name;
use egress_warden_common::limits::{
    MAX_QUARANTINE_RULES, NAME_ROOM, RECORD_BURST, RECORD_INTERVAL_NS, WINDOW_PLACES,
};
use egress_warden_common::packet::Packet;
use egress_warden_common::reason::REASON_SLOTS;
use egress_warden_common::ruleset::Ruleset;
use egress_warden_common::state::{COMM_LEN, NamedRecord, Process, Record, RefusedKey, State};
use egress_warden_common::{Protocol, Verdict};

use crate::atomic;
use crate::dns::knows_names;
use crate::maps::{RECORDS, REFUSED};
use crate::rules::{KernelWords, boot_ns};
use crate::workload::{Workload, bounded, bump};

/// A refused attempt, or one that would have been, beside its packet. (Of a call there is a packet too, with what is known.)
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Attempt {
    pub(crate) verdict: Verdict,
    pub(crate) process: Process,
}

/// Of whom nothing is known.
pub(crate) const NO_PROCESS: Process = Process { pid: 0, tgid: 0, comm: [0; COMM_LEN] };

/// Counts a violation, and quarantines the workload there and then when it crosses a threshold.
#[inline(always)]
pub(crate) fn count(workload: &Workload, packet: &Packet, attempt: &Attempt, audit: bool) {
    // In registers and not in `attempt`: the stack of connect6 has no room left below Linux 6.12.
    let place = u64::from(workload.ruleset) << 32 | u64::from(workload.slot);
    let how = u64::from(workload.generation) << 32 | if audit { AUDIT } else { 0 };
    // SAFETY: both are on the program's stack.
    unsafe { count_violation(place, how, packet, attempt, core::ptr::null()) };
}

/// The same of a query, with the name that it asks for. `repeated`: it was refused before in this minute.
#[inline(always)]
pub(crate) fn count_named(
    workload: &Workload,
    packet: &Packet,
    attempt: &Attempt,
    audit: bool,
    name: &Name,
    repeated: bool,
) {
    let place = u64::from(workload.ruleset) << 32 | u64::from(workload.slot);
    let kind = if audit { AUDIT } else { 0 } | if repeated { REPEATED } else { 0 };
    // SAFETY: what is on the program's stack, and a name in a scratch.
    unsafe { count_violation(place, u64::from(workload.generation) << 32 | kind, packet, attempt, name) };
}

/// It is let through.
const AUDIT: u64 = 1;
/// It is a query for a name that was refused before in this minute, and does not bring the workload nearer to its quarantine:
/// applications ask again and again.
const REPEATED: u64 = 2;

// Checked by the verifier once, by itself: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn count_violation(
    place: u64,
    how: u64,
    packet: *const Packet,
    attempt: *const Attempt,
    name: *const Name,
) -> u32 {
    // SAFETY: the verifier checked the sizes of what they point at.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    // SAFETY: see above.
    let Some(attempt) = (unsafe { attempt.as_ref() }) else { return 0 };
    let Some(workload) = &Workload::at(place as u32) else { return 0 };
    let now = boot_ns();
    let reason = bounded(attempt.verdict.reason as usize, REASON_SLOTS);
    let protocol = bounded(Protocol::from_ip(packet.protocol) as usize, Protocol::ALL.len());
    bump!(workload, counts[reason][protocol]);
    count_destination(workload, packet, &attempt.verdict);
    let audit = how & AUDIT != 0;
    let crossed = how & REPEATED == 0 && window_crossed(workload, now, (place >> 32) as u32, audit);
    record(workload, how, packet, attempt, Moment { now, crossed }, name);
    0
}

#[inline(always)]
fn count_destination(workload: &Workload, packet: &Packet, verdict: &Verdict) {
    let key = RefusedKey {
        destination: packet.destination.to_bytes(),
        slot: workload.slot,
        rule: verdict.rule,
        port: packet.port,
        protocol: packet.protocol,
        reason: verdict.reason as u8,
        reserved: 0,
    };
    if count_known(&key) {
        return;
    }
    const NO_EXIST: u64 = 1;
    if REFUSED.insert(key, 1, NO_EXIST).is_ok() {
        return;
    }
    // Another processor was first, or the table is full: the latter is counted, never silent.
    if !count_known(&key) {
        bump!(workload, destinations_lost);
    }
}

#[inline(always)]
fn count_known(key: &RefusedKey) -> bool {
    let Some(counter) = REFUSED.get_ptr_mut(key) else { return false };
    // SAFETY: a live map value.
    unsafe { atomic::add(counter, 1) };
    true
}

// Lock-free: each violation takes a number and leaves its time at that place of a ring. Violation number n crosses
// "N within W" when violation n-N+1 is not older than W. Should the processor of that one not have left its time yet,
// then its own violation has not returned; when it has left it, it sees that N numbers were taken since. Of the two one
// sees the crossing, because taking a number and looking at the numbers taken are both full barriers.
//
// The ring holds twice the largest N: a place is overwritten only when 256 further violations were in flight.
#[inline(always)]
fn window_crossed(workload: &Workload, now: u64, ruleset: u32, audit: bool) -> bool {
    let state = workload.state;
    let number = bump!(workload, violations);
    // SAFETY: `state` points at a live map value.
    let (forgiven, taken) = unsafe {
        atomic::store(window_place(state, number), now);
        // An addition of nothing and not a load, which could overtake the store.
        (atomic::load(&raw const (*state).forgiven), atomic::add(&raw mut (*state).violations, 0))
    };
    let mut window = Window {
        state,
        now,
        count: number + 1,
        since: taken.wrapping_sub(number),
        forgiven,
        // That by which the attempt was judged, and not that of a swap since.
        ruleset,
        audit,
        crossed: false,
    };
    // SAFETY: `step` has the signature that `bpf_loop` calls, with the pointer given here.
    unsafe { bpf_loop(MAX_QUARANTINE_RULES as u32, step as *mut c_void, (&raw mut window).cast(), 0) };
    window.crossed
}

/// The window as the quarantine rules look at it, one a round.
struct Window {
    state: *mut State,
    now: u64,
    /// Violations up to this one, it included.
    count: u64,
    /// Violations from this one on, it included: more than one where others came before its time was written.
    since: u64,
    forgiven: u64,
    ruleset: u32,
    audit: bool,
    crossed: bool,
}

unsafe extern "C" fn step(index: u64, window: *mut c_void) -> i64 {
    // SAFETY: `window_crossed` passes a `Window` that outlives the loop.
    let window: &mut Window = unsafe { &mut *window.cast() };
    let ruleset = Ruleset::new(&KernelWords, window.ruleset);
    let Some((violations, within)) = ruleset.quarantine(index as u32) else { return 1 };
    let needed = u64::from(violations);
    let crosses = if window.since >= needed {
        boot_ns().saturating_sub(window.now) <= within
    } else if window.count.wrapping_sub(window.forgiven) >= needed {
        // SAFETY: `state` points at a live map value.
        let first = unsafe { atomic::load(window_place(window.state, window.count.wrapping_sub(needed))) };
        window.now.saturating_sub(first) <= within
    } else {
        false
    };
    if crosses && fire(window.state, index as u32, window.now, window.audit) {
        window.crossed = true;
    }
    0
}

/// # Safety
/// `state` points at a live map value.
#[inline(always)]
unsafe fn window_place(state: *mut State, number: u64) -> *mut u64 {
    let index = (number % WINDOW_PLACES as u64) as usize;
    // SAFETY: the caller's promise; the index is in bounds.
    unsafe { &raw mut (*state).window[index] }
}

/// Sets the state that egress reads. True for the one attempt that did it.
#[inline(always)]
fn fire(state: *mut State, rule: u32, now: u64, audit: bool) -> bool {
    // SAFETY: `state` points at a live map value.
    unsafe {
        let field =
            if audit { &raw mut (*state).would_quarantine_at } else { &raw mut (*state).quarantined_at };
        if !atomic::replace(field, 0, now) {
            return false;
        }
        (*state).quarantine_rule = u64::from(rule);
    }
    true
}

/// When it was, and whether it brought the workload into quarantine.
#[derive(Clone, Copy)]
struct Moment {
    now: u64,
    crossed: bool,
}

#[inline(always)]
fn record(
    workload: &Workload,
    how: u64,
    packet: &Packet,
    attempt: &Attempt,
    moment: Moment,
    name: *const Name,
) {
    let state = workload.state;
    // The record that tells of the quarantine is written even when the bucket is empty.
    if !(moment.crossed || take_token(state, moment.now)) {
        bump!(workload, records_lost);
        return;
    }
    // SAFETY: the verifier checked the size of what it points at.
    let name = if knows_names() { unsafe { name.as_ref() } } else { None };
    let written = match name {
        None => submit(|entry: *mut Record| {
            // SAFETY: `entry` points at reserved room.
            unsafe { entry.write(told(workload, how, packet, attempt, moment, 0)) };
        }),
        Some(name) => submit(|entry: *mut NamedRecord| {
            // SAFETY: see above. The name goes over word by word: on its way it has no place on the stack.
            unsafe {
                (&raw mut (*entry).record).write(told(workload, how, packet, attempt, moment, name.length));
                let (from, to) =
                    ((&raw const name.text).cast::<u64>(), (&raw mut (*entry).name).cast::<u64>());
                for index in 0..NAME_ROOM / 8 {
                    to.add(index).write_volatile(from.add(index).read_volatile());
                }
            }
        }),
    };
    if !written {
        bump!(workload, records_lost);
    }
}

#[inline(always)]
fn told(
    workload: &Workload,
    how: u64,
    packet: &Packet,
    attempt: &Attempt,
    moment: Moment,
    name_length: u32,
) -> Record {
    Record {
        time: moment.now,
        source: packet.source.to_bytes(),
        destination: packet.destination.to_bytes(),
        process: attempt.process,
        slot: workload.slot,
        generation: (how >> 32) as u32,
        rule: attempt.verdict.rule,
        source_port: packet.source_port,
        port: packet.port,
        protocol: packet.protocol,
        reason: attempt.verdict.reason as u8,
        audit: u8::from(how & AUDIT != 0),
        crossed: u8::from(moment.crossed),
        name_length,
    }
}

#[inline(always)]
fn submit<T: 'static>(fill: impl FnOnce(*mut T)) -> bool {
    let Some(mut entry) = RECORDS.reserve::<T>(0) else { return false };
    fill(entry.as_mut_ptr());
    entry.submit(0);
    true
}

// A token bucket in one number: the time at which it would be full again. Two processors that race may both take the
// last token; that is one record more, never one less.
#[inline(always)]
fn take_token(state: *mut State, now: u64) -> bool {
    // SAFETY: `state` points at a live map value.
    let (full_at, stored) = unsafe {
        let full_at = &raw mut (*state).record_full_at;
        (full_at, atomic::load(full_at))
    };
    let start = if stored > now { stored } else { now };
    let next = start + RECORD_INTERVAL_NS;
    if next > now + RECORD_BURST * RECORD_INTERVAL_NS {
        return false;
    }
    // SAFETY: see above.
    unsafe { atomic::store(full_at, next) };
    true
}
