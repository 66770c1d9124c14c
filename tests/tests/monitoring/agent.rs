//! The agent's own HTTP server in front of a node that does not exist.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use anyhow::Result;
use egress_warden::enforce::snapshot::{
    Delays, MapUsage, NodeViolations, PolicyStatus, Reload, RulesFrom, Snapshot, Tier, WorkloadStatus,
};
use egress_warden::enforce::{Handle, Request};
use egress_warden::http;
use egress_warden::policy::Mode;
use egress_warden_common::Reason;
use egress_warden_common::limits::WINDOW_PLACES;
use egress_warden_common::reason::{Protocol, REASON_SLOTS};
use egress_warden_common::state::State;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// A server on a thread, until it is dropped.
pub(crate) struct FakeAgent {
    address: SocketAddr,
    violations: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeAgent {
    pub(crate) fn start() -> Result<FakeAgent> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let violations = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = oneshot::channel();
        let counted = Arc::clone(&violations);
        let serve = async move {
            let (handle, mut requests) = Handle::new();
            let reconciler = async {
                while let Some(request) = requests.recv().await {
                    if let Request::Snapshot(reply) = request {
                        // A client that has gone wants no answer.
                        let _ = reply.send(snapshot(counted.load(Ordering::SeqCst)));
                    }
                }
            };
            tokio::select! {
                never = http::serve(listener, handle) => match never {},
                () = reconciler => (),
                _ = stopped => (),
            }
        };
        let thread = thread::spawn(move || runtime.block_on(serve));
        Ok(FakeAgent { address, violations, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn violate(&self, times: u64) {
        self.violations.fetch_add(times, Ordering::SeqCst);
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed, and the test fails by what it missed.
            let _ = thread.join();
        }
    }
}

/// A workload of which everything is counted, so that every metric has a series.
fn workload() -> WorkloadStatus {
    let state = State {
        quarantined_at: 0,
        would_quarantine_at: 0,
        quarantine_rule: 0,
        violations: 1,
        forgiven: 0,
        record_full_at: 0,
        records_lost: 1,
        destinations_lost: 1,
        allowed: [1; Protocol::ALL.len()],
        replies_refused: 1,
        forged_dropped: 1,
        udp_flows_evicted: 1,
        storage_failed: 1,
        counts: [[1; Protocol::ALL.len()]; REASON_SLOTS],
        window: [0; WINDOW_PLACES],
    };
    WorkloadStatus {
        cgroup: 1,
        path: "/job".into(),
        pod: None,
        label: "/job".to_owned(),
        policy: "training".to_owned(),
        mode: Mode::Enforce,
        ruleset: 0xfeed,
        tier: Tier::Cgroup,
        enforced_since: Some(SystemTime::now()),
        failure: None,
        quarantine: None,
        state: Box::new(state),
    }
}

fn snapshot(violations: u64) -> Snapshot {
    Snapshot {
        workloads: vec![workload()],
        gone: Vec::new(),
        policies: vec![PolicyStatus {
            name: "training".to_owned(),
            mode: Mode::Enforce,
            ruleset: 0xfeed,
            workloads: 1,
        }],
        node_violations: vec![NodeViolations {
            policy: "training".to_owned(),
            mode: Mode::Enforce,
            reason: Reason::NotAllowlisted,
            count: violations,
        }],
        quarantines: Vec::new(),
        would_quarantine: Vec::new(),
        enforcement_delay: Delays::default(),
        unenforced_seconds: 0.0,
        reload: Reload { at: SystemTime::now(), outcome: Ok(()), source: RulesFrom::Files },
        maps: vec![MapUsage { map: "refused", entries: 0, capacity: 8192 }],
        records_lost: 0,
        ready: Ok(()),
    }
}
