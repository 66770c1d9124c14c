//! The host's clocks: the wall clock and whether anybody vouches for it, boot time, and word of the wall clock's jumps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use egress_warden_common::decide::{Clock, UNSYNCHRONISED};
use egress_warden_common::state::WallClock;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};

use super::KernelError;

/// A clock that becomes synchronised does not jump by that: it is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The host's clock. It tells no time while the kernel does not call it synchronised.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostClock;

impl Clock for HostClock {
    fn unix_seconds(&self) -> u64 {
        match nanoseconds(ClockId::CLOCK_REALTIME) {
            Ok(now) if is_synchronised() => now / 1_000_000_000,
            _ => UNSYNCHRONISED,
        }
    }
}

/// What the programs are told of the wall clock.
pub fn wall_clock() -> Result<WallClock, KernelError> {
    let offset = nanoseconds(ClockId::CLOCK_REALTIME)?.cast_signed() - boot_ns()?.cast_signed();
    Ok(WallClock { offset, synchronised: u64::from(is_synchronised()) })
}

/// Nanoseconds since boot, suspend included: what the programs write into records.
pub fn boot_ns() -> Result<u64, KernelError> {
    nanoseconds(ClockId::CLOCK_BOOTTIME)
}

fn nanoseconds(clock: ClockId) -> Result<u64, KernelError> {
    let now = clock_gettime(clock).map_err(|error| failed("clock_gettime", error))?;
    Ok(Duration::from(now).as_nanos() as u64)
}

fn failed(what: &'static str, error: nix::Error) -> KernelError {
    KernelError::Clock { what, source: io::Error::from(error) }
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

/// A descriptor that becomes readable when the wall clock is set, and now and then besides.
#[derive(Debug)]
pub struct ClockWatch {
    timer: TimerFd,
}

impl ClockWatch {
    /// Begins to watch.
    pub fn new() -> Result<Self, KernelError> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer =
            TimerFd::new(TimerClock::CLOCK_REALTIME, flags).map_err(|error| failed("timerfd", error))?;
        let watch = Self { timer };
        watch.arm()?;
        Ok(watch)
    }

    fn arm(&self) -> Result<(), KernelError> {
        let now = clock_gettime(ClockId::CLOCK_REALTIME).map_err(|error| failed("clock_gettime", error))?;
        let next = TimeSpec::from_duration(Duration::from(now) + LOOK_EVERY);
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        let when = Expiration::IntervalDelayed(next, TimeSpec::from_duration(LOOK_EVERY));
        self.timer.set(when, flags).map_err(|error| failed("timerfd_settime", error))
    }

    /// Is it time to look at the clock again?
    pub fn fired(&mut self) -> bool {
        match self.timer.wait() {
            Ok(()) => true,
            // The clock was set, which cancels the timer.
            Err(nix::Error::ECANCELED) => {
                let _ = self.arm();
                true
            }
            Err(_) => false,
        }
    }
}

impl AsFd for ClockWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_synchronised_clock_tells_the_time() {
        let now = nanoseconds(ClockId::CLOCK_REALTIME).unwrap() / 1_000_000_000;
        let told = HostClock.unix_seconds();
        assert!(told == UNSYNCHRONISED || told.abs_diff(now) <= 5);
        assert_eq!(told == UNSYNCHRONISED, !is_synchronised());
    }

    #[test]
    fn boot_time_and_offset_make_the_wall_clock() {
        let clock = wall_clock().unwrap();
        let told = boot_ns().unwrap().cast_signed() + clock.offset;
        let now = nanoseconds(ClockId::CLOCK_REALTIME).unwrap().cast_signed();
        assert!(now.abs_diff(told) < 1_000_000_000);
    }
}
