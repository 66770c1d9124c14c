//! The ruleset's words and the wall clock, as the verdict wants them.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;
use egress_warden_common::decide::{Clock, UNSYNCHRONISED};
use egress_warden_common::ruleset::{MAX_STEPS, NOT_FOUND, Narrow, Wide, Words};

use crate::dns::knows_names;
use crate::maps::{CLOCK, WORDS};

/// The array of all rulesets' words.
pub(crate) struct KernelWords;

impl Words for KernelWords {
    #[inline(always)]
    fn word(&self, index: u32) -> Option<u64> {
        WORDS.get(index).copied()
    }

    #[inline(always)]
    fn may_name(&self) -> bool {
        knows_names()
    }

    #[inline(always)]
    fn search_narrow(&self, search: Narrow) -> u32 {
        // SAFETY: on the program's stack.
        unsafe { run_narrow(&raw const search) }
    }

    #[inline(always)]
    fn search_wide(&self, search: Wide) -> u32 {
        // SAFETY: on the program's stack.
        unsafe { run_wide(&raw const search) }
    }
}

/// Steps in one round of `bpf_loop`: a round costs about as much as three of them.
const STEPS: u32 = 4;
const ROUNDS: u32 = MAX_STEPS.div_ceil(STEPS);

// Checked by the verifier once, by themselves: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn run_narrow(search: *const Narrow) -> u32 {
    // SAFETY: the verifier checked the size of what it points at.
    let Some(search) = (unsafe { search.as_ref() }) else { return NOT_FOUND };
    // On the stack of this very function, where `bpf_loop` wants it.
    let mut search = *search;
    // SAFETY: `narrow_steps` has the signature that `bpf_loop` calls, with the pointer given here.
    unsafe { bpf_loop(ROUNDS, narrow_steps as *mut c_void, (&raw mut search).cast(), 0) };
    search.found()
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn run_wide(search: *const Wide) -> u32 {
    // SAFETY: the verifier checked the size of what it points at.
    let Some(search) = (unsafe { search.as_ref() }) else { return NOT_FOUND };
    // On the stack of this very function, where `bpf_loop` wants it.
    let mut search = *search;
    // SAFETY: `wide_steps` has the signature that `bpf_loop` calls, with the pointer given here.
    unsafe { bpf_loop(ROUNDS, wide_steps as *mut c_void, (&raw mut search).cast(), 0) };
    search.found()
}

unsafe extern "C" fn narrow_steps(_: u64, search: *mut c_void) -> i64 {
    // SAFETY: `run_narrow` passes a `Narrow` that outlives the loop.
    let search = unsafe { &mut *search.cast::<Narrow>() };
    for _ in 0..STEPS {
        if search.step(&KernelWords) {
            return 1;
        }
    }
    0
}

unsafe extern "C" fn wide_steps(_: u64, search: *mut c_void) -> i64 {
    // SAFETY: `run_wide` passes a `Wide` that outlives the loop.
    let search = unsafe { &mut *search.cast::<Wide>() };
    for _ in 0..STEPS {
        if search.step(&KernelWords) {
            return 1;
        }
    }
    0
}

/// Boot time plus the offset that the agent tells.
pub(crate) struct KernelClock;

impl Clock for KernelClock {
    #[inline(always)]
    fn unix_seconds(&self) -> u64 {
        match CLOCK.get(0) {
            Some(clock) if clock.synchronised != 0 => {
                boot_ns().wrapping_add(clock.offset as u64) / 1_000_000_000
            }
            _ => UNSYNCHRONISED,
        }
    }
}

/// Boot time in nanoseconds: it goes on in suspend, and never jumps.
#[inline(always)]
pub(crate) fn boot_ns() -> u64 {
    // SAFETY: takes no argument.
    unsafe { bpf_ktime_get_boot_ns() }
}
