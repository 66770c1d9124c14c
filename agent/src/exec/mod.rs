//! Runs a command under a policy, in a jail that uid 0 does not leave.
//!
//! Four processes, none with threads when it forks. The **wrapper** is what was called. Its **janitor** (`janitor`) stays outside,
//! makes the cgroup and removes it if the wrapper is killed. **init** (`init`) joins the cgroup, builds the jail around itself
//! and reaps. **CMD** is its child. Wrapper and init talk in `message`s; [`supervise`] is the wrapper's waiting loop.

#![forbid(unsafe_code)]

use std::ffi::OsString;

pub mod caps;
pub mod cgroup;
pub mod events;
mod init;
pub mod jail;
mod janitor;
mod message;
mod mounts;
pub mod names;
pub(crate) mod remove;
pub mod run;
mod seccomp;
mod signals;
mod stdio;
pub mod summary;
pub mod supervise;
mod terminal;

pub use caps::CapabilitySet;
pub use cgroup::Cgroup;
pub use jail::Jail;
pub use supervise::{ExtraPoll, Running};

/// Exit code for failures of `exec` itself.
pub const FAILED: i32 = 125;

/// Where this process was started by `exec` as one of its helpers, does that work and returns the exit code.
///
/// To be called before the command line is parsed: helpers must start fast, and their arguments are not for people.
pub fn run_helper() -> Option<i32> {
    let mut arguments = std::env::args_os().skip(1);
    let subcommand = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    if subcommand == init::SUBCOMMAND {
        Some(init::main(&arguments))
    } else if subcommand == janitor::SUBCOMMAND {
        Some(janitor::main(&arguments))
    } else {
        None
    }
}
