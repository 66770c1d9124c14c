//! The wall clock of the host, and whether anybody vouches for it.

use std::time::{SystemTime, UNIX_EPOCH};

use egress_warden_common::decide::Clock;
use nix::libc;

/// The host's clock. It tells no time while the kernel does not call it synchronised.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostClock;

impl Clock for HostClock {
    fn unix_seconds(&self) -> Option<u64> {
        if !is_synchronised() {
            return None;
        }
        SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
    }
}

/// Does a time service keep the clock? A kernel that does not answer does not vouch.
fn is_synchronised() -> bool {
    // SAFETY: `timex` is plain integers, for which zeros are valid; `modes` 0 makes the call a pure query, which
    // writes into the struct that it is lent and keeps no pointer to it.
    let (state, status) = unsafe {
        let mut query: libc::timex = std::mem::zeroed();
        let state = libc::adjtimex(&raw mut query);
        (state, query.status)
    };
    (0..libc::TIME_ERROR).contains(&state) && status & libc::STA_UNSYNC == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_synchronised_clock_tells_the_time() {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(HostClock.unix_seconds().is_some(), is_synchronised());
        assert!(HostClock.unix_seconds().is_none_or(|seconds| seconds.abs_diff(system) <= 5));
    }
}
