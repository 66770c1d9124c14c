//! The policies in force: which of them apply to a workload, and what they compile to together.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::totals::Under;
use crate::allowlist::{AllowlistSet, Existing, Select};
use crate::policy::{Mode, Policy, merge};
use crate::ruleset::{CompileError, Compiled, compile};
use crate::workload::Workload;
use crate::workload::pattern::{Pattern, Selection};

/// What applies to a workload: one policy, or several merged.
#[derive(Debug)]
pub struct Effective {
    /// Its name; of merged policies the names, sorted and joined by `+`.
    pub name: String,
    /// What it does with a violation.
    pub mode: Mode,
    /// What becomes of connections older than the attach.
    pub existing: Existing,
    /// Is a workload without a backstop on every interface not to be called enforced?
    pub require_backstop: bool,
    /// Its quarantine rules, in the order in which the kernel numbers them.
    pub quarantine: Vec<crate::policy::Quarantine>,
    /// What the kernel reads, and what its rule numbers mean.
    pub compiled: Compiled,
    /// Hash of the ruleset.
    pub hash: u64,
}

/// One policy as it was written.
#[derive(Debug)]
struct Entry {
    policy: Arc<Policy>,
    select: Select,
    patterns: Vec<Pattern>,
}

/// Every policy of a valid set. Nothing of the set's text is kept.
#[derive(Debug, Default)]
pub struct Rules {
    entries: Vec<Entry>,
    effective: BTreeMap<Vec<usize>, Arc<Effective>>,
}

/// Why a valid set cannot be put in force by this agent.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Something in it needs what this agent does not have.
    #[error(
        "{origin}: {what}: this version of the agent cannot enforce it; nothing of the change is in force"
    )]
    Beyond {
        /// Where it stands.
        origin: String,
        /// What it is.
        what: String,
    },
    /// It does not fit.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A glob that cannot be matched.
    #[error("{origin}: `cgroups`: {reason}")]
    Pattern {
        /// Where the policy stands.
        origin: String,
        /// What is wrong.
        reason: String,
    },
}

impl Rules {
    /// Compiles every policy of the set, so that what cannot be enforced is refused before anything changes.
    pub fn new(set: &AllowlistSet) -> Result<Self, RulesError> {
        let mut rules = Self::default();
        for name in set.policies() {
            let (Some(policy), Some(select)) = (set.policy(name), set.select(name)) else { continue };
            if let Some(entry) = policy.beyond_agent().next() {
                let (origin, what) = (entry.origin.to_string(), entry.what.clone());
                return Err(RulesError::Beyond { origin, what });
            }
            let patterns = patterns(select)
                .map_err(|reason| RulesError::Pattern { origin: policy.origin.to_string(), reason })?;
            rules.entries.push(Entry { policy: Arc::new(policy), select: select.clone(), patterns });
        }
        rules.entries.sort_by(|a, b| a.policy.name.cmp(&b.policy.name));
        for index in 0..rules.entries.len() {
            rules.compile(&[index])?;
        }
        Ok(rules)
    }

    /// Policies that select by namespace or label: no source of this version knows either, so they apply to nothing.
    pub(super) fn without_source(&self) -> impl Iterator<Item = &Policy> {
        let idle = |entry: &&Entry| !entry.select.all && !entry.select.selects_pod(None);
        self.entries.iter().filter(idle).map(|entry| entry.policy.as_ref())
    }

    /// What the source of cgroups has to look for.
    #[must_use]
    pub fn selection(&self) -> Selection {
        Selection::new(self.entries.iter().flat_map(|entry| entry.patterns.iter().cloned()).collect())
    }

    /// What applies to this workload, `None` where no policy selects it.
    pub fn of(&mut self, workload: &Workload) -> Result<Option<Arc<Effective>>, CompileError> {
        let selected: Vec<usize> =
            (0..self.entries.len()).filter(|index| self.entries[*index].selects(workload)).collect();
        if selected.is_empty() { Ok(None) } else { self.compile(&selected).map(Some) }
    }

    /// The name and mode of what applies to this workload, whether it can be compiled or not.
    #[must_use]
    pub(super) fn named(&self, workload: &Workload) -> Option<Under> {
        let selected: Vec<&Policy> = self
            .entries
            .iter()
            .filter(|entry| entry.selects(workload))
            .map(|entry| entry.policy.as_ref())
            .collect();
        let names: Vec<&str> = selected.iter().map(|policy| policy.name.as_str()).collect();
        let audit = selected.iter().all(|policy| policy.mode == Mode::Audit);
        if names.is_empty() { None } else { Some(Under { policy: names.join("+"), audit }) }
    }

    /// Everything compiled so far, merged policies included.
    pub fn effective(&self) -> impl Iterator<Item = &Arc<Effective>> {
        self.effective.values()
    }

    fn compile(&mut self, selected: &[usize]) -> Result<Arc<Effective>, CompileError> {
        if let Some(known) = self.effective.get(selected) {
            return Ok(Arc::clone(known));
        }
        let policies = selected.iter().map(|index| &self.entries[*index].policy);
        let merged;
        let policy = match selected {
            [one] => self.entries[*one].policy.as_ref(),
            _ => {
                merged = merge(policies.map(|policy| Policy::clone(policy)).collect())
                    .expect("at least one policy is selected");
                &merged
            }
        };
        let compiled = compile(policy)?;
        let effective = Arc::new(Effective {
            name: policy.name.clone(),
            mode: policy.mode,
            existing: policy.existing,
            require_backstop: policy.require_backstop,
            quarantine: policy.quarantine.clone(),
            hash: compiled.hash(),
            compiled,
        });
        self.effective.insert(selected.to_vec(), Arc::clone(&effective));
        Ok(effective)
    }
}

impl Entry {
    /// Kinds of selectors narrow each other.
    fn selects(&self, workload: &Workload) -> bool {
        if self.select.all {
            return true;
        }
        let named = self.select.selects_pod(workload.pod.as_ref());
        let placed = self.patterns.is_empty() || self.patterns.iter().any(|one| one.matches(&workload.path));
        named && placed
    }
}

fn patterns(select: &Select) -> Result<Vec<Pattern>, String> {
    select.cgroups().map(Pattern::new).collect()
}
