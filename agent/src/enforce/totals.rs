//! What was counted of workloads that are gone, or under a policy that they no longer have: the kernel counts by workload
//! and reason only, so these sums have to be kept, over restarts of the agent as well.

use std::collections::BTreeMap;

use egress_warden_common::Reason;
use egress_warden_common::reason::{Protocol, REASON_SLOTS};
use egress_warden_common::state::State;
use serde::{Deserialize, Serialize};

use super::dns::DnsTotals;
use super::snapshot::{NodeViolations, QuarantineTotal};
use crate::allowlist::Action;
use crate::policy::Mode;

/// Violations by reason and protocol, as in [`State`].
pub type Counts = [[u64; Protocol::ALL.len()]; REASON_SLOTS];

/// No violations.
pub const NO_COUNTS: Counts = [[0; Protocol::ALL.len()]; REASON_SLOTS];

/// Under which policy, in which mode.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Under {
    /// The policy's name.
    pub policy: String,
    /// Is it only watched?
    pub audit: bool,
}

impl Under {
    /// The mode.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        if self.audit { Mode::Audit } else { Mode::Enforce }
    }
}

/// The sums.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Violations by policy, mode and the reason's name.
    violations: Vec<(Under, BTreeMap<String, u64>)>,
    /// Quarantines by policy and action.
    quarantines: BTreeMap<String, BTreeMap<String, u64>>,
    /// Audit: quarantines that would have been, by policy.
    pub would_quarantine: BTreeMap<String, u64>,
    /// Records that the kernel did not write for workloads that are gone.
    pub records_lost: u64,
    /// Queries and answers of workloads that are gone.
    #[serde(default)]
    pub dns: DnsTotals,
    /// Connections older than the attach.
    #[serde(default)]
    pub older: Older,
}

/// What became of connections that were older than the enforcement of their workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Older {
    /// They go on.
    pub kept: u64,
    /// They were ended.
    pub cut: u64,
    /// They were to be kept and found no place: they are judged.
    pub judged: u64,
}

impl Totals {
    /// Adds what a workload did under a policy: its counters now, without what they were when it got the policy.
    pub fn add(&mut self, under: &Under, state: &State, baseline: &Counts) {
        let sums = match self.violations.iter_mut().position(|(found, _)| found == under) {
            Some(index) => &mut self.violations[index].1,
            None => {
                self.violations.push((under.clone(), BTreeMap::new()));
                &mut self.violations.last_mut().expect("it was just pushed").1
            }
        };
        for (reason, count) in by_reason(state, baseline) {
            if count > 0 {
                *sums.entry(reason.name().to_owned()).or_default() += count;
            }
        }
    }

    /// Adds all that a workload did whose enforcement ends.
    pub fn add_gone(&mut self, under: &Under, state: &State, baseline: &Counts) {
        self.add(under, state, baseline);
        self.records_lost += state.records_lost;
        self.dns.add(state);
    }

    /// Counts a quarantine.
    pub fn quarantined(&mut self, policy: &str, action: Action) {
        let by_action = self.quarantines.entry(policy.to_owned()).or_default();
        *by_action.entry(action.name().to_owned()).or_default() += 1;
    }

    /// The quarantines so far.
    #[must_use]
    pub fn quarantines(&self) -> Vec<QuarantineTotal> {
        let cells = self.quarantines.iter().flat_map(|(policy, by_action)| {
            by_action.iter().filter_map(|(action, count)| {
                let action = Action::from_name(action)?;
                Some(QuarantineTotal { policy: policy.clone(), action, count: *count })
            })
        });
        cells.collect()
    }

    /// The violations so far.
    #[must_use]
    pub fn violations(&self) -> Vec<NodeViolations> {
        let cells = self.violations.iter().flat_map(|(under, sums)| {
            Reason::ALL.iter().filter_map(|reason| {
                let count = *sums.get(reason.name())?;
                Some(NodeViolations {
                    policy: under.policy.clone(),
                    mode: under.mode(),
                    reason: *reason,
                    count,
                })
            })
        });
        cells.collect()
    }
}

/// Violations by reason since the baseline. A counter never falls; one that did was of another life of the slot.
pub fn by_reason<'a>(state: &'a State, baseline: &'a Counts) -> impl Iterator<Item = (Reason, u64)> + 'a {
    Reason::ALL.iter().filter(|reason| !reason.allows()).map(|reason| {
        let row = *reason as usize;
        let cells = state.counts[row].iter().zip(&baseline[row]);
        (*reason, cells.map(|(now, then)| now.saturating_sub(*then)).sum())
    })
}
