//! A new set of policies comes into force: all of it, or nothing.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::{error, info, warn};

use super::reconciler::{Reconciler, grouped};
use super::rules::{Effective, Rules, RulesError};
use super::snapshot::{Reload, RulesFrom};
use crate::allowlist::AllowlistSet;
use crate::kernel::KernelError;
use crate::kernel::sys::give_back_memory;
use crate::workload::Workload;
use crate::workload::pattern::Selection;

/// Why a set did not come into force. The one before it still is, whole.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// This agent cannot enforce it.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// It does not fit into the kernel's tables beside what is in force.
    #[error("the new rulesets do not fit: {0}; nothing of the change is in force")]
    Full(#[source] KernelError),
}

impl Reconciler {
    /// Puts a valid set in force. Gives what the source of cgroups has to look for from now on.
    pub fn apply(&mut self, set: &AllowlistSet, from: RulesFrom) -> Result<Selection, ApplyError> {
        let mut rules = Rules::new(set)?;
        let wanted = self.wanted(&mut rules)?;
        self.check_capacity(&wanted)?;
        let selection = rules.selection();
        self.rules = Some(rules);
        self.behind = None;
        // What is selected no more is let go when the source has looked again with the new selection: of a workload that
        // an earlier agent left, the path may not be known before.
        for (effective, cgroups) in grouped(wanted) {
            self.swap(&cgroups, &effective);
        }
        for policy in self.rules.iter().flat_map(Rules::without_source) {
            warn!(
                policy = policy.name,
                place = %policy.origin,
                "selects by namespace or label, which this version cannot see: it applies to no workload; use `cgroups`"
            );
        }
        info!(policies = set.policies().len(), "allowlists are in force");
        let outcome = self.behind.clone().map_or(Ok(()), Err);
        self.reload = Reload { at: SystemTime::now(), outcome, source: from };
        self.save();
        // Reading, compiling and saving took several times the memory that is kept.
        give_back_memory();
        Ok(selection)
    }

    /// What every enforced workload would get.
    fn wanted(&self, rules: &mut Rules) -> Result<Vec<(u64, Arc<Effective>)>, RulesError> {
        let enforced = self.members.values().filter(|member| member.is_enforced());
        let workloads: Vec<Workload> = enforced.map(|member| member.workload.clone()).collect();
        let mut wanted = Vec::new();
        for workload in workloads {
            wanted.extend(rules.of(&workload)?.map(|effective| (workload.cgroup, effective)));
        }
        Ok(wanted)
    }

    fn check_capacity(&self, wanted: &[(u64, Arc<Effective>)]) -> Result<(), ApplyError> {
        let groups = grouped(wanted.to_vec());
        let mut rulesets: Vec<&[u64]> =
            groups.iter().map(|(effective, _)| effective.compiled.words.as_slice()).collect();
        rulesets.sort_unstable();
        rulesets.dedup();
        self.node.reserve(&rulesets).map_err(ApplyError::Full)
    }

    /// The files say what is in force already.
    pub fn confirm(&mut self) {
        self.reload = Reload { at: SystemTime::now(), outcome: Ok(()), source: RulesFrom::Files };
    }

    /// The files are not valid, or cannot be put in force. What is in force stays.
    pub fn refuse(&mut self, errors: String) {
        error!(in_force = ?self.reload.source, "the allowlists in the files are not in force");
        self.reload = Reload { at: self.reload.at, outcome: Err(errors), source: self.reload.source };
    }
}
