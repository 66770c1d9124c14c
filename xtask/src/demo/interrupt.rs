//! Ctrl-C. The signals are taken by a thread that ends whatever runs on the stage, so that the demo goes back the way
//! it came and cleans up behind itself.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

static RECEIVED: AtomicI32 = AtomicI32::new(0);

fn signals() -> SigSet {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])
}

/// Keeps the signals waiting. Programs that are started do not inherit this.
pub(super) fn block() -> Result<()> {
    signals().thread_block().context("cannot block signals")
}

/// Takes the signals from now on: the first one kills everything in this cgroup.
pub(super) fn watch(cgroup: PathBuf) -> Result<()> {
    let wait = move || {
        while let Ok(signal) = signals().wait() {
            RECEIVED.store(signal as i32, Ordering::SeqCst);
            // Once the cgroup is gone there is nothing left to end.
            fs::write(cgroup.join("cgroup.kill"), "1").ok();
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}

/// The signal that ended the demo, if one did.
pub(super) fn received() -> Option<i32> {
    Some(RECEIVED.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
}

/// Goes on only while no signal has come.
pub(super) fn check() -> Result<()> {
    match received() {
        None => Ok(()),
        Some(_) => bail!("interrupted"),
    }
}
