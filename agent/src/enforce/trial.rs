//! The workload of the agent's own self-test. It is enforced like any other and stands in nobody's list: no policy of an
//! operator selects it, what it tries is nobody's violation, and it is gone in a second.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use egress_warden_common::state::State;
use tracing::{error, info};

use super::Refusal;
use super::reconciler::Reconciler;
use crate::kernel::OwnNamespace;
use crate::selftest::{LastSelftest, Report, SelftestError, stage};

/// A workload to be tried out.
#[derive(Debug)]
pub struct Trial {
    /// Id of its cgroup.
    pub cgroup: u64,
    /// The cgroup.
    pub directory: File,
    /// Its path, for messages.
    pub path: PathBuf,
    /// Its ruleset.
    pub words: Vec<u64>,
    /// Its network namespace.
    pub namespace: OwnNamespace,
}

impl Reconciler {
    /// Enforces a trial's ruleset on its cgroup.
    pub fn begin_trial(&mut self, trial: &Trial) -> Result<(), Refusal> {
        if self.detached {
            return Err(Refusal("an operator detached enforcement; start the agent again".into()));
        }
        let Trial { cgroup, directory, path, words, namespace } = trial;
        self.node
            .enforce(*cgroup, directory.as_fd(), path, words, Some(namespace))
            .map_err(|refused| Refusal(refused.to_string()))
    }

    /// What is counted of a trial.
    pub fn trial_state(&self, cgroup: u64) -> Result<Box<State>, Refusal> {
        self.node.state(cgroup).map(Box::new).map_err(|refused| Refusal(refused.to_string()))
    }

    /// Ends a trial.
    pub fn end_trial(&mut self, cgroup: u64) -> Result<(), Refusal> {
        self.node.release(cgroup).map_err(|refused| Refusal(refused.to_string()))
    }

    /// A self-test has ended.
    pub fn tested(&mut self, result: &Result<Report, SelftestError>) {
        let outcome = match result {
            Ok(report) if report.passed => {
                info!(result = report.summary(), "self-test passed");
                Ok(report.summary())
            }
            Ok(report) => {
                error!(result = report.summary(), open = report.open().join(" "), "self-test failed");
                Err(format!("{}: {}", report.summary(), report.open().join(", ")))
            }
            Err(why) => {
                error!(error = %why, "self-test failed");
                Err(why.to_string())
            }
        };
        let now = SystemTime::now();
        let passed_at = if outcome.is_ok() { Some(now) } else { self.selftest.passed_at };
        self.selftest = LastSelftest { last: Some((now, outcome)), passed_at };
    }

    /// Is this the cgroup of this agent's self-test? Whatever policies select, that is no workload. Its name is this process's
    /// and it is directly below the mount, where no workload can make one.
    pub(super) fn is_trial(&self, path: &Path) -> bool {
        let own = stage::path_in(&self.mount);
        own.file_name().is_some_and(|name| path == Path::new("/").join(name))
    }
}
