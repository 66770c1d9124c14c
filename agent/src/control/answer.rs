//! The reconciler's snapshot as the protocol tells it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use egress_warden_common::Reason;
use egress_warden_common::reason::Protocol;
use egress_warden_common::state::State;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::protocol::{
    Allowlists, Capabilities, Grant, Held, Interface, OtherProgram, Pod, Policy, Quarantine, Quarantined,
    Quarantines, Rdma, SCHEMA, Selftest, Status, Workload,
};
use crate::enforce::Snapshot;
use crate::enforce::snapshot::{
    GrantStatus, InterfaceStatus, PolicyStatus, QuarantineStatus, RulesFrom, Tier, WorkloadStatus,
};
use crate::kernel;
use crate::policy::Mode;
use crate::quarantine::history::Entry;
use crate::reach;
use crate::workload::path_text;

/// The whole.
pub(super) fn status(snapshot: &Snapshot) -> Status {
    let reload = &snapshot.reload;
    Status {
        schema: SCHEMA,
        ready: snapshot.ready.is_ok(),
        not_ready: snapshot.ready.clone().err(),
        allowlists: Allowlists {
            source: source(reload.source).to_owned(),
            loaded: rfc3339(reload.at),
            error: reload.outcome.clone().err(),
        },
        policies: snapshot.policies.iter().map(policy).collect(),
        workloads: snapshot.workloads.iter().map(workload).collect(),
        others: snapshot.others.iter().map(other).collect(),
        records_lost: snapshot.records_lost,
        selftest: snapshot.selftest.last.as_ref().map(|(at, outcome)| Selftest {
            passed: outcome.is_ok(),
            at: rfc3339(*at),
            result: outcome.clone().unwrap_or_else(|why| why),
        }),
    }
}

/// What is in quarantine, and what was.
pub(super) fn quarantines(snapshot: &Snapshot, history: Option<Vec<Entry>>) -> Quarantines {
    let active = snapshot.workloads.iter().filter_map(|workload| {
        let quarantine = quarantine(workload.quarantine.as_ref()?);
        Some(Quarantined {
            workload: workload.label.clone(),
            path: path_text(&workload.path).into(),
            policy: workload.policy.clone(),
            quarantine,
        })
    });
    Quarantines { schema: SCHEMA, active: active.collect(), history }
}

fn policy(policy: &PolicyStatus) -> Policy {
    Policy {
        name: policy.name.clone(),
        mode: mode(policy.mode).to_owned(),
        ruleset: hash(policy.ruleset),
        workloads: policy.workloads,
    }
}

fn workload(workload: &WorkloadStatus) -> Workload {
    let violations_by_reason = violations(&workload.state);
    let reach = workload.reach.as_ref();
    Workload {
        workload: workload.label.clone(),
        path: path_text(&workload.path).into(),
        cgroup: workload.cgroup,
        pod: workload.pod.as_ref().map(|pod| Pod {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        }),
        policy: workload.policy.clone(),
        mode: mode(workload.mode).to_owned(),
        ruleset: hash(workload.ruleset),
        tier: workload.tier.name().to_owned(),
        network: match (&workload.interfaces, workload.host_network) {
            (None, _) => "unknown",
            (Some(_), true) => "host",
            (Some(_), false) => "own",
        }
        .to_owned(),
        interfaces: workload.interfaces.iter().flatten().map(interface).collect(),
        capabilities: reach.and_then(|reach| reach.capabilities.as_ref()).map(capabilities),
        rdma: reach.map(|reach| rdma(&reach.rdma)),
        enforced_since: workload.enforced_since.map(rfc3339),
        failure: workload.failure.clone(),
        violations: violations_by_reason.values().flat_map(BTreeMap::values).sum(),
        violations_by_reason,
        quarantine: workload.quarantine.as_ref().map(quarantine),
        grants: workload.grants.iter().map(grant).collect(),
    }
}

fn grant(grant: &GrantStatus) -> Grant {
    Grant {
        address: grant.address,
        name: grant.name.clone(),
        since: rfc3339(grant.since),
        until: rfc3339(grant.until),
    }
}

fn other(other: &kernel::OtherProgram) -> OtherProgram {
    OtherProgram {
        path: other.cgroup.clone(),
        hook: other.hook.to_owned(),
        id: other.id,
        name: other.name.clone(),
        exclusive: other.exclusive,
        followed: other.followed,
    }
}

fn interface(interface: &InterfaceStatus) -> Interface {
    let tier = if interface.missing.is_none() { Tier::Backstop } else { Tier::Cgroup };
    Interface { name: interface.name.clone(), tier: tier.name().to_owned(), why: interface.missing.clone() }
}

fn capabilities(found: &reach::Capabilities) -> Capabilities {
    let held = found.held.iter().map(|(name, held)| Held {
        capability: (*name).to_owned(),
        why: reach::capabilities::leads_past(name).to_owned(),
        processes: held.processes,
        pid: held.process,
    });
    Capabilities {
        held: held.collect(),
        obtainable: found.obtainable.iter().map(|name| (*name).to_owned()).collect(),
        examined: found.examined,
        unexamined: found.unexamined,
    }
}

fn rdma(found: &reach::Rdma) -> Rdma {
    Rdma {
        in_reach: found.is_in_reach(),
        sharing: found.sharing.name().to_owned(),
        devices: found.devices.iter().cloned().collect(),
        files: found.files.iter().cloned().collect(),
    }
}

fn quarantine(quarantine: &QuarantineStatus) -> Quarantine {
    Quarantine {
        since: rfc3339(quarantine.since),
        action: quarantine.action.into(),
        who: quarantine.who.clone(),
        why: quarantine.why.clone(),
        until: quarantine.until.map(rfc3339),
    }
}

fn violations(state: &State) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for reason in Reason::ALL.iter().filter(|reason| !reason.allows()) {
        let counts = state.counts[*reason as usize];
        let counted =
            Protocol::ALL.iter().map(|protocol| (protocol.name().to_owned(), counts[*protocol as usize]));
        let counted: BTreeMap<String, u64> = counted.filter(|(_, count)| *count > 0).collect();
        if !counted.is_empty() {
            all.insert(reason.name().to_owned(), counted);
        }
    }
    all
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
    }
}

const fn source(source: RulesFrom) -> &'static str {
    match source {
        RulesFrom::Files => "files",
        RulesFrom::LastGood => "last-good",
        RulesFrom::Pinned => "pinned",
        RulesFrom::Nowhere => "none",
    }
}

fn hash(ruleset: u64) -> String {
    format!("{ruleset:016x}")
}

/// In whole seconds.
fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    time.replace_nanosecond(0)
        .unwrap_or(time)
        .format(&Rfc3339)
        .unwrap_or_else(|_| time.unix_timestamp().to_string())
}
