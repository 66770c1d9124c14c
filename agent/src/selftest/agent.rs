//! The self-test of a running agent: against its own programs, from a thread beside its loop, which only answers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use egress_warden_common::state::State;
use tokio::sync::Mutex;
use tracing::warn;

use super::{Report, SelftestError, Subject};
use crate::enforce::Handle;
use crate::enforce::trial::Trial;

/// Makes self-tests, one at a time.
#[derive(Clone, Debug)]
pub struct Runner {
    handle: Handle,
    mount: PathBuf,
    alone: Arc<Mutex<()>>,
}

impl Runner {
    /// One that asks this agent, below this mount of cgroup2.
    #[must_use]
    pub fn new(handle: Handle, mount: PathBuf) -> Self {
        Self { handle, mount, alone: Arc::default() }
    }

    /// Makes one now.
    ///
    /// # Errors
    /// Where one runs already, or none can be made.
    pub async fn run(&self) -> Result<Report, SelftestError> {
        let Ok(_alone) = self.alone.try_lock() else { return Err(SelftestError::Busy) };
        let (mut subject, mount) = (self.handle.clone(), self.mount.clone());
        let ran = tokio::task::spawn_blocking(move || super::run(&mut subject, &mount, true)).await;
        let result = ran.unwrap_or_else(|ended| Err(SelftestError::Subject(ended.to_string())));
        self.handle.tested(result.clone()).await;
        result
    }

    /// Makes one now and then for ever.
    pub async fn schedule(self, every: Duration) {
        let mut next = tokio::time::interval(every);
        next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            next.tick().await;
            // What came of it the agent was told. One that an operator asked for meanwhile serves as well.
            if let Err(SelftestError::Busy) = self.run().await {
                warn!("a self-test was due while one was running");
            }
        }
    }
}

impl Subject for Handle {
    fn enforce(&mut self, trial: Trial) -> Result<(), String> {
        self.begin_trial(trial).map_err(|refused| refused.to_string())
    }

    fn state(&mut self, cgroup: u64) -> Result<Box<State>, String> {
        self.trial_state(cgroup).map_err(|refused| refused.to_string())
    }

    fn release(&mut self, cgroup: u64) -> Result<(), String> {
        self.end_trial(cgroup).map_err(|refused| refused.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_runs_at_a_time() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (handle, _requests) = Handle::new();
        let runner = Runner::new(handle, "/nonexistent".into());
        let _running = runner.alone.try_lock().unwrap();
        assert!(matches!(runtime.block_on(runner.run()), Err(SelftestError::Busy)));
    }
}
