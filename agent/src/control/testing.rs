//! Workloads for the tests of this module.

use egress_warden_common::reason::{Protocol, REASON_SLOTS};
use egress_warden_common::state::State;

use crate::enforce::snapshot::{Tier, WorkloadStatus};
use crate::policy::Mode;

/// One that nothing happened to.
pub(super) fn workload(path: &str) -> WorkloadStatus {
    let state = State {
        quarantined_at: 0,
        would_quarantine_at: 0,
        quarantine_rule: 0,
        violations: 0,
        forgiven: 0,
        record_full_at: 0,
        records_lost: 0,
        destinations_lost: 0,
        allowed: [0; Protocol::ALL.len()],
        replies_refused: 0,
        forged_dropped: 0,
        udp_flows_evicted: 0,
        storage_failed: 0,
        counts: [[0; Protocol::ALL.len()]; REASON_SLOTS],
        window: [0; egress_warden_common::limits::WINDOW_PLACES],
    };
    WorkloadStatus {
        cgroup: 1,
        path: path.into(),
        pod: None,
        label: path.into(),
        policy: "training".into(),
        mode: Mode::Enforce,
        ruleset: 1,
        tier: Tier::Cgroup,
        interfaces: None,
        host_network: false,
        enforced_since: None,
        failure: None,
        quarantine: None,
        state: Box::new(state),
    }
}
