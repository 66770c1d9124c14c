//! Allowlists that change while the agent runs: [`AllowlistWatch`] tells that something happened to the files, and
//! [`LastGood`] keeps the last valid ones for a start at which they no longer are.
#![forbid(unsafe_code)]

mod last_good;
mod plan;
mod watch;

pub use last_good::{LastGood, LastGoodError};
pub use watch::{AllowlistWatch, WatchError};
