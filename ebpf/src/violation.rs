//! Counting: exact totals, refused destinations, the quarantine window, and a record for whoever watches.

use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;
use egress_warden_common::limits::{MAX_QUARANTINE_RULES, RECORD_BURST, RECORD_INTERVAL_NS, WINDOW_PLACES};
use egress_warden_common::reason::REASON_SLOTS;
use egress_warden_common::ruleset::Ruleset;
use egress_warden_common::state::{Process, Record, RefusedKey, State};
use egress_warden_common::{Address, Protocol, Verdict};

use crate::atomic;
use crate::maps::{RECORDS, REFUSED};
use crate::rules::{KernelWords, boot_ns};
use crate::workload::{Workload, bounded, bump};

/// One refused attempt, or one that would have been.
#[repr(C)]
pub(crate) struct Attempt {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) process: Process,
    pub(crate) verdict: Verdict,
    pub(crate) source_port: u16,
    pub(crate) port: u16,
    pub(crate) protocol: u8,
    pub(crate) audit: bool,
}

const NO_ADDRESS: Address = Address { high: 0, low: 0 };

impl Attempt {
    /// One whose source is not chosen yet.
    #[inline(always)]
    pub(crate) fn unsent(
        destination: Address,
        protocol: u8,
        port: u16,
        verdict: Verdict,
        process: Process,
    ) -> Self {
        Self {
            source: NO_ADDRESS,
            destination,
            process,
            verdict,
            source_port: 0,
            port,
            protocol,
            audit: false,
        }
    }
}

/// Counts a violation, and quarantines the workload there and then when it crosses a threshold.
#[inline(always)]
pub(crate) fn count(workload: &Workload, attempt: &Attempt) {
    // In registers and not in `attempt`: the stack of connect6 has no room left below Linux 6.12.
    let place = u64::from(workload.ruleset) << 32 | u64::from(workload.slot);
    // SAFETY: `attempt` is on the program's stack.
    unsafe { count_violation(place, workload.generation, attempt) };
}

// Checked by the verifier once, by itself: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn count_violation(place: u64, generation: u32, attempt: *const Attempt) -> u32 {
    // SAFETY: the verifier checked the size of what it points at.
    let Some(attempt) = (unsafe { attempt.as_ref() }) else { return 0 };
    let Some(workload) = &Workload::at(place as u32) else { return 0 };
    let now = boot_ns();
    let reason = bounded(attempt.verdict.reason as usize, REASON_SLOTS);
    let protocol = bounded(Protocol::from_ip(attempt.protocol) as usize, Protocol::ALL.len());
    bump!(workload, counts[reason][protocol]);
    count_destination(workload, attempt);
    let crossed = window_crossed(workload, now, (place >> 32) as u32, attempt.audit);
    record(workload, generation, attempt, now, crossed);
    0
}

#[inline(always)]
fn count_destination(workload: &Workload, attempt: &Attempt) {
    let key = RefusedKey {
        destination: attempt.destination.to_bytes(),
        slot: workload.slot,
        rule: attempt.verdict.rule,
        port: attempt.port,
        protocol: attempt.protocol,
        reason: attempt.verdict.reason as u8,
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

#[inline(always)]
fn record(workload: &Workload, generation: u32, attempt: &Attempt, now: u64, crossed: bool) {
    let state = workload.state;
    // The record that tells of the quarantine is written even when the bucket is empty.
    if !(crossed || take_token(state, now)) {
        bump!(workload, records_lost);
        return;
    }
    let Some(mut entry) = RECORDS.reserve::<Record>(0) else {
        bump!(workload, records_lost);
        return;
    };
    entry.write(Record {
        time: now,
        source: attempt.source.to_bytes(),
        destination: attempt.destination.to_bytes(),
        process: attempt.process,
        slot: workload.slot,
        generation,
        rule: attempt.verdict.rule,
        source_port: attempt.source_port,
        port: attempt.port,
        protocol: attempt.protocol,
        reason: attempt.verdict.reason as u8,
        audit: u8::from(attempt.audit),
        crossed: u8::from(crossed),
        reserved: 0,
    });
    entry.submit(0);
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
