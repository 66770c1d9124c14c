//! Other people's programs on the enforced cgroups and above them: who else decides there is told, not judged.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::reconciler::Reconciler;
use crate::kernel::OtherProgram;

/// How often to look, unless a workload was added.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Others {
    pub(super) found: Vec<OtherProgram>,
    /// `None` to look as soon as there is time.
    pub(super) seen: Option<Instant>,
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
        for one in found.iter().filter(|one| !self.others.found.contains(one)) {
            let (cgroup, OtherProgram { hook, id, name, .. }) = (one.cgroup.display(), one);
            if one.exclusive {
                warn!(
                    %cgroup, hook, id, name,
                    "another program is attached without the multi flag: no workload below that cgroup can be enforced anew"
                );
            } else {
                info!(%cgroup, hook, id, name, "another program is attached");
            }
        }
        self.others.found = found;
    }

    fn cgroups_and_above(&self) -> BTreeSet<PathBuf> {
        let enforced = self.members.values().filter(|member| member.is_enforced());
        let directory = |path: &Path| self.mount.join(path.strip_prefix("/").unwrap_or(path));
        enforced
            .flat_map(|member| member.workload.path.ancestors().map(directory).collect::<Vec<_>>())
            .collect()
    }
}
