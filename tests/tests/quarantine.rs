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
use egress_warden::quarantine::actions::Kernel;
use egress_warden::quarantine::cut::{self, Judge, Told};
use egress_warden::quarantine::{Begin, Quarantines, state};
use egress_warden_tests::{TestCgroup, cgroup2_mount};
use tempfile::TempDir;

/// What an agent with this state directory would have.
struct Agent {
    quarantines: Quarantines<Kernel>,
    cut: Told,
}

impl Agent {
    fn new(directory: &TempDir) -> Result<Agent> {
        let (cuts, cut) = cut::start()?;
        let kernel = Kernel { mount: cgroup2_mount()?, cuts };
        Ok(Agent { quarantines: Quarantines::open(directory.path(), state::boot_id()?, kernel), cut })
    }
}

/// The quarantine of a cgroup.
struct Case<'a> {
    cgroup: &'a TestCgroup,
    action: Action,
    quarantined_at: u64,
    release: Option<u64>,
}

impl Case<'_> {
    fn begin(&self, agent: &mut Agent, judge: Judge) -> Result<Vec<String>> {
        let name = Path::new("/").join(self.cgroup.path().file_name().context("a name")?);
        let mut outcome = agent.quarantines.begin(Begin {
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
        if outcome.cut.is_some() {
            let done = agent.cut.blocking_recv().context("nobody ends connections")?;
            outcome.problems.extend(agent.quarantines.ended(done));
        }
        Ok(outcome.problems)
    }
}
