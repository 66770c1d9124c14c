//! Workloads for the tests of this module.

use egress_warden_common::state::State;

use crate::enforce::snapshot::{Tier, WorkloadStatus};
use crate::policy::Mode;

/// One that nothing happened to.
pub(super) fn workload(path: &str) -> WorkloadStatus {
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
        reach: None,
        enforced_since: None,
        failure: None,
        quarantine: None,
        grants: Vec::new(),
        state: Box::new(State::EMPTY),
    }
}
