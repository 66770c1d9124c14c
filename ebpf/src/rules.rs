//! The ruleset's words and the wall clock, as the verdict wants them.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;
use egress_warden_common::decide::{Clock, UNSYNCHRONISED};
use egress_warden_common::ruleset::{Search, Words};

use crate::maps::{CLOCK, WORDS};

/// The array of all rulesets' words.
pub(crate) struct KernelWords;

impl Words for KernelWords {
    #[inline(always)]
    fn word(&self, index: u32) -> Option<u64> {
        WORDS.get(index).copied()
    }

    #[inline(always)]
    fn run(&self, search: &mut Search) {
        // SAFETY: `step` is a function of the signature that `bpf_loop` calls, with the pointer given here.
        unsafe { bpf_loop(Search::MAX_STEPS, step as *mut c_void, core::ptr::from_mut(search).cast(), 0) };
    }
}

unsafe extern "C" fn step(_: u64, search: *mut c_void) -> i64 {
    // SAFETY: `run` passes a `Search` that outlives the loop.
    let search = unsafe { &mut *search.cast::<Search>() };
    i64::from(search.step(&KernelWords))
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
