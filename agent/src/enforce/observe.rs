//! What the reconciler knows, for metrics and people, read from the kernel at that moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use egress_warden_common::Reason;
use egress_warden_common::state::{NamedRecord, State};

use super::member::Member;
use super::reconciler::Reconciler;
use super::snapshot::{
    InterfaceStatus, MapUsage, NodeViolations, PolicyStatus, Snapshot, Tier, WorkloadStatus,
};
use super::totals::{Under, by_reason};
use crate::kernel::Backstop;
use crate::policy::Mode;
use crate::records::{Event, Origin};

impl Reconciler {
    /// Everything at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let live: Vec<(&Member, Box<State>)> = self
            .members
            .values()
            .map(|member| (member, Box::new(self.node.state(member.workload.cgroup).unwrap_or(State::EMPTY))))
            .collect();
        let mut workloads: Vec<WorkloadStatus> =
            live.iter().map(|(member, state)| self.status(member, state)).collect();
        workloads.sort_by(|a, b| a.path.cmp(&b.path));
        let mut grants = self.grants();
        for workload in &mut workloads {
            workload.grants = grants.remove(&workload.cgroup).unwrap_or_default();
        }
        let mut dns = self.totals.dns.clone();
        live.iter().for_each(|(_, state)| dns.add(state));
        let lost: u64 = live.iter().map(|(_, state)| state.records_lost).sum();
        Snapshot {
            node_violations: self.node_violations(&live),
            workloads,
            gone: self.gone.iter().map(|(_, member, state)| self.status(member, state)).collect(),
            policies: self.policies(),
            quarantines: self.totals.quarantines(),
            would_quarantine: self.would_quarantine(),
            older: self.totals.older,
            enforcement_delay: self.delays.clone(),
            unenforced_seconds: self.unenforced_seconds(),
            reload: self.reload.clone(),
            maps: self.maps(),
            others: self.others.found.clone(),
            records_lost: self.totals.records_lost + lost,
            dns,
            ready: self.ready(),
            selftest: self.selftest.clone(),
        }
    }

    fn status(&self, member: &Member, state: &State) -> WorkloadStatus {
        let mut state = Box::new(*state);
        for (row, then) in state.counts.iter_mut().zip(&member.baseline) {
            for (count, then) in row.iter_mut().zip(then) {
                *count = count.saturating_sub(*then);
            }
        }
        let cgroup = member.workload.cgroup;
        let unmet = self.unmet(member);
        WorkloadStatus {
            cgroup,
            path: member.workload.path.clone(),
            pod: member.workload.pod.clone(),
            label: member.workload.label(),
            policy: member.under.policy.clone(),
            mode: member.under.mode(),
            ruleset: member.ruleset,
            tier: if unmet.is_some() { Tier::Unenforced } else { self.tier(member) },
            interfaces: self.node.backstops(cgroup).map(|found| found.iter().map(interface).collect()),
            host_network: member.namespace.as_ref().is_some_and(|namespace| namespace.is_host),
            reach: member.reach.clone(),
            enforced_since: member.enforced_since.filter(|_| unmet.is_none()),
            failure: member.failure.as_ref().map(|(reason, _)| reason.clone()).or(unmet),
            quarantine: self.quarantines.status(cgroup),
            grants: Vec::new(),
            state,
        }
    }

    fn tier(&self, member: &Member) -> Tier {
        if !member.is_enforced() {
            return Tier::Unenforced;
        }
        match self.node.backstops(member.workload.cgroup) {
            Some(found) if !found.is_empty() && found.iter().all(|one| one.missing.is_none()) => {
                Tier::Backstop
            }
            _ => Tier::Cgroup,
        }
    }

    /// What its policy requires and it does not have. Its cgroup is enforced all the same.
    pub(super) fn unmet(&self, member: &Member) -> Option<String> {
        let required = member.effective.as_ref().is_some_and(|effective| effective.require_backstop);
        if !required || !member.is_enforced() || self.tier(member) == Tier::Backstop {
            return None;
        }
        let why = match self.node.backstops(member.workload.cgroup) {
            None => "its network is not known yet".to_owned(),
            Some([]) if member.namespace.as_ref().is_some_and(|namespace| namespace.is_host) => {
                "it is in the host's network namespace".to_owned()
            }
            Some([]) => "it has no interface yet".to_owned(),
            Some(found) => {
                let told = found.iter().filter_map(|one| {
                    one.missing.as_ref().map(|missing| format!("{}: {missing}", one.interface.name))
                });
                told.collect::<Vec<_>>().join("; ")
            }
        };
        Some(format!("its policy requires a backstop: {why}"))
    }

    fn node_violations(&self, live: &[(&Member, Box<State>)]) -> Vec<NodeViolations> {
        let mut sums: BTreeMap<(Under, &'static str), (Reason, u64)> = BTreeMap::new();
        for cell in self.totals.violations() {
            let under = Under { policy: cell.policy, audit: cell.mode == Mode::Audit };
            sums.insert((under, cell.reason.name()), (cell.reason, cell.count));
        }
        for (member, state) in live {
            for (reason, count) in by_reason(state, &member.baseline) {
                sums.entry((member.under.clone(), reason.name())).or_insert((reason, 0)).1 += count;
            }
        }
        let cells = sums.into_iter().filter(|((under, _), _)| !under.policy.is_empty());
        let cell = |((under, _), (reason, count)): ((Under, _), (Reason, u64))| NodeViolations {
            mode: under.mode(),
            policy: under.policy,
            reason,
            count,
        };
        cells.map(cell).collect()
    }

    fn policies(&self) -> Vec<PolicyStatus> {
        let effective = self.rules.iter().flat_map(super::rules::Rules::effective);
        let mut policies: Vec<PolicyStatus> = effective
            .map(|one| PolicyStatus {
                name: one.name.clone(),
                mode: one.mode,
                ruleset: one.hash,
                workloads: self
                    .members
                    .values()
                    .filter(|member| member.is_enforced())
                    .filter(|member| member.effective.as_ref().is_some_and(|found| Arc::ptr_eq(found, one)))
                    .count(),
            })
            .collect();
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        policies
    }

    fn would_quarantine(&self) -> Vec<(String, u64)> {
        self.totals.would_quarantine.iter().map(|(policy, count)| (policy.clone(), *count)).collect()
    }

    fn unenforced_seconds(&self) -> f64 {
        let since = |member: &Member| member.failure.as_ref().map(|(_, since)| *since).or(member.lacking);
        let now = self.members.values().filter_map(since);
        self.unenforced + now.map(|since| since.elapsed().as_secs_f64()).sum::<f64>()
    }

    fn maps(&self) -> Vec<MapUsage> {
        let usage = self.node.usage().unwrap_or_default();
        usage.into_iter().map(|(map, entries, capacity)| MapUsage { map, entries, capacity }).collect()
    }

    /// Records that arrived, in words; and which workloads crossed their threshold.
    pub fn records(&mut self, clock_offset: i64) -> (Vec<Event>, Vec<u64>) {
        let mut records: Vec<(u64, NamedRecord)> = Vec::new();
        self.node.drain_records(|cgroup, record| records.extend(cgroup.map(|cgroup| (cgroup, *record))));
        let crossed =
            records.iter().filter(|(_, record)| record.record.crossed != 0).map(|(cgroup, _)| *cgroup);
        let crossed = crossed.collect();
        let events = records.iter().filter_map(|(cgroup, record)| {
            let member = self.members.get(cgroup)?;
            let generation = self.node.generation(*cgroup).unwrap_or(0);
            let workload = member.workload.label();
            let origin = Origin { workload: &workload, clock_offset };
            Some(Event::new(record, &origin, |_| member.rule(&record.record, generation)))
        });
        (events.collect(), crossed)
    }
}

fn interface(backstop: &Backstop) -> InterfaceStatus {
    InterfaceStatus { name: backstop.interface.name.clone(), missing: backstop.missing.clone() }
}
