//! Allowlists that change while the agent runs: what is heard, and what is kept.
//!
//! No test waits for a fixed time: a change must be told within a second of the last write, which is the promise, and each
//! test has one change after the other, so that a watch lost on the way is found.

#[path = "reload/last_good.rs"]
mod last_good;
#[path = "reload/watch.rs"]
mod watch;
