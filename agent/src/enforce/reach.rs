//! What workloads have in reach beside the network, as [`crate::reach`] finds it: asked for on a schedule, told once for
//! each change.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{info, warn};

use super::reconciler::Reconciler;
use crate::reach::{Look, Looked, Reach, Subject};

/// How often to look, unless a workload's network became known.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// After that long it is told that a look does not end.
const LONGEST: Duration = Duration::from_secs(60);

/// As many looks wait for each other; who asks for one more is answered with what is known.
const MOST_AWAITED: usize = 16;

/// Who looks, and since when.
#[derive(Debug)]
pub(super) struct Looks {
    looks: Sender<Look>,
    /// When it was asked last; `None` to ask as soon as there is time.
    asked: Option<Instant>,
    /// Answers that are still to come.
    awaited: usize,
    told: bool,
}

impl Looks {
    pub(super) const fn new(looks: Sender<Look>) -> Self {
        Self { looks, asked: None, awaited: 0, told: false }
    }

    /// Something is there to be looked at.
    pub(super) const fn soon(&mut self) {
        self.asked = None;
    }
}

impl Reconciler {
    /// Looks if it is time to.
    pub(super) fn look_around(&mut self) {
        if self.reach.awaited == 0 {
            if self.reach.asked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                self.look(None);
            }
        } else if !self.reach.told && self.reach.asked.is_some_and(|at| at.elapsed() >= LONGEST) {
            self.reach.told = true;
            warn!(
                "what workloads have in reach is not known: a look at their processes and devices does not end"
            );
        }
    }

    /// Has somebody look at every enforced workload; `asked` hears when it is known what was found.
    pub fn look(&mut self, asked: Option<oneshot::Sender<()>>) {
        if self.reach.awaited >= MOST_AWAITED {
            return;
        }
        let enforced = self.members.values().filter(|member| member.is_enforced());
        let subjects: Vec<Subject> = enforced
            .map(|member| {
                let path = &member.workload.path;
                Subject {
                    cgroup: member.workload.cgroup,
                    directory: self.mount.join(path.strip_prefix("/").unwrap_or(path)),
                    host_network: member.namespace.as_ref().is_some_and(|namespace| namespace.is_host),
                }
            })
            .collect();
        self.reach.asked = Some(Instant::now());
        // The thread ends with the agent only.
        if self.reach.looks.send(Look { subjects, asked }).is_ok() {
            self.reach.awaited += 1;
        }
    }

    /// What was found.
    pub fn looked(&mut self, looked: Looked) {
        self.reach.awaited = self.reach.awaited.saturating_sub(1);
        self.reach.told = false;
        for (cgroup, found) in looked.found {
            // Let go meanwhile.
            let Some(member) = self.members.get_mut(&cgroup) else { continue };
            let before = member.reach.replace(found).unwrap_or_default();
            if let Some(found) = &member.reach {
                tell(&member.workload.label(), &before, found);
            }
        }
        if let Some(asked) = looked.asked {
            // Nobody waiting for it any more is no error.
            let _ = asked.send(());
        }
    }
}

/// Tells what is another than before. Processes come and go; what they may do is what counts.
fn tell(workload: &str, before: &Reach, found: &Reach) {
    let held = |reach: &Reach| -> Vec<&str> {
        reach.capabilities.iter().flat_map(|all| all.held.keys().copied()).collect()
    };
    let (then, now) = (held(before), held(found));
    if then != now {
        if now.is_empty() {
            info!(workload, "no process has capabilities any more that lead past the programs of its cgroup");
        } else {
            let capabilities = now.join(" ");
            warn!(
                workload,
                capabilities,
                "in the host's network namespace with capabilities that lead past the programs of its cgroup"
            );
        }
    }
    let unexamined = |reach: &Reach| reach.capabilities.as_ref().map_or(0, |all| all.unexamined);
    if unexamined(before) == 0 && unexamined(found) > 0 {
        warn!(workload, processes = unexamined(found), "what some of its processes may do is not known");
    }
    if before.rdma.files != found.rdma.files {
        if found.rdma.is_in_reach() {
            let files: Vec<&str> = found.rdma.files.iter().map(String::as_str).collect();
            warn!(
                workload,
                files = files.join(" "),
                "devices are in reach: what is sent by them is not judged"
            );
        } else {
            info!(workload, "no devices are in reach any more");
        }
    }
}
