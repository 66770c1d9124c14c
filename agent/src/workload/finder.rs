//! What is known of the cgroups that policies select, and what follows from a look at one.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::cgroup_tree::{children, processes};
use super::mount::CgroupMount;
use super::pattern::Selection;
use super::{Change, Workload, path_text};

/// Characters of a path in a message.
const SHOWN: usize = 200;

/// What could not be looked at.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    /// The first of it, in words.
    pub(super) why: Option<String>,
    /// Something that may be enforced already is not among what was found.
    pub(super) is_partial: bool,
}

impl Unseen {
    pub(super) fn note(&mut self, path: &Path, error: &io::Error) {
        if error.kind() == ErrorKind::NotFound {
            return;
        }
        // Behind a path that the kernel does not take nothing was ever enforced.
        self.is_partial |= error.raw_os_error() != Some(libc::ENAMETOOLONG);
        self.why.get_or_insert_with(|| {
            let text = path_text(path);
            let end: String = text.chars().take(SHOWN).collect();
            format!("{end}{}: {error}", if end.len() < text.len() { "…" } else { "" })
        });
    }
}

/// The workloads that were told of.
#[derive(Debug)]
pub(super) struct Finder {
    pub(super) mount: CgroupMount,
    pub(super) selection: Selection,
    known: HashMap<PathBuf, u64>,
    /// Cgroups that hold this agent and were told of.
    own: HashSet<PathBuf>,
}

impl Finder {
    pub(super) fn new(mount: CgroupMount) -> Self {
        Self { mount, selection: Selection::default(), known: HashMap::new(), own: HashSet::new() }
    }

    /// The paths from here down that are workloads. `parent` is called with every directory in which further ones can
    /// appear, before it is read: what appears in it afterwards is then told. What cannot be read keeps nothing else from
    /// being found.
    pub(super) fn candidates(
        &self,
        from: &Path,
        mut parent: impl FnMut(&Path) -> io::Result<()>,
        unseen: &mut Unseen,
    ) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![from.to_owned()];
        while let Some(path) = open.pop() {
            if let Some(workload) = self.selection.workload_of(&path) {
                if workload == path {
                    found.push(path);
                }
                continue;
            }
            if !self.selection.leads_on(&path) {
                continue;
            }
            match parent(&path).and_then(|()| children(&self.mount.directory(&path))) {
                Ok(names) => open.extend(names.into_iter().map(|name| path.join(name))),
                Err(error) => unseen.note(&path, &error),
            }
        }
        found.sort();
        found
    }

    /// Forgets everything, looks at everything, and gives all workloads that can be seen.
    pub(super) fn all(
        &mut self,
        parent: impl FnMut(&Path) -> io::Result<()>,
        unseen: &mut Unseen,
    ) -> Vec<Workload> {
        self.known.clear();
        let mut workloads = Vec::new();
        for path in self.candidates(Path::new("/"), parent, unseen) {
            match self.look(&path) {
                Ok(workload) => workloads.extend(workload),
                Err(error) => unseen.note(&path, &error),
            }
        }
        workloads
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
            if self.own.insert(path.to_owned()) {
                warn!(
                    path = path_text(path),
                    "a policy selects the agent's own cgroup or one above it: neither that nor anything below it is enforced; \
                     select the cgroups of the workloads"
                );
            }
            return Ok(None);
        }
        self.known.insert(path.to_owned(), cgroup);
        Ok(Some(Workload { cgroup, path: path.to_owned(), pod: None }))
    }
}

fn holds_process(directory: &Path, process: u32) -> io::Result<bool> {
    Ok(processes(directory)?.contains(&process))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

    use super::super::pattern::Pattern;
    use super::*;

    /// A tree without a kernel's cgroups behind it, and a look at what is in it.
    fn look(tree: &Path, globs: &[&str]) -> (Vec<PathBuf>, Unseen) {
        let mut finder = Finder::new(CgroupMount::new(tree.to_owned(), "/".into()));
        finder.selection = Selection::new(globs.iter().map(|glob| Pattern::new(glob).unwrap()).collect());
        let mut unseen = Unseen::default();
        let found = finder.all(|_| Ok(()), &mut unseen).into_iter().map(|workload| workload.path).collect();
        (found, unseen)
    }

    /// Cgroups in cgroups, deeper than a path can be long.
    fn make_deep(top: &Path) {
        let name = "d".repeat(250);
        let mut here = openat(CWD, top, OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..20 {
            mkdirat(&here, &name, Mode::RWXU).unwrap();
            here = openat(&here, &name, OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn a_deep_tree_hides_nobody_else() {
        let tree = tempfile::tempdir().unwrap();
        for name in ["a", "jobs", "jobs/1", "z", "z/job"] {
            fs::create_dir(tree.path().join(name)).unwrap();
        }
        let expected = ["/jobs/1", "/z/job"].map(PathBuf::from).to_vec();
        // In a workload of its own it concerns nobody.
        make_deep(&tree.path().join("jobs/1"));
        let (found, unseen) = look(tree.path(), &["jobs/*", "z/*"]);
        assert_eq!((&found, unseen.why), (&expected, None));
        make_deep(&tree.path().join("a"));
        // Nor where nothing can be selected.
        let (found, unseen) = look(tree.path(), &["jobs/*", "z/*"]);
        assert_eq!((&found, unseen.why), (&expected, None));
        let (found, unseen) = look(tree.path(), &["jobs/*", "z/*", "a/**/job"]);
        assert_eq!(found, expected);
        assert!(unseen.why.is_some_and(|why| why.starts_with("/a/ddd")), "it is told");
        assert!(!unseen.is_partial, "nobody who was enforced can be behind it");
    }

    #[test]
    fn a_name_that_is_no_text_is_a_name() {
        let tree = tempfile::tempdir().unwrap();
        let name = OsStr::from_bytes(b"a\xff\n");
        fs::create_dir(tree.path().join(name)).unwrap();
        let (found, unseen) = look(tree.path(), &["*"]);
        assert_eq!((found, unseen.why), (vec![Path::new("/").join(name)], None));
        assert_eq!(path_text(Path::new(name)), "a\\xff\n");
    }

    #[test]
    fn a_look_that_failed_lets_nobody_go() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("a")).unwrap();
        let mut finder = Finder::new(CgroupMount::new(tree.path().into(), "/".into()));
        finder.selection = Selection::new(vec![Pattern::new("a/*").unwrap()]);
        let mut unseen = Unseen::default();
        let no_descriptors = |_: &Path| Err(io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!(finder.all(no_descriptors, &mut unseen), []);
        assert!(unseen.is_partial && unseen.why.is_some());
    }
}
