//! The state of the node and every change of it. One owner, no locks: whatever happens comes here as a call.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use egress_warden_common::state::State;
use tracing::{error, info, warn};

use super::Refusal;
use super::existing::AtAttach;
use super::follow::Asked;
use super::member::{Member, open, under};
use super::others::Others;
use super::reach::Looks;
use super::rules::{Effective, Rules};
use super::saved::Saved;
use super::snapshot::{Delays, Reload, RulesFrom};
use super::totals::{NO_COUNTS, Totals, Under};
use crate::config::LoadBalancer;
use crate::kernel::clock::boot_ns;
use crate::kernel::node::How;
use crate::kernel::{Adopted, Node};
use crate::quarantine::Quarantines;
use crate::quarantine::actions::Kernel;
use crate::reach::Look;
use crate::selftest::LastSelftest;
use crate::workload::{Change, Workload};

/// For how long a workload that is gone can still be seen.
pub(super) const REMEMBER_GONE: Duration = Duration::from_secs(600);

/// The reconciler.
pub struct Reconciler {
    pub(super) node: Node,
    pub(super) mount: PathBuf,
    pub(super) rules: Option<Rules>,
    pub(super) reload: Reload,
    pub(super) members: BTreeMap<u64, Member>,
    pub(super) gone: Vec<(Instant, Member, Box<State>)>,
    pub(super) totals: Totals,
    pub(super) quarantines: Quarantines<Kernel>,
    /// Quarantines whose action an earlier agent did not see to its end.
    pub(super) unfinished: Vec<u64>,
    /// Who waits until connections are ended, by number of the cut.
    pub(super) asked: HashMap<u64, Asked>,
    /// Whose older connections are being ended, by number of the cut.
    pub(super) cutting: HashMap<u64, u64>,
    /// Workloads whose older connections an earlier agent did not end.
    pub(super) unfinished_older: Vec<u64>,
    pub(super) delays: Delays,
    /// Seconds without enforcement of workloads that are enforced by now, or gone.
    pub(super) unenforced: f64,
    /// An operator took enforcement out.
    pub(super) detached: bool,
    /// Other people's programs, as they were seen last.
    pub(super) others: Others,
    /// Who looks at what workloads have in reach.
    pub(super) reach: Looks,
    /// A ruleset that the kernel did not take when the policies changed.
    pub(super) behind: Option<String>,
    /// When addresses that names opened were swept last.
    pub(super) swept: Option<Instant>,
    /// Which cgroups cannot be looked at, and why.
    pub(super) unseen: Option<String>,
    pub(super) saved: Saved,
    pub(super) selftest: LastSelftest,
}

impl Reconciler {
    /// Takes over what an earlier agent left in the kernel.
    #[must_use]
    pub fn new(
        node: Node,
        adopted: &[Adopted],
        mount: PathBuf,
        quarantines: Quarantines<Kernel>,
        saved: Saved,
        looks: Sender<Look>,
        load_balancer: LoadBalancer,
    ) -> Self {
        let reload = Reload {
            at: SystemTime::now(),
            outcome: Err("the allowlists were not read yet".into()),
            source: RulesFrom::Nowhere,
        };
        let totals = saved.totals();
        let mut reconciler = Self {
            node,
            mount,
            rules: None,
            reload,
            members: BTreeMap::new(),
            gone: Vec::new(),
            totals,
            quarantines,
            unfinished: Vec::new(),
            asked: HashMap::new(),
            cutting: HashMap::new(),
            unfinished_older: Vec::new(),
            delays: Delays::default(),
            unenforced: 0.0,
            detached: false,
            behind: None,
            others: Others::new(load_balancer),
            reach: Looks::new(looks),
            swept: None,
            unseen: None,
            saved,
            selftest: LastSelftest::default(),
        };
        for one in adopted {
            let member = reconciler.saved.member(one);
            reconciler.members.insert(one.cgroup, member);
            if !reconciler.node.older(one.cgroup, How::Ends).is_empty() {
                reconciler.unfinished_older.push(one.cgroup);
            }
        }
        let quarantined: Vec<(u64, u64)> = adopted
            .iter()
            .filter(|one| one.quarantined_at != 0)
            .map(|one| (one.cgroup, one.quarantined_at))
            .collect();
        let found = reconciler.quarantines.adopt(&quarantined);
        for (cgroup, _) in quarantined {
            // One that no agent followed up yet is found at the first look.
            if let Some(member) = reconciler.members.get_mut(&cgroup) {
                member.quarantine_seen = !found.unknown.contains(&cgroup);
            }
        }
        reconciler.unfinished = found.unfinished;
        reconciler
    }

    /// A source tells of workloads.
    pub fn change(&mut self, change: Change) {
        match change {
            Change::All(workloads) => self.all(workloads),
            Change::Appeared { workload, created } => {
                self.appeared(workload);
                if let (Some(created), Ok(now)) = (created, boot_ns()) {
                    self.delays.observe(now.saturating_sub(created) as f64 / 1e9);
                }
            }
            Change::Gone { cgroup } => self.let_go(cgroup),
            Change::Network { cgroup, namespace } => self.network(cgroup, namespace),
            Change::Node { addresses } => {
                if let Err(refused) = self.node.set_own_addresses(&addresses) {
                    warn!(error = %refused, "the node's addresses could not be told to the kernel");
                }
            }
            Change::Unseen { why } => self.unseen(why),
        }
        self.save_soon();
    }

    fn all(&mut self, workloads: Vec<Workload>) {
        let there: HashMap<u64, Workload> = workloads.into_iter().map(|one| (one.cgroup, one)).collect();
        // Without valid policies nothing is known of who is selected; what is pinned stays as it is.
        if self.rules.is_some() {
            let lost: Vec<u64> =
                self.members.keys().filter(|cgroup| !there.contains_key(cgroup)).copied().collect();
            for cgroup in lost {
                self.let_go(cgroup);
            }
        }
        let mut known: Vec<(u64, Arc<Effective>)> = Vec::new();
        for workload in there.into_values() {
            known.extend(self.place(workload));
        }
        for (effective, cgroups) in grouped(known) {
            self.swap(&cgroups, &effective);
        }
    }

    /// Enforces a workload that may be new, already enforced, or enforced by something older.
    pub(super) fn appeared(&mut self, workload: Workload) {
        if let Some((cgroup, effective)) = self.place(workload) {
            self.swap(&[cgroup], &effective);
        }
    }

    /// Enforces a workload, or says which ruleset it has to have where it is enforced already.
    fn place(&mut self, workload: Workload) -> Option<(u64, Arc<Effective>)> {
        if self.detached || self.is_trial(&workload.path) {
            return None;
        }
        let cgroup = workload.cgroup;
        match self.rules.as_mut()?.of(&workload) {
            Ok(Some(effective)) => match self.members.get_mut(&cgroup) {
                Some(member) if member.is_enforced() => {
                    member.workload = workload;
                    return Some((cgroup, effective));
                }
                _ => self.enforce(workload, effective),
            },
            Ok(None) => self.let_go(cgroup),
            Err(refused) => {
                // Each policy alone was checked; merged they do not fit. Nothing less than both may be enforced; what is
                // enforced stays so.
                error!(workload = %workload.label(), error = %refused, "cannot be enforced");
                if !self.members.get(&cgroup).is_some_and(Member::is_enforced) {
                    self.failed(workload, refused.to_string());
                }
            }
        }
        None
    }

    fn enforce(&mut self, workload: Workload, effective: Arc<Effective>) {
        let cgroup = workload.cgroup;
        let directory = match open(&self.mount, &workload) {
            Ok(directory) => directory,
            // Gone before it was ever enforced; nothing runs in it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.failed(workload, format!("cannot open its cgroup: {error}")),
        };
        let path = self.mount.join(workload.path.strip_prefix("/").unwrap_or(&workload.path));
        let words = &effective.compiled.words;
        let namespace = self.members.get(&cgroup).and_then(|member| member.namespace.as_ref());
        let at_attach = AtAttach::look(&effective, directory.as_fd(), &workload.label());
        let older = at_attach.older();
        let done = self.node.enforce_beside(cgroup, directory.as_fd(), &path, words, namespace, &older);
        let left_out = match done {
            Ok(left_out) => left_out,
            Err(refused) => {
                error!(workload = %workload.label(), error = %refused, "cannot be enforced");
                return self.failed(workload, refused.to_string());
            }
        };
        let mut member = self
            .members
            .remove(&cgroup)
            .unwrap_or_else(|| Member::new(workload.clone(), Arc::clone(&effective)));
        member.under = under(&effective);
        if let Some((_, since)) = member.failure.take() {
            self.unenforced += since.elapsed().as_secs_f64();
        }
        info!(workload = %workload.label(), policy = effective.name, "enforced");
        self.others.seen = None;
        member.enforced_since = Some(SystemTime::now());
        member.ruleset = effective.hash;
        member.baseline = NO_COUNTS;
        member.effective = Some(effective);
        self.members.insert(cgroup, member);
        self.attached(cgroup, &at_attach, left_out);
        self.follow_rewriters_of(cgroup);
    }

    fn failed(&mut self, workload: Workload, reason: String) {
        let cgroup = workload.cgroup;
        // Its network is told once, and must be known when it can be enforced at last.
        let (since, namespace) = match self.members.get(&cgroup) {
            Some(member) => (member.failure.as_ref().map(|(_, since)| *since), member.namespace.clone()),
            None => (None, None),
        };
        let Some(under) = self.rules.as_ref().and_then(|rules| rules.named(&workload)) else { return };
        let since = since.unwrap_or_else(Instant::now);
        let failed = Member { namespace, ..Member::failed(workload, under, reason, since) };
        self.members.insert(cgroup, failed);
    }

    /// Gives enforced workloads the ruleset of one policy, where it is another. Together, because finding out whether a
    /// large ruleset is the same takes as long as everything else.
    pub(super) fn swap(&mut self, cgroups: &[u64], effective: &Arc<Effective>) {
        let has =
            |member: &Member| member.effective.as_ref().is_some_and(|found| Arc::ptr_eq(found, effective));
        let cgroups: Vec<u64> = cgroups
            .iter()
            .copied()
            .filter(|id| self.members.get(id).is_some_and(|member| !has(member)))
            .collect();
        if cgroups.is_empty() {
            return;
        }
        match self.node.swap_all(&cgroups, &effective.compiled.words) {
            Ok(0) => {}
            Ok(written) => info!(policy = effective.name, workloads = written, "another ruleset is in force"),
            Err(refused) => {
                // The old ruleset stays in force, whole.
                error!(policy = effective.name, error = %refused, "the old ruleset stays");
                self.behind = Some(format!("policy {}: {refused}", effective.name));
                return;
            }
        }
        for cgroup in &cgroups {
            // What is counted in between counts under the new one, as the next look at it does.
            self.count_under(*cgroup, under(effective));
            if let Some(member) = self.members.get_mut(cgroup) {
                member.ruleset = effective.hash;
                member.effective = Some(Arc::clone(effective));
            }
            self.take_back(*cgroup, effective);
            self.note_lack(*cgroup);
        }
    }

    /// From now on the workload's violations count under this policy; what it did until now it did under the other.
    fn count_under(&mut self, cgroup: u64, under: Under) {
        let Some(member) = self.members.get_mut(&cgroup) else { return };
        // An empty name stands for an adopted workload of which nothing was saved: all of it counts as the policy's.
        if member.under != under
            && !member.under.policy.is_empty()
            && let Ok(state) = self.node.state(cgroup)
        {
            self.totals.add(&member.under, &state, &member.baseline);
            member.baseline = state.counts;
        }
        member.under = under;
    }

    pub(super) fn let_go(&mut self, cgroup: u64) {
        let Some(member) = self.members.remove(&cgroup) else { return };
        if let Some(since) = member.failure.as_ref().map(|(_, since)| *since).or(member.lacking) {
            self.unenforced += since.elapsed().as_secs_f64();
        }
        if !member.is_enforced() {
            return;
        }
        let state = self.node.state(cgroup);
        if let Err(refused) = self.node.release(cgroup) {
            warn!(workload = %member.workload.label(), error = %refused, "could not be let go");
        }
        self.quarantines.call_off(cgroup);
        self.quarantines.let_go(cgroup, "no policy selects it any more");
        info!(workload = %member.workload.label(), "let go");
        if let Ok(state) = state {
            self.totals.add_gone(&member.under, &state, &member.baseline);
            if state.violations > 0 {
                // A sum that is not saved would be lost with the agent.
                self.save();
            }
            self.gone.push((Instant::now(), member, Box::new(state)));
        }
    }

    fn unseen(&mut self, why: Option<String>) {
        match &why {
            Some(why) if self.unseen.is_none() => {
                error!(why, "some cgroups cannot be looked at: a workload among them is not enforced");
            }
            None if self.unseen.is_some() => info!("all cgroups can be looked at again"),
            _ => {}
        }
        self.unseen = why;
    }

    /// What has to be looked at now and then: workloads that could not be enforced, quarantines whose record was lost or
    /// whose time has come, and the memory of workloads that are gone.
    pub fn tick(&mut self) {
        self.gone.retain(|(since, ..)| since.elapsed() < REMEMBER_GONE);
        self.look_for_others();
        self.look_around();
        self.retry();
        self.look_for_quarantines();
        self.finish();
        self.finish_older();
        self.release_due();
        self.sweep_grants();
        self.saved.flush(&self.members, &self.totals);
    }

    fn retry(&mut self) {
        let failed: Vec<Workload> = self
            .members
            .values()
            .filter(|member| member.failure.is_some())
            .map(|member| member.workload.clone())
            .collect();
        for workload in failed {
            self.appeared(workload);
        }
    }

    /// Takes enforcement out of the kernel, for good: until another agent starts.
    pub fn detach(&mut self) -> Result<usize, Refusal> {
        let workloads: Vec<u64> = self.members.keys().copied().collect();
        let mut count = 0;
        for cgroup in workloads {
            let Some(member) = self.members.get_mut(&cgroup) else { continue };
            if !member.is_enforced() {
                continue;
            }
            let state = self.node.state(cgroup);
            self.node.release(cgroup).map_err(|refused| Refusal(refused.to_string()))?;
            if let Ok(state) = state {
                // Its counters end with its enforcement; what the node counted stays.
                self.totals.add_gone(&member.under, &state, &member.baseline);
            }
            self.quarantines.let_go(cgroup, "enforcement was taken out of the kernel");
            member.enforced_since = None;
            member.failure = Some(("an operator detached it".into(), Instant::now()));
            count += 1;
        }
        self.detached = true;
        self.save();
        warn!(workloads = count, "enforcement was taken out of the kernel by an operator");
        Ok(count)
    }

    /// The kernel's side, for what is told to it that no workload is concerned by.
    pub fn node(&mut self) -> &mut Node {
        &mut self.node
    }

    /// Is any set of policies in force?
    #[must_use]
    pub fn has_rules(&self) -> bool {
        self.rules.is_some()
    }

    /// Is anything enforced?
    #[must_use]
    pub fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    /// What was wrong with the allowlists, last.
    #[must_use]
    pub fn reload_errors(&self) -> String {
        self.reload.outcome.clone().err().unwrap_or_default()
    }

    pub(super) fn save_soon(&mut self) {
        self.saved.mark();
    }

    /// Writes what has to survive the agent.
    pub fn save(&mut self) {
        self.saved.mark();
        self.saved.flush(&self.members, &self.totals);
    }
}

/// By ruleset.
pub(super) fn grouped(wanted: Vec<(u64, Arc<Effective>)>) -> Vec<(Arc<Effective>, Vec<u64>)> {
    let mut groups: Vec<(Arc<Effective>, Vec<u64>)> = Vec::new();
    for (cgroup, effective) in wanted {
        match groups.iter_mut().find(|(found, _)| Arc::ptr_eq(found, &effective)) {
            Some((_, cgroups)) => cgroups.push(cgroup),
            None => groups.push((effective, vec![cgroup])),
        }
    }
    groups
}
