//! A new set of policies comes into force: all of it, or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::{error, info};

use super::reconciler::Reconciler;
use super::rules::{Effective, Rules, RulesError};
use super::snapshot::{Reload, RulesFrom};
use crate::allowlist::AllowlistSet;
use crate::kernel::KernelError;
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
        let mut changed = 0;
        for (cgroup, effective) in wanted {
            let before = self.members.get(&cgroup).map(|member| member.ruleset);
            // What is selected no more is let go when the source has looked again with the new selection: of a
            // workload that an earlier agent left, the path may not be known before.
            if let Some(effective) = effective {
                changed += usize::from(before != Some(effective.hash));
                self.swap(cgroup, effective);
            }
        }
        info!(policies = set.policies().len(), changed, "allowlists are in force");
        self.reload = Reload { at: SystemTime::now(), outcome: Ok(()), source: from };
        self.save();
        Ok(selection)
    }

    /// What every enforced workload would get.
    fn wanted(&self, rules: &mut Rules) -> Result<BTreeMap<u64, Option<Arc<Effective>>>, RulesError> {
        let enforced = self.members.values().filter(|member| member.is_enforced());
        let workloads: Vec<Workload> = enforced.map(|member| member.workload.clone()).collect();
        let mut wanted = BTreeMap::new();
        for workload in workloads {
            wanted.insert(workload.cgroup, rules.of(&workload)?);
        }
        Ok(wanted)
    }

    fn check_capacity(&self, wanted: &BTreeMap<u64, Option<Arc<Effective>>>) -> Result<(), ApplyError> {
        let mut rulesets: Vec<&[u64]> =
            wanted.values().flatten().map(|effective| effective.compiled.words.as_slice()).collect();
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
