//! What follows a quarantine. The kernel made it, at the attempt that crossed the threshold; here come the slower things,
//! and those that people ask for.

use std::time::Duration;

use egress_warden_common::state::State;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Refusal;
use super::member::{Member, open};
use super::reconciler::Reconciler;
use crate::allowlist::Action;
use crate::kernel::clock::{HostClock, boot_ns};
use crate::policy::Mode;
use crate::quarantine::cut::{Done, Judge};
use crate::quarantine::{Begin, EndError, Outcome, refused_behind_services, refused_in_quarantine};

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
                (rule.action, rule.release, why)
            }
            None => (Action::Isolate, None, "went past a threshold of an earlier ruleset".to_owned()),
        };
        warn!(workload = %member.workload.label(), action = %action.name(), why, "quarantined");
        let policy = member.under.policy.clone();
        self.totals.quarantined(&policy, action);
        self.begin(cgroup, &state, &Order { action, who: "kernel", why: &why, release });
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

    fn begin(&mut self, cgroup: u64, state: &State, order: &Order<'_>) -> Outcome {
        let Some(member) = self.members.get(&cgroup) else { return Outcome::default() };
        let directory = match open(&self.mount, &member.workload) {
            Ok(directory) => directory.into(),
            Err(error) => {
                warn!(%error, "its cgroup is gone");
                return Outcome { problems: vec![format!("its cgroup: {error}")], cut: None };
            }
        };
        let judge = self.judge(member);
        let label = member.workload.label();
        self.quarantines.begin(Begin {
            cgroup,
            directory,
            path: &member.workload.path,
            workload: &label,
            policy: &member.under.policy,
            action: order.action,
            who: order.who,
            why: order.why,
            quarantined_at: state.quarantined_at,
            release: order.release,
            violations: state.violations,
            judge,
        })
    }

    /// Judges by what the kernel has, and not by what it should have.
    fn judge(&self, member: &Member) -> Judge {
        let cgroup = member.workload.cgroup;
        let words = self.node.words_of(cgroup).unwrap_or_default();
        let grants = self.node.remembered_grants(cgroup).unwrap_or_default();
        let refused = refused_in_quarantine(words, HostClock, is_in_host(member), grants);
        Box::new(refused_behind_services(refused, self.node.backends_of(cgroup).unwrap_or_default()))
    }

    /// What came of ending a workload's connections. Who asked for its quarantine is answered only now.
    pub fn connections_ended(&mut self, done: Done) {
        let older = self.older_ended(&done);
        let asked = self.asked.remove(&done.number);
        let problems = self.quarantines.ended(done);
        if let Some(cgroup) = older {
            self.tell_older(cgroup, &problems);
        }
        if let Some(asked) = asked {
            asked.answer(problems);
        }
    }

    /// Are connections being ended?
    #[must_use]
    pub fn is_ending_connections(&self) -> bool {
        self.quarantines.is_cutting()
    }

    /// Does what an earlier agent began and did not see to its end.
    pub(super) fn finish(&mut self) {
        for cgroup in std::mem::take(&mut self.unfinished) {
            let Some(member) = self.members.get(&cgroup) else { continue };
            let judge = self.judge(member);
            self.quarantines.finish(cgroup, judge);
        }
    }

    /// Boot time in nanoseconds at which the next quarantine ends by itself.
    #[must_use]
    pub fn next_release(&self) -> Option<u64> {
        self.quarantines.next_due()
    }

    pub(super) fn release_due(&mut self) {
        let Ok(now) = boot_ns() else { return };
        for cgroup in self.quarantines.due(now) {
            if let Err(refused) = self.release(cgroup, "agent", "its time ran out") {
                warn!(error = %refused, "could not be released");
            }
        }
    }

    fn release(&mut self, cgroup: u64, who: &str, why: &str) -> Result<(), Refusal> {
        let Some(member) = self.members.get_mut(&cgroup) else {
            self.quarantines.gone(cgroup);
            return Err(Refusal("the workload is gone".into()));
        };
        // First in the kernel, so that what goes on meets no refusal.
        self.node.forgive(cgroup).map_err(|error| Refusal(error.to_string()))?;
        member.quarantine_seen = false;
        info!(workload = %member.workload.label(), who, why, "released from quarantine");
        match self.quarantines.end(cgroup, who, why) {
            // The kernel had it in quarantine, and nobody had followed that up yet.
            Ok(()) | Err(EndError::NotQuarantined) => Ok(()),
            Err(error) => Err(Refusal(error.to_string())),
        }
    }

    /// Somebody asks for a quarantine. The answer waits until its connections are ended.
    pub fn quarantine_by_hand(&mut self, name: String, action: Action, who: &str, why: &str, reply: Reply) {
        match self.begin_by_hand(&name, action, who, why) {
            Ok(Outcome { problems, cut }) => {
                let asked = Asked { name, problems, reply };
                match cut {
                    Some(number) => drop(self.asked.insert(number, asked)),
                    None => asked.answer(Vec::new()),
                }
            }
            // Nobody waiting for it any more is no error.
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    fn begin_by_hand(
        &mut self,
        name: &str,
        action: Action,
        who: &str,
        why: &str,
    ) -> Result<Outcome, Refusal> {
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
        let state = self.node.state(cgroup).map_err(|error| Refusal(error.to_string()))?;
        self.totals.quarantined(&policy, action);
        let outcome = self.begin(cgroup, &state, &Order { action, who, why, release: None });
        self.save();
        Ok(outcome)
    }

    /// Somebody asks for a release.
    pub fn release_by_hand(&mut self, name: &str, who: &str, why: &str) -> Result<(), Refusal> {
        let cgroup = self.find(name)?;
        let lasts = self.node.state(cgroup).is_ok_and(|state| state.quarantined_at != 0);
        // One that could not be thawed is out of it in the kernel already.
        if !lasts && self.quarantines.status(cgroup).is_none() {
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

/// Where an answer goes.
type Reply = oneshot::Sender<Result<(), Refusal>>;

/// Somebody who waits for a quarantine.
#[derive(Debug)]
pub(super) struct Asked {
    name: String,
    /// What did not work so far.
    problems: Vec<String>,
    reply: Reply,
}

impl Asked {
    fn answer(mut self, more: Vec<String>) {
        self.problems.extend(more);
        let answer = if self.problems.is_empty() {
            Ok(())
        } else {
            let problems = self.problems.join("; ");
            Err(Refusal(format!("{} is cut off, but not all that was asked was done: {problems}", self.name)))
        };
        // Nobody waiting for it any more is no error.
        let _ = self.reply.send(answer);
    }
}

/// What is to be done, at whose word.
struct Order<'a> {
    action: Action,
    who: &'a str,
    why: &'a str,
    /// Nanoseconds after which it ends by itself.
    release: Option<u64>,
}

/// What the programs take it for, too, until they are told of its network.
fn is_in_host(member: &Member) -> bool {
    member.namespace.as_ref().is_none_or(|namespace| namespace.is_host)
}

fn unknown(name: &str) -> Refusal {
    Refusal(format!("{name}: no such workload; `egress-warden status` lists them"))
}
