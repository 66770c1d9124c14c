//! A snapshot of a node that does not exist.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use egress_warden_common::Reason;
use egress_warden_common::reason::Protocol;
use egress_warden_common::state::State;

use crate::allowlist::Action;
use crate::enforce::Snapshot;
use crate::enforce::dns::DnsTotals;
use crate::enforce::snapshot::{
    Delays, GrantStatus, MapUsage, NodeViolations, PolicyStatus, QuarantineStatus, QuarantineTotal, Reload,
    RulesFrom, Tier, WorkloadStatus,
};
use crate::enforce::totals::Older;
use crate::policy::Mode;
use crate::selftest::LastSelftest;
use crate::workload::Pod;

/// A workload with one refused TCP attempt.
pub(crate) fn workload(number: usize) -> WorkloadStatus {
    let mut state = State::EMPTY;
    state.counts[Reason::NotAllowlisted as usize][Protocol::Tcp as usize] = 1;
    let path = format!("/kubepods/pod{number}");
    WorkloadStatus {
        cgroup: 1000 + number as u64,
        label: path.clone(),
        path: path.into(),
        pod: None,
        policy: "training".to_owned(),
        mode: Mode::Enforce,
        ruleset: 0xfeed,
        tier: Tier::Cgroup,
        interfaces: None,
        host_network: false,
        reach: None,
        enforced_since: Some(UNIX_EPOCH),
        failure: None,
        quarantine: None,
        grants: Vec::new(),
        state: Box::new(state),
    }
}

/// A node on which everything has happened once.
pub(crate) fn busy(workloads: usize) -> Snapshot {
    let mut all: Vec<_> = (0..workloads).map(workload).collect();
    if let Some(first) = all.first_mut() {
        first.pod = Some(Pod {
            namespace: "ml-training".to_owned(),
            name: "train-0".to_owned(),
            uid: "uid-0".to_owned(),
            labels: BTreeMap::new(),
        });
        first.label = "uid-0".to_owned();
        first.quarantine = Some(QuarantineStatus {
            since: UNIX_EPOCH,
            action: Action::Isolate,
            who: "kernel".to_owned(),
            why: "20 violations".to_owned(),
            until: None,
        });
        let state = &mut first.state;
        (state.destinations_lost, state.replies_refused, state.forged_dropped) = (1, 2, 3);
        (state.udp_flows_evicted, state.storage_failed) = (4, 5);
    }
    if let Some(first) = all.first_mut() {
        // One address for two names.
        first.grants = [("a.example", "192.0.2.1"), ("b.example", "192.0.2.1"), ("b.example", "192.0.2.2")]
            .map(|(name, address)| GrantStatus {
                address: address.parse().unwrap(),
                name: Some(name.to_owned()),
                since: UNIX_EPOCH,
                until: UNIX_EPOCH,
            })
            .to_vec();
    }
    let dns = DnsTotals {
        allowed: 12,
        refused: BTreeMap::from([("dns_name".to_owned(), 4), ("dns_search".to_owned(), 6)]),
        truncated: 2,
        rejected: BTreeMap::from([("quota".to_owned(), 3)]),
    };
    let mut enforcement_delay = Delays::default();
    [0.0002, 0.002, 20.0].into_iter().for_each(|seconds| enforcement_delay.observe(seconds));
    Snapshot {
        workloads: all,
        gone: Vec::new(),
        policies: vec![PolicyStatus {
            name: "training".to_owned(),
            mode: Mode::Enforce,
            ruleset: 0xfeed,
            workloads,
        }],
        node_violations: vec![NodeViolations {
            policy: "training".to_owned(),
            mode: Mode::Enforce,
            reason: Reason::NotAllowlisted,
            count: workloads as u64,
        }],
        quarantines: vec![QuarantineTotal {
            policy: "training".to_owned(),
            action: Action::Isolate,
            count: 1,
        }],
        older: Older { kept: 3, cut: 2, judged: 1 },
        would_quarantine: vec![("former".to_owned(), 2)],
        enforcement_delay,
        unenforced_seconds: 1.5,
        reload: Reload {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500),
            outcome: Ok(()),
            source: RulesFrom::Files,
        },
        maps: vec![MapUsage { map: "refused", entries: 7, capacity: 8192 }],
        others: Vec::new(),
        records_lost: 9,
        dns,
        ready: Ok(()),
        selftest: LastSelftest {
            last: Some((UNIX_EPOCH, Err("1 open: frame".to_owned()))),
            passed_at: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
        },
    }
}
