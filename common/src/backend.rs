//! Which backend a service's address was rewritten to above a workload: what the kernel programs share with each other
//! and, as far as the tables' existence goes, with the agent.

use crate::Address;
use crate::limits::{BACKEND_NS, BACKEND_SETS, BACKEND_WAYS};

/// Somebody's program above the workload turned the one address into the other: where packets to `backend` go is what the
/// policy may have written as `service`.
///
/// Several processors write and read one at once. Whoever writes makes the version odd first and even again behind; what
/// was read between two equal even versions belongs together.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Backend {
    /// Odd while somebody writes.
    pub version: u64,
    /// Boot time in nanoseconds when it was last seen to hold; 0 when the place is free.
    pub seen: u64,
    /// Where the packets go, in network byte order.
    pub backend: [u8; 16],
    /// What the application named, in network byte order.
    pub service: [u8; 16],
    /// Port of the backend.
    pub backend_port: u16,
    /// Port of the service.
    pub service_port: u16,
    /// IP protocol number of both.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// The backends of one workload. Keyed by its slot, and there only while a program that may rewrite addresses sits above
/// the workload and ours behind it. Of the workload's own, so that none can push out another's.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Backends {
    /// Another number for each time that the table was made; what was noted under another one does not count.
    pub epoch: u64,
    /// Sets of ways; the set is chosen by the backend's address and port.
    pub sets: [[Backend; BACKEND_WAYS]; BACKEND_SETS],
}

/// What stands with a socket whose calls may be rewritten. The socket is locked from the first program of a call to the
/// last, so that what the first one leaves here is about this very call.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Named {
    /// [`Backends::epoch`] under which all of this was noted.
    pub epoch: u64,
    /// The address that the application named, in network byte order.
    pub address: [u8; 16],
    /// The port that it named.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`NAMED_ALLOWED`], [`NAMED_REFUSED`], or 0 when there is nothing to go on with.
    pub verdict: u8,
    /// Zero.
    pub reserved: u32,
    /// The backend that it was connected with last by a service's address.
    pub backend: Backend,
}

/// [`Named::verdict`]: an entry of the policy covers what was named.
pub const NAMED_ALLOWED: u8 = 1;
/// [`Named::verdict`]: none does, and the call was let go on only to see what becomes of it.
pub const NAMED_REFUSED: u8 = 2;

/// The set in which a backend stands.
#[inline(always)]
#[must_use]
pub const fn backend_set(backend: Address, port: u16) -> usize {
    let mixed = (backend.high ^ backend.low ^ (port as u64) << 17).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 48) as usize % BACKEND_SETS
}

/// Does what was seen then still count? Both are boot times in nanoseconds.
#[inline(always)]
#[must_use]
pub const fn backend_counts(seen: u64, now: u64) -> bool {
    seen != 0 && now.saturating_sub(seen) < BACKEND_NS
}

// The layout belongs to the ABI version, as in `state`.
const _: () = {
    assert!(crate::ABI_VERSION == 6);
    assert!(size_of::<Backend>() == 56);
    assert!(size_of::<Backends>() == 14344);
    assert!(size_of::<Named>() == 88);
};
