//! The ruleset's words and the wall clock, as the verdict wants them.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use egress_warden_common::Address;
use egress_warden_common::decide::{Clock, UNSYNCHRONISED};
use egress_warden_common::ruleset::{Words, search_narrow, search_wide};

use crate::maps::{CLOCK, WORDS};

/// The array of all rulesets' words.
pub(crate) struct KernelWords;

impl Words for KernelWords {
    #[inline(always)]
    fn word(&self, index: u32) -> Option<u64> {
        WORDS.get(index).copied()
    }

    #[inline(always)]
    fn search_narrow(&self, position: u32, length: u32, stride: u32, key: u32) -> u32 {
        // SAFETY: takes numbers.
        unsafe { search_words(position, length, stride, key) }
    }

    #[inline(always)]
    fn search_wide(&self, position: u32, length: u32, key: Address) -> u32 {
        // SAFETY: takes numbers.
        unsafe { search_wide_words(position, length, key.high, key.low) }
    }
}

// Checked by the verifier once, by themselves: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn search_words(position: u32, length: u32, stride: u32, key: u32) -> u32 {
    search_narrow(&KernelWords, position, length, stride, key)
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn search_wide_words(position: u32, length: u32, high: u64, low: u64) -> u32 {
    search_wide(&KernelWords, position, length, Address { high, low })
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
