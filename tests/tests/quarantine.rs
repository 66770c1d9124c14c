//! Quarantine by the agent, on the real kernel: what its actions do to processes and connections, and what they leave
//! alone.

#[path = "quarantine/agent.rs"]
mod agent;
#[path = "quarantine/connections.rs"]
mod connections;
#[path = "quarantine/followed.rs"]
mod followed;
#[path = "quarantine/processes.rs"]
mod processes;

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use egress_warden::allowlist::Action;
use egress_warden::quarantine::actions::{Judge, Kernel};
use egress_warden::quarantine::{Begin, Quarantines, state};
use egress_warden_tests::{TestCgroup, cgroup2_mount};
use tempfile::TempDir;

/// What an agent with this state directory would have.
fn quarantines(directory: &TempDir) -> Result<Quarantines<Kernel>> {
    Ok(Quarantines::open(directory.path(), state::boot_id()?, Kernel { mount: cgroup2_mount()? }))
}

/// The quarantine of a cgroup.
struct Case<'a> {
    cgroup: &'a TestCgroup,
    action: Action,
    quarantined_at: u64,
    release: Option<u64>,
}

impl Case<'_> {
    fn begin(&self, quarantines: &mut Quarantines<Kernel>, judge: Judge<'_>) -> Result<Vec<String>> {
        let name = Path::new("/").join(self.cgroup.path().file_name().context("a name")?);
        let outcome = quarantines.begin(Begin {
            cgroup: self.cgroup.id()?,
            directory: File::open(self.cgroup.path())?.into(),
            path: &name,
            workload: "job",
            policy: "test",
            action: self.action,
            who: "kernel",
            why: "a test",
            quarantined_at: self.quarantined_at,
            release: self.release,
            violations: 1,
            judge,
        });
        Ok(outcome.problems)
    }
}
