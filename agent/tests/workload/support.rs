use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use egress_warden::workload::Change;
use egress_warden::workload::cgroups::{CgroupSource, Hint};
use egress_warden::workload::mount::CgroupMount;
use egress_warden::workload::pattern::{Pattern, Selection};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Generous: a test that meets its condition does not wait for it.
const DEADLINE: Duration = Duration::from_secs(10);

/// A cgroup in which a test makes its own. Removed with all that is below it.
pub(crate) struct Parent {
    pub(crate) mount: CgroupMount,
    pub(crate) path: PathBuf,
}

impl Parent {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/egress-warden-workload-{}-{count}", std::process::id()));
        let mount = CgroupMount::find(None).expect("a cgroup2 mount");
        fs::create_dir(mount.directory(&path)).expect("a cgroup of the test's own");
        Self { mount, path }
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.mount.directory(&self.path.join(name))
    }

    pub(crate) fn make(&self, name: &str) {
        fs::create_dir(self.directory(name)).expect("a cgroup");
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_dir(self.directory(name)).expect("an empty cgroup");
    }

    pub(crate) fn selection(&self, globs: &[&str]) -> Selection {
        let inside = |glob: &&str| Pattern::new(&format!("{}/{glob}", self.path.display())).expect("a glob");
        Selection::new(globs.iter().map(inside).collect())
    }

    /// A shell that is in a cgroup before it runs `script`.
    pub(crate) fn shell(&self, name: &str, script: &str) -> Running {
        let script = format!("echo $$ > '{}/cgroup.procs' && {script}", self.directory(name).display());
        Running(Command::new("sh").args(["-c", &script]).spawn().expect("a shell"))
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        remove_tree(&self.mount.directory(&self.path)).expect("the cgroups of the test are empty");
    }
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

/// A process that ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already: nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The source, and what it told.
pub(crate) struct Source {
    pub(crate) selection: watch::Sender<Selection>,
    pub(crate) hints: Option<mpsc::Sender<Hint>>,
    changes: mpsc::Receiver<Change>,
}

impl Source {
    /// Runs one. Call from within a runtime; what there is was told when this returns.
    pub(crate) async fn start(parent: &Parent, globs: &[&str], with_hints: bool) -> (Self, Vec<PathBuf>) {
        let (selection, selected) = watch::channel(Selection::default());
        let (told, changes) = mpsc::channel(1024);
        let (hints, hinted) = mpsc::channel(1024);
        let source = CgroupSource::new(parent.mount.clone(), selected, told);
        tokio::spawn(source.run(with_hints.then_some(hinted)));
        let mut source = Self { selection, hints: with_hints.then_some(hints), changes };
        let there = source.select(parent.selection(globs)).await;
        (source, there)
    }

    /// Selects something else, and gives the paths of all that is told to be there.
    pub(crate) async fn select(&mut self, selection: Selection) -> Vec<PathBuf> {
        self.selection.send(selection).expect("the source runs");
        match self.next().await {
            Change::All(workloads) => workloads.into_iter().map(|workload| workload.path).collect(),
            other => panic!("instead of everything: {other:?}"),
        }
    }

    pub(crate) async fn next(&mut self) -> Change {
        next(&mut self.changes).await
    }

    /// Says what the kernel's tracepoint would.
    pub(crate) async fn hint(&self, made: bool, path: PathBuf) {
        if let Some(hints) = &self.hints {
            hints.send(Hint { made, path, time: 7 }).await.expect("the source runs");
        }
    }
}

pub(crate) async fn next(changes: &mut mpsc::Receiver<Change>) -> Change {
    timeout(DEADLINE, changes.recv()).await.expect("a change in time").expect("the source runs")
}
