//! Other people's programs on the enforced cgroups and above them: who else decides there is told, not judged. Where one may
//! rewrite the addresses of calls, programs of the agent's follow it there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::member::Member;
use super::reconciler::Reconciler;
use crate::config::LoadBalancer;
use crate::kernel::{Hook, OtherProgram};

/// How often to look, unless a workload was added.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What was seen last.
#[derive(Debug)]
pub(super) struct Others {
    /// Whether what may be rewritten is followed.
    load_balancer: LoadBalancer,
    pub(super) found: Vec<OtherProgram>,
    /// `None` to look as soon as there is time.
    pub(super) seen: Option<Instant>,
    /// Where what may be rewritten cannot be followed, and why.
    unfollowed: Vec<(PathBuf, String)>,
}

impl Others {
    pub(super) const fn new(load_balancer: LoadBalancer) -> Self {
        Self { load_balancer, found: Vec::new(), seen: None, unfollowed: Vec::new() }
    }

    const fn follows(&self) -> bool {
        matches!(self.load_balancer, LoadBalancer::Follow)
    }
}

impl Reconciler {
    pub(super) fn look_for_others(&mut self) {
        if self.others.seen.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.others.seen = Some(Instant::now());
        let cgroups = self.cgroups_and_above();
        let mut found = self.node.others_on(cgroups.iter().map(PathBuf::as_path));
        found.sort();
        let known = |one: &OtherProgram| self.others.found.iter().any(|other| other.is_same(one));
        for one in found.iter().filter(|one| !known(one)) {
            let (cgroup, OtherProgram { hook, id, name, .. }) = (one.cgroup.display(), one);
            if one.exclusive {
                warn!(
                    %cgroup, hook, id, name,
                    "another program is attached without the multi flag: no workload below that cgroup can be enforced anew"
                );
            } else if Hook::can_rewrite(hook) && !self.others.follows() {
                info!(
                    %cgroup, hook, id, name,
                    "another program is attached. Should it rewrite addresses, as load balancers do, `load_balancer: follow` lets \
                     policies name services"
                );
            } else {
                info!(%cgroup, hook, id, name, "another program is attached");
            }
        }
        self.follow_rewriters(&mut found);
        self.others.found = found;
    }

    /// A workload was just added: what it does first may be to call a service.
    pub(super) fn follow_rewriters_of(&mut self, cgroup: u64) {
        let Some(member) = self.members.get(&cgroup).filter(|_| self.others.follows()) else { return };
        let mut above: Vec<PathBuf> = self.directories(member).collect();
        above.reverse();
        let Some(path) = self.node.outermost_rewriter(above.iter().map(PathBuf::as_path)) else { return };
        if let Err(refused) = self.node.follow_rewriter(cgroup, path) {
            not_followed(path, &refused.to_string());
        }
    }

    fn follow_rewriters(&mut self, found: &mut [OtherProgram]) {
        let rewrites =
            |path: &PathBuf| found.iter().any(|other| other.cgroup == *path && Hook::can_rewrite(other.hook));
        let follows = self.others.follows();
        let enforced = self.members.iter().filter(|(_, member)| follows && member.is_enforced());
        let wanted: BTreeMap<u64, PathBuf> = enforced
            .filter_map(|(cgroup, member)| Some((*cgroup, self.directories(member).filter(rewrites).last()?)))
            .collect();
        let failed: Vec<(PathBuf, String)> = match self.node.follow_rewriters(&wanted) {
            Ok(failed) => failed.into_iter().map(|(path, error)| (path, error.to_string())).collect(),
            Err(error) => wanted.values().map(|path| (path.clone(), error.to_string())).collect(),
        };
        for (path, why) in failed.iter().filter(|one| !self.others.unfollowed.contains(one)) {
            not_followed(path, why);
        }
        let followed = |path: &Path| failed.iter().all(|(other, _)| other != path);
        let ends: BTreeSet<&PathBuf> = wanted.values().filter(|path| followed(path)).collect();
        for other in found.iter_mut().filter(|other| Hook::can_rewrite(other.hook)) {
            other.followed = ends.iter().any(|end| other.cgroup.starts_with(end));
        }
        self.others.unfollowed = failed;
    }

    fn cgroups_and_above(&self) -> BTreeSet<PathBuf> {
        let enforced = self.members.values().filter(|member| member.is_enforced());
        enforced.flat_map(|member| self.directories(member)).collect()
    }

    /// A workload's cgroup, and all above it to the mount.
    fn directories<'m>(&'m self, member: &'m Member) -> impl Iterator<Item = PathBuf> + 'm {
        let directory = |path: &Path| self.mount.join(path.strip_prefix("/").unwrap_or(path));
        member.workload.path.ancestors().map(directory)
    }
}

fn not_followed(cgroup: &Path, why: &str) {
    let cgroup = cgroup.display();
    warn!(%cgroup, why, "what another program there may make of an address cannot be seen: a policy that names services may refuse them");
}
