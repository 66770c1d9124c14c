//! How the rest of the agent asks the reconciler.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use egress_warden_common::state::State;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::Snapshot;
use super::trial::Trial;
use crate::allowlist::Action;
use crate::records::Event;
use crate::selftest::{Report, SelftestError};

/// How long who asks for the status waits for a look at processes and devices.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// How long a trial waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What can be asked.
#[derive(Debug)]
pub enum Request {
    /// Everything at this moment.
    Snapshot(oneshot::Sender<Snapshot>),
    /// Put a workload into quarantine.
    Quarantine {
        /// Its label or the path of its cgroup.
        workload: String,
        /// What is done with it.
        action: Action,
        /// Who asks.
        who: String,
        /// Why.
        why: String,
        /// The answer.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Let a workload out of quarantine.
    Release {
        /// Its label or the path of its cgroup.
        workload: String,
        /// Who asks.
        who: String,
        /// Why.
        why: String,
        /// The answer.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Take enforcement out of the kernel. The agent stays, not ready, until it is started again.
    Detach(oneshot::Sender<Result<usize, Refusal>>),
    /// Violations as they happen.
    Watch(oneshot::Sender<broadcast::Receiver<Arc<Event>>>),
    /// Look at what workloads have in reach; answered when it is known.
    Look(oneshot::Sender<()>),
    /// Make a self-test.
    Selftest(oneshot::Sender<Result<Report, SelftestError>>),
    /// A self-test enforces its ruleset.
    BeginTrial(Box<Trial>, SyncSender<Result<(), Refusal>>),
    /// It asks what was counted.
    TrialState(u64, SyncSender<Result<Box<State>, Refusal>>),
    /// It ends.
    EndTrial(u64, SyncSender<Result<(), Refusal>>),
    /// What came of it.
    Tested(Result<Report, SelftestError>),
}

/// Why something was not done, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// The reconciler's letter box.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Request>);

impl Handle {
    /// A letter box, and the end at which the reconciler reads.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(64);
        (Self(sender), receiver)
    }

    /// Everything at this moment. `None` when the agent is ending.
    pub async fn snapshot(&self) -> Option<Snapshot> {
        self.ask(Request::Snapshot).await
    }

    /// Has somebody look at what workloads have in reach, and waits for it: not long, for a workload can make a look endless.
    pub async fn look(&self) {
        let _ = tokio::time::timeout(LOOK_WITHIN, self.ask(Request::Look)).await;
    }

    /// Puts a workload into quarantine.
    pub async fn quarantine(
        &self,
        workload: String,
        action: Action,
        who: String,
        why: String,
    ) -> Result<(), Refusal> {
        self.ask(|reply| Request::Quarantine { workload, action, who, why, reply })
            .await
            .unwrap_or_else(ending)
    }

    /// Lets a workload out of quarantine.
    pub async fn release(&self, workload: String, who: String, why: String) -> Result<(), Refusal> {
        self.ask(|reply| Request::Release { workload, who, why, reply }).await.unwrap_or_else(ending)
    }

    /// Takes enforcement out of the kernel; tells for how many workloads.
    pub async fn detach(&self) -> Result<usize, Refusal> {
        self.ask(Request::Detach).await.unwrap_or_else(ending)
    }

    /// Violations as they happen. A receiver that does not keep up is told how many it missed.
    pub async fn watch(&self) -> Option<broadcast::Receiver<Arc<Event>>> {
        self.ask(Request::Watch).await
    }

    /// Makes a self-test. `None` when the agent is ending.
    pub async fn selftest(&self) -> Option<Result<Report, SelftestError>> {
        self.ask(Request::Selftest).await
    }

    /// Tells what came of a self-test.
    pub async fn tested(&self, result: Result<Report, SelftestError>) {
        // Nobody listens when the agent ends.
        let _ = self.0.send(Request::Tested(result)).await;
    }

    /// Enforces a trial. Blocks, as the two that follow.
    pub fn begin_trial(&self, trial: Trial) -> Result<(), Refusal> {
        self.ask_blocking(|reply| Request::BeginTrial(Box::new(trial), reply))
    }

    /// What is counted of a trial.
    pub fn trial_state(&self, cgroup: u64) -> Result<Box<State>, Refusal> {
        self.ask_blocking(|reply| Request::TrialState(cgroup, reply))
    }

    /// Ends a trial.
    pub fn end_trial(&self, cgroup: u64) -> Result<(), Refusal> {
        self.ask_blocking(|reply| Request::EndTrial(cgroup, reply))
    }

    /// For a thread of its own. Not for ever: a reconciler that does not answer is what a self-test has to tell.
    fn ask_blocking<T>(
        &self,
        request: impl FnOnce(SyncSender<Result<T, Refusal>>) -> Request,
    ) -> Result<T, Refusal> {
        let (reply, answer) = sync_channel(1);
        self.0.try_send(request(reply)).map_err(|_| Refusal("the agent takes no requests".into()))?;
        answer
            .recv_timeout(ANSWER_WITHIN)
            .map_err(|_| Refusal(format!("the agent did not answer within {} s", ANSWER_WITHIN.as_secs())))?
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(request(reply)).await.ok()?;
        answer.await.ok()
    }
}

fn ending<T>() -> Result<T, Refusal> {
    Err(Refusal("the agent is ending".into()))
}
