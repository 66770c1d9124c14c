//! The binaries that run in the test machine, linked statically: its file system has no libraries for them.

use std::env;
use std::path::PathBuf;

use anyhow::Result;

use crate::run::{cargo, run, workspace};

/// Given explicitly, so that the flags are for these binaries and not for build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where they are.
#[derive(Debug)]
pub(super) struct Programs {
    /// The agent.
    pub(super) agent: PathBuf,
    /// One attempt to reach a place, with its outcome.
    pub(super) probe: PathBuf,
    /// This program, which runs the cases in there.
    pub(super) guest: PathBuf,
}

/// Builds them.
pub(super) fn programs() -> Result<Programs> {
    run(cargo()
        .args(["build", "--locked", "--release", "--target", TARGET])
        .args([
            "--package",
            "egress-warden",
            "--package",
            "egress-warden-tests",
            "--package",
            "xtask",
            "--bins",
        ])
        .env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let directory = workspace().join(target).join(TARGET).join("release");
    Ok(Programs {
        agent: directory.join("egress-warden"),
        probe: directory.join("egress-warden-probe"),
        guest: directory.join("xtask"),
    })
}
