//! Atomic additions and exchanges on shared map values.
//!
//! The compiler says of this target that it has no compare-and-swap, so `core::sync::atomic` offers loads and stores
//! only; the instruction set has had it since Linux 5.12, and LLVM emits it for these intrinsics. Loads and stores are
//! volatile: LLVM's back end does not select atomic ones, and an aligned word is one access either way.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};
use core::ptr;

const SEQ: AtomicOrdering = AtomicOrdering::SeqCst;

/// Adds to a number that several processors share, and gives what was there before.
///
/// # Safety
/// `number` is an aligned field of a live map value.
#[inline(always)]
pub(crate) unsafe fn add(number: *mut u64, amount: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u64, u64, SEQ>(number, amount) }
}

/// Sets a number if it is still the one that was seen. True for the one processor that did it.
///
/// # Safety
/// `number` is an aligned field of a live map value.
#[inline(always)]
pub(crate) unsafe fn replace(number: *mut u64, seen: u64, value: u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe { atomic_cxchg::<u64, SEQ, SEQ>(number, seen, value) }.1
}

/// Reads a number that other processors change.
///
/// # Safety
/// `number` is an aligned field of a live map value.
#[inline(always)]
pub(crate) unsafe fn load(number: *const u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { ptr::read_volatile(number) }
}

/// Writes a number that other processors read.
///
/// # Safety
/// `number` is an aligned field of a live map value.
#[inline(always)]
pub(crate) unsafe fn store(number: *mut u64, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { ptr::write_volatile(number, value) }
}
