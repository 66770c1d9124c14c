//! Waiting for something to become true, instead of for time to pass.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take that happens at once on a healthy machine. Generous, because a test that meets its
/// condition does not wait for it.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Polls until there is a value, or fails with what was waited for.
///
/// # Errors
/// When `deadline` passes first.
pub fn until<T>(what: &str, deadline: Duration, mut poll: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = poll() {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("waited {deadline:?} in vain for: {what}");
        }
        thread::sleep(Duration::from_millis(1));
    }
}
