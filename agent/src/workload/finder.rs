//! What is known of the cgroups that policies select, and what follows from a look at one.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::cgroup_tree::{children, processes};
use super::mount::CgroupMount;
use super::pattern::Selection;
use super::{Change, Workload};

/// The workloads that were told of.
#[derive(Debug)]
pub(super) struct Finder {
    pub(super) mount: CgroupMount,
    pub(super) selection: Selection,
    known: HashMap<PathBuf, u64>,
    /// The cgroup in which this agent runs itself, once it was met: never a workload.
    own: Option<u64>,
}

impl Finder {
    pub(super) fn new(mount: CgroupMount) -> Self {
        Self { mount, selection: Selection::default(), known: HashMap::new(), own: None }
    }

    /// Looks at everything from here down and gives the workloads. `parent` is called with every directory in which
    /// further ones can appear, before it is read: what appears in it afterwards is then told.
    pub(super) fn scan(
        &mut self,
        from: &Path,
        mut parent: impl FnMut(&Path) -> io::Result<()>,
    ) -> io::Result<Vec<Workload>> {
        let mut workloads = Vec::new();
        let mut open = vec![from.to_owned()];
        while let Some(path) = open.pop() {
            if self.selection.workload_of(&path).is_some_and(|workload| workload == path) {
                match self.look(&path) {
                    Ok(Some(workload)) => workloads.push(workload),
                    Ok(None) => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
            match parent(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other?,
            }
            open.extend(children(&self.mount.directory(&path))?.into_iter().map(|name| path.join(name)));
        }
        workloads.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(workloads)
    }

    /// Forgets everything, before everything is looked at again.
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    /// A cgroup was made. Fails with "not found" while the kernel does not show it yet.
    pub(super) fn made(&mut self, path: &Path, created: Option<u64>) -> io::Result<Vec<Change>> {
        if self.selection.workload_of(path).is_none_or(|workload| workload != path) {
            return Ok(Vec::new());
        }
        let before = self.known.get(path).copied();
        let Some(workload) = self.look(path)? else { return Ok(Vec::new()) };
        let mut changes = Vec::new();
        match before {
            Some(id) if id == workload.cgroup => return Ok(changes),
            // Removed and made again before anybody looked.
            Some(id) => changes.push(Change::Gone { cgroup: id }),
            None => {}
        }
        changes.push(Change::Appeared { workload, created });
        Ok(changes)
    }

    /// A cgroup was removed.
    pub(super) fn removed(&mut self, path: &Path) -> Option<Change> {
        let id = *self.known.get(path)?;
        let there = fs::metadata(self.mount.directory(path)).map(|found| found.ino());
        // Another one was made there since, and was told of already.
        if there.is_ok_and(|there| there == id) {
            return None;
        }
        self.known.remove(path);
        Some(Change::Gone { cgroup: id })
    }

    fn look(&mut self, path: &Path) -> io::Result<Option<Workload>> {
        let directory = self.mount.directory(path);
        let cgroup = fs::metadata(&directory)?.ino();
        if self.own == Some(cgroup) {
            return Ok(None);
        }
        if self.own.is_none() && holds_process(&directory, std::process::id())? {
            self.own = Some(cgroup);
            return Ok(None);
        }
        self.known.insert(path.to_owned(), cgroup);
        Ok(Some(Workload { cgroup, path: path.to_owned(), pod: None }))
    }
}

fn holds_process(directory: &Path, process: u32) -> io::Result<bool> {
    Ok(processes(directory)?.contains(&process))
}
