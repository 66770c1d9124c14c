//! How the rest of the agent asks the reconciler.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot};

use super::Snapshot;
use crate::allowlist::Action;
use crate::records::Event;

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

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(request(reply)).await.ok()?;
        answer.await.ok()
    }
}

fn ending<T>() -> Result<T, Refusal> {
    Err(Refusal("the agent is ending".into()))
}
