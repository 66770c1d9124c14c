//! What is known of the workloads' networks, what they lack by that, and whether the node is ready with what it has.

use std::time::Instant;

use tracing::{info, warn};

use super::reconciler::Reconciler;
use crate::kernel::OwnNamespace;

impl Reconciler {
    pub(super) fn network(&mut self, cgroup: u64, namespace: OwnNamespace) {
        let Some(member) = self.members.get_mut(&cgroup) else { return };
        if member.is_enforced() {
            let before = self.node.backstops(cgroup).map(<[_]>::to_vec).unwrap_or_default();
            if let Err(refused) = self.node.set_namespace(cgroup, &namespace) {
                warn!(workload = %member.workload.label(), error = %refused, "its network could not be told to the kernel");
            }
            let found = self.node.backstops(cgroup).unwrap_or_default();
            for one in found.iter().filter(|one| !before.contains(one)) {
                let interface = &one.interface.name;
                match &one.missing {
                    None => info!(workload = %member.workload.label(), interface, "backstop in place"),
                    Some(why) => warn!(workload = %member.workload.label(), interface, why, "no backstop"),
                }
            }
        }
        member.namespace = Some(namespace);
        self.reach.soon();
        self.note_lack(cgroup);
    }

    /// While its network is not known nothing runs in a workload, or has run for a few milliseconds: it lacks nothing yet.
    pub(super) fn note_lack(&mut self, cgroup: u64) {
        let Some(member) = self.members.get(&cgroup) else { return };
        let lacks = self.node.backstops(cgroup).is_some() && self.unmet(member).is_some();
        let Some(member) = self.members.get_mut(&cgroup) else { return };
        match (lacks, member.lacking) {
            (true, None) => member.lacking = Some(Instant::now()),
            (false, Some(since)) => {
                self.unenforced += since.elapsed().as_secs_f64();
                member.lacking = None;
            }
            _ => {}
        }
    }

    /// Is anything selected that is not enforced, or nothing known to enforce?
    pub(super) fn ready(&self) -> Result<(), String> {
        if self.detached {
            return Err("an operator detached enforcement; start the agent again".into());
        }
        if self.rules.is_none() {
            let pinned =
                if self.members.is_empty() { "nothing is pinned" } else { "only what is pinned is enforced" };
            return Err(format!("there are no valid allowlists, no last good ones, and {pinned}"));
        }
        let failed = self
            .members
            .values()
            .filter(|member| member.failure.is_some() || member.lacking.is_some())
            .count();
        if let Some(why) = &self.behind {
            return Err(format!("a ruleset could not be put in force, the one before it still is: {why}"));
        }
        if !self.node.is_pinned() {
            return Err("the pins are gone, and enforcement ends with this agent: start it again".into());
        }
        match (failed, &self.unseen) {
            (0, None) => Ok(()),
            (0, Some(why)) => Err(format!("some cgroups cannot be looked at: {why}")),
            _ => Err(format!("{failed} selected workloads are not enforced")),
        }
    }
}
