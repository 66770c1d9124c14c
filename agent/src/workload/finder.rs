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
}

impl Finder {
    pub(super) fn new(mount: CgroupMount) -> Self {
        Self { mount, selection: Selection::default(), known: HashMap::new() }
    }

    /// The paths from here down that are workloads. `parent` is called with every directory in which further ones can
    /// appear, before it is read: what appears in it afterwards is then told.
    pub(super) fn candidates(
        &self,
        from: &Path,
        mut parent: impl FnMut(&Path) -> io::Result<()>,
    ) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut open = vec![from.to_owned()];
        while let Some(path) = open.pop() {
            if let Some(workload) = self.selection.workload_of(&path) {
                if workload == path {
                    found.push(path);
                }
                continue;
            }
            match parent(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other?,
            }
            open.extend(children(&self.mount.directory(&path))?.into_iter().map(|name| path.join(name)));
        }
        found.sort();
        Ok(found)
    }

    /// Forgets everything, looks at everything, and gives all workloads.
    pub(super) fn all(&mut self, parent: impl FnMut(&Path) -> io::Result<()>) -> io::Result<Vec<Workload>> {
        self.known.clear();
        let mut workloads = Vec::new();
        for path in self.candidates(Path::new("/"), parent)? {
            match self.look(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                other => workloads.extend(other?),
            }
        }
        Ok(workloads)
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
        // This agent's own cgroup and what is above it. Asked each time: another selection can match another of them.
        if holds_process(&directory, std::process::id())? {
            return Ok(None);
        }
        self.known.insert(path.to_owned(), cgroup);
        Ok(Some(Workload { cgroup, path: path.to_owned(), pod: None }))
    }
}

fn holds_process(directory: &Path, process: u32) -> io::Result<bool> {
    Ok(processes(directory)?.contains(&process))
}
