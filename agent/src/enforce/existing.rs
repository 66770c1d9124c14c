//! Connections that a workload had before it was enforced (`existing`). Looked for once, at the attach: an edit of the policy
//! ends none, and takes back what was kept.
//!
//! Whoever is to be cut is written down like whoever is kept, before the programs are attached: from the first packet on
//! nothing of it passes but the reset that tells its far end. What cannot be listed is judged like everything else.

use std::collections::HashSet;
use std::io;
use std::os::fd::BorrowedFd;

use egress_warden_common::Route;
use tracing::{error, info, warn};

use super::member::{Member, open};
use super::reconciler::Reconciler;
use super::rules::Effective;
use crate::allowlist::Existing;
use crate::kernel::diag::{Connection, TCP_AND_UDP, connections};
use crate::kernel::node::{How, Older};
use crate::policy::Mode;
use crate::quarantine::cut::Done;

/// What a workload is connected with at the moment of its attach, and what becomes of it.
#[derive(Debug)]
pub(super) struct AtAttach {
    found: Vec<Connection>,
    how: How,
}

impl AtAttach {
    /// Looks for them where the policy asks for it.
    pub(super) fn look(effective: &Effective, cgroup: BorrowedFd<'_>, workload: &str) -> Self {
        let how = if effective.existing == Existing::Cut { How::Ends } else { How::GoesOn };
        let mut at_attach = Self { found: Vec::new(), how };
        if effective.existing == Existing::Judge {
            return at_attach;
        }
        match connections(cgroup, TCP_AND_UDP) {
            Ok(found) => {
                for problem in &found.problems {
                    warn!(workload, %problem, "older connections that could not be listed are judged");
                }
                at_attach.found = found.connections;
            }
            Err(error) => warn!(workload, %error, "its older connections could not be listed and are judged"),
        }
        at_attach.found.retain(|connection| concerns(connection, how));
        if effective.mode == Mode::Audit && how == How::Ends {
            if !at_attach.found.is_empty() {
                info!(
                    workload,
                    connections = at_attach.found.len(),
                    "audit: older connections would have been ended"
                );
            }
            at_attach.found.clear();
        }
        at_attach
    }

    pub(super) fn older(&self) -> Older<'_> {
        Older { connections: &self.found, how: self.how }
    }

    fn to_be_cut(&self) -> HashSet<u64> {
        let ends = self.how == How::Ends;
        self.found.iter().filter(|_| ends).map(|connection| connection.cookie).collect()
    }
}

/// What stays in a network namespace of the workload's own goes nowhere. The node's loopback is open by the policy or not
/// at all.
fn concerns(connection: &Connection, how: How) -> bool {
    match how {
        How::GoesOn => connection.established && connection.route == Route::Uplink,
        How::Ends => connection.route == Route::Uplink || connection.host_namespace,
    }
}

impl Reconciler {
    /// The workload is enforced: tells what became of its older connections, and has those ended that are to be.
    pub(super) fn attached(&mut self, cgroup: u64, at_attach: &AtAttach, left_out: usize) {
        let Some(member) = self.members.get(&cgroup) else { return };
        let workload = member.workload.label();
        let (found, outcome) = (at_attach.found.len(), &mut self.totals.older);
        if at_attach.how == How::GoesOn {
            outcome.kept += (found - left_out) as u64;
            outcome.judged += left_out as u64;
        }
        if found == 0 {
            return;
        }
        match at_attach.how {
            How::GoesOn => info!(workload, connections = found - left_out, "older connections are kept"),
            How::Ends => info!(workload, connections = found, "older connections are being ended"),
        }
        if left_out > 0 {
            let what = match at_attach.how {
                How::GoesOn => "judged like new ones",
                How::Ends => "ended without a word to their far ends",
            };
            warn!(workload, connections = left_out, "too many older connections: some are {what}");
        }
        self.cut_older(cgroup, at_attach.to_be_cut());
    }

    fn cut_older(&mut self, cgroup: u64, sockets: HashSet<u64>) {
        if sockets.is_empty() {
            return;
        }
        if let Err(error) = self.begin_cut(cgroup, sockets) {
            error!(cgroup, %error, "older connections are not ended, but judged");
            self.forget_older(cgroup, How::Ends);
        }
    }

    fn begin_cut(&mut self, cgroup: u64, sockets: HashSet<u64>) -> io::Result<()> {
        let Some(member) = self.members.get(&cgroup) else { return Ok(()) };
        let directory = open(&self.mount, &member.workload)?;
        let judge = Box::new(move |connection: &Connection| sockets.contains(&connection.cookie));
        let workload = member.workload.label();
        let number = self.quarantines.cut_older(cgroup, workload, directory.into(), judge)?;
        self.cutting.insert(number, cgroup);
        Ok(())
    }

    /// Connections were ended. Tells whether they were older ones, and no quarantine's.
    pub(super) fn older_ended(&mut self, done: &Done) -> Option<u64> {
        let cgroup = self.cutting.remove(&done.number)?;
        if let Ok(ended) = &done.result {
            self.totals.older.cut += ended.ended as u64;
        }
        Some(cgroup)
    }

    /// What is left of them is judged like anything else.
    pub(super) fn tell_older(&mut self, cgroup: u64, problems: &[String]) {
        let workload = self.members.get(&cgroup).map(|member| member.workload.label()).unwrap_or_default();
        for problem in problems {
            error!(workload, problem, "older connections were not all ended; what is left of them is judged");
        }
        self.forget_older(cgroup, How::Ends);
    }

    /// Another policy came into force that does not keep what was there before.
    pub(super) fn take_back(&mut self, cgroup: u64, effective: &Effective) {
        if effective.existing != Existing::Keep {
            self.forget_older(cgroup, How::GoesOn);
        }
    }

    /// What an earlier agent wrote down to be cut and did not see to its end.
    pub(super) fn finish_older(&mut self) {
        for cgroup in std::mem::take(&mut self.unfinished_older) {
            match self.begin_cut(cgroup, self.node.older(cgroup, How::Ends)) {
                // Where it is may be heard of later only. If it is gone it is let go, and is no member any more.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.unfinished_older.push(cgroup),
                Err(error) => {
                    error!(cgroup, %error, "older connections are not ended, but judged");
                    self.forget_older(cgroup, How::Ends);
                }
                Ok(()) => {}
            }
        }
    }

    fn forget_older(&mut self, cgroup: u64, how: How) {
        if !self.members.get(&cgroup).is_some_and(Member::is_enforced) {
            return;
        }
        if let Err(error) = self.node.forget_older(cgroup, how) {
            warn!(%error, "older connections of a workload are still written down");
        }
    }
}
