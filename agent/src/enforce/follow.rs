//! What follows a quarantine. The kernel made it, at the attempt that crossed the threshold; here come the slower things,
//! and those that people ask for.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tracing::{error, info, warn};

use super::Refusal;
use super::member::{Member, open};
use super::reconciler::Reconciler;
use crate::allowlist::Action;
use crate::policy::Mode;
use crate::quarantine::Begin;

impl Reconciler {
    /// Quarantines of which no record told.
    pub(super) fn look_for_quarantines(&mut self) {
        let enforced: Vec<u64> = self
            .members
            .values()
            .filter(|member| member.is_enforced())
            .map(|member| member.workload.cgroup)
            .collect();
        for cgroup in enforced {
            self.follow_up(cgroup);
        }
    }

    /// Does what the policy says once a workload went past its threshold.
    pub fn follow_up(&mut self, cgroup: u64) {
        let Ok(state) = self.node.state(cgroup) else { return };
        if state.would_quarantine_at != 0 {
            self.would_have(cgroup);
        }
        let Some(member) = self.members.get_mut(&cgroup) else { return };
        if state.quarantined_at == 0 || member.quarantine_seen {
            return;
        }
        member.quarantine_seen = true;
        let rule = member.effective.as_ref().and_then(|effective| {
            effective.quarantine.get(usize::try_from(state.quarantine_rule).ok()?).cloned()
        });
        let (action, release, why) = match rule {
            Some(rule) => {
                let within = Duration::from_nanos(rule.within_ns).as_secs();
                let why = format!("{} violations within {within} s ({})", rule.violations, rule.origin);
                (rule.action, rule.release_ns.map(Duration::from_nanos), why)
            }
            None => (Action::Isolate, None, "went past a threshold of an earlier ruleset".to_owned()),
        };
        warn!(workload = %member.workload.label(), action = action.name(), why, "quarantined");
        self.totals.quarantined(&member.under.policy.clone(), action);
        self.begin(cgroup, action, "kernel", &why, release);
        self.save();
    }

    fn would_have(&mut self, cgroup: u64) {
        let Some(member) = self.members.get(&cgroup) else { return };
        info!(workload = %member.workload.label(), "audit: it would have been quarantined");
        *self.totals.would_quarantine.entry(member.under.policy.clone()).or_default() += 1;
        if let Err(error) = self.node.forgive(cgroup) {
            warn!(%error, "the next quarantine that audit would have made is not counted");
        }
        self.save();
    }

    fn begin(&mut self, cgroup: u64, action: Action, who: &str, why: &str, release: Option<Duration>) {
        let Some(member) = self.members.get(&cgroup) else { return };
        let directory = match open(&self.mount, &member.workload) {
            Ok(directory) => directory,
            Err(error) => return warn!(%error, "its cgroup is gone"),
        };
        let directory = held(&directory);
        let until = release.map(|after| SystemTime::now() + after);
        let begin = Begin {
            cgroup,
            directory: &directory.0,
            label: &member.workload.label(),
            policy: &member.under.policy,
            action,
            who,
            why,
            until,
            ruleset: member.effective.as_deref().map(|effective| &effective.compiled),
            namespace: member.namespace.as_ref(),
        };
        if let Err(error) = self.quarantines.begin(&begin) {
            error!(workload = %member.workload.label(), %error, "isolated in the kernel, but not all that follows was done");
        }
    }

    pub(super) fn release_due(&mut self) {
        for cgroup in self.quarantines.due(SystemTime::now()) {
            if let Err(refused) = self.release(cgroup, "agent", "its time ran out") {
                warn!(error = %refused, "could not be released");
            }
        }
    }

    fn release(&mut self, cgroup: u64, who: &str, why: &str) -> Result<(), Refusal> {
        let Some(member) = self.members.get_mut(&cgroup) else {
            self.quarantines.forget(cgroup);
            return Err(Refusal("the workload is gone".into()));
        };
        member.quarantine_seen = false;
        let directory = open(&self.mount, &member.workload);
        let directory = directory.map_err(|error| Refusal(format!("its cgroup: {error}")))?;
        let directory = held(&directory);
        let forgiven = self.node.forgive(cgroup).map_err(|error| Refusal(error.to_string()));
        let ended = self.quarantines.end(cgroup, &directory.0, who, why);
        info!(workload = %member.workload.label(), who, why, "released from quarantine");
        forgiven.and(ended.map_err(|error| Refusal(error.to_string())))
    }

    /// Somebody asks for a quarantine.
    pub fn quarantine_by_hand(
        &mut self,
        name: &str,
        action: Action,
        who: &str,
        why: &str,
    ) -> Result<(), Refusal> {
        let cgroup = self.find(name)?;
        let Some(member) = self.members.get_mut(&cgroup) else { return Err(unknown(name)) };
        if !member.is_enforced() {
            return Err(Refusal(format!("{name} is not enforced: nothing would be cut off")));
        }
        if member.under.mode() == Mode::Audit {
            return Err(Refusal(format!(
                "{name} is in audit, which lets everything through; enforce it first"
            )));
        }
        member.quarantine_seen = true;
        let policy = member.under.policy.clone();
        self.node.quarantine(cgroup).map_err(|error| Refusal(error.to_string()))?;
        self.totals.quarantined(&policy, action);
        self.begin(cgroup, action, who, why, None);
        self.save();
        Ok(())
    }

    /// Somebody asks for a release.
    pub fn release_by_hand(&mut self, name: &str, who: &str, why: &str) -> Result<(), Refusal> {
        let cgroup = self.find(name)?;
        if self.node.state(cgroup).is_ok_and(|state| state.quarantined_at == 0) {
            return Err(Refusal(format!("{name} is not in quarantine")));
        }
        self.release(cgroup, who, why)
    }

    /// The workload of this label, this path, or the only one whose path ends so.
    fn find(&self, name: &str) -> Result<u64, Refusal> {
        let exact =
            |member: &&Member| member.workload.label() == name || member.workload.path.as_os_str() == name;
        if let Some(member) = self.members.values().find(exact) {
            return Ok(member.workload.cgroup);
        }
        let ending: Vec<&Member> =
            self.members.values().filter(|member| member.workload.path.ends_with(name)).collect();
        match ending.as_slice() {
            [one] => Ok(one.workload.cgroup),
            [] => Err(unknown(name)),
            several => {
                let paths: Vec<String> =
                    several.iter().take(5).map(|member| member.workload.path.display().to_string()).collect();
                Err(Refusal(format!("{name} is not one workload; write one of: {}", paths.join(", "))))
            }
        }
    }
}

/// A path that leads to this cgroup and to no other, whatever is made in its place.
fn held(directory: &File) -> (PathBuf, &File) {
    (PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())), directory)
}

fn unknown(name: &str) -> Refusal {
    Refusal(format!("{name}: no such workload; `egress-warden status` lists them"))
}
