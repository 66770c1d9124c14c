//! Cgroups on which somebody's program may rewrite the addresses of calls that ours have judged below. There, behind all
//! others, sit programs of ours that see what became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use egress_warden_common::backend::Backend;

use super::link::Link;
use super::programs::{Loaded, keep, remove};
use super::{Node, NodeError};
use crate::kernel::attach::{Hook, query};
use crate::kernel::clock::boot_ns;
use crate::kernel::{KernelError, others};

impl Node {
    /// Sees to it that calls of these workloads are followed to where they are rewritten last, and those of no others. Tells
    /// which cgroup could not be followed, and why: its workloads are judged by what their applications name and by where
    /// their packets go, as if nobody rewrote anything.
    pub fn follow_rewriters(
        &mut self,
        wanted: &BTreeMap<u64, PathBuf>,
    ) -> Result<Vec<(PathBuf, NodeError)>, NodeError> {
        let (mut followed, mut failed) = (BTreeMap::new(), Vec::new());
        for path in wanted.values().collect::<BTreeSet<_>>() {
            match self.follow(path) {
                Ok(id) => drop(followed.insert(path, id)),
                Err(error) => failed.push((path.clone(), error)),
            }
        }
        let mut slots = BTreeSet::new();
        for (cgroup, path) in wanted {
            if followed.contains_key(path) {
                slots.insert(self.slot(*cgroup)?);
            }
        }
        // The table stands only while the programs behind it do: on its word calls are let go on to them.
        let listed = self.maps.listed_backends()?;
        for slot in listed.difference(&slots) {
            self.maps.remove_backends(*slot)?;
        }
        for slot in slots.difference(&listed) {
            self.maps.add_backends(*slot, boot_ns()?)?;
        }
        let stay: BTreeSet<u64> = followed.into_values().collect();
        for cgroup in self.directory.followed()?.into_iter().filter(|id| !stay.contains(id)) {
            self.directory.remove_rewriter(cgroup)?;
        }
        Ok(failed)
    }

    /// The same for a workload that was just added, while the others stay as they are. `above` is where.
    pub fn follow_rewriter(&mut self, workload: u64, above: &Path) -> Result<(), NodeError> {
        let slot = self.slot(workload)?;
        self.follow(above)?;
        Ok(self.maps.add_backends(slot, boot_ns()?)?)
    }

    /// The backends that the workload was seen to reach by a service's address, however long ago.
    pub fn backends_of(&self, workload: u64) -> Result<Vec<Backend>, NodeError> {
        Ok(self.maps.backends_of(self.slot(workload)?)?)
    }

    /// The outermost of these cgroups on which somebody's program may rewrite addresses: it sees them last. They are given
    /// from the outside inwards.
    #[must_use]
    pub fn outermost_rewriter<'p>(&self, cgroups: impl IntoIterator<Item = &'p Path>) -> Option<&'p Path> {
        let own = self.programs.ids();
        cgroups.into_iter().find(|cgroup| others::may_rewrite(cgroup, &own).unwrap_or(false))
    }

    /// Puts our programs behind all others on a cgroup; tells its id.
    fn follow(&self, path: &Path) -> Result<u64, NodeError> {
        let failed = |source| KernelError::Query { path: path.to_owned(), hook: "cgroup", source };
        let directory = File::open(path).map_err(failed)?;
        let id = directory.metadata().map_err(failed)?.ino();
        let pins = self.directory.rewriter(id);
        fs::create_dir_all(&pins).map_err(NodeError::pin("make", &pins))?;
        for (hook, program) in self.programs.last() {
            put_last(&pins.join(hook.program), &directory, path, id, hook, program)?;
        }
        Ok(id)
    }

    /// Takes over what an earlier agent left, with the programs of this one.
    pub(super) fn adopt_rewriters(&mut self, taken: impl Fn(u32) -> bool) -> Result<(), NodeError> {
        for slot in self.maps.listed_backends()?.into_iter().filter(|slot| !taken(*slot)) {
            self.maps.remove_backends(slot)?;
        }
        for cgroup in self.directory.followed()? {
            for (hook, program) in self.programs.last() {
                keep(&self.directory.rewriter(cgroup).join(hook.program), cgroup, hook, program)?;
            }
        }
        Ok(())
    }
}

/// Makes sure that a program of ours is the last at this hook: whoever came since is put before it by a link that is made
/// anew, and until the new one is there the old one stays.
fn put_last(
    pin: &Path,
    directory: &File,
    path: &Path,
    id: u64,
    hook: &Hook,
    program: &Loaded,
) -> Result<(), NodeError> {
    let there = keep(pin, id, hook, program)?;
    let failed = |source| KernelError::Query { path: path.to_owned(), hook: hook.name, source };
    let (_, programs) = query(directory.as_fd(), hook.attach_type).map_err(failed)?;
    if there && programs.last() == Some(&program.id) {
        return Ok(());
    }
    let failed = |source| KernelError::Attach { path: path.to_owned(), hook: hook.name, source };
    let link = Link::create(program.fd.as_fd(), directory.as_fd(), hook.attach_type).map_err(failed)?;
    if there {
        Link::open(pin).and_then(|old| old.detach()).map_err(NodeError::pin("detach", pin))?;
        remove(pin)?;
    }
    link.pin(pin).map_err(NodeError::pin("pin a link at", pin))
}
