//! Workloads by the path of their cgroup, without looking again and again: the kernel tells when a cgroup is made or
//! removed, by the tracepoints or, where those do not load, by inotify.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use egress_warden_common::state::{CGROUP_MADE, CgroupEvent};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use super::Change;
use super::finder::{Finder, Unseen};
use super::mount::CgroupMount;
use super::pattern::Selection;
use crate::kernel::readable;

/// The tracepoint fires a moment before the directory can be opened: how often it is tried again, and after what time.
const TRIES: u32 = 20;
const TRY_AFTER: Duration = Duration::from_millis(1);
/// When everything is looked at again because something could not be.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the kernel tells of a cgroup, of any hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Made, or removed.
    pub made: bool,
    /// Path from the hierarchy's root.
    pub path: PathBuf,
    /// Boot time in nanoseconds.
    pub time: u64,
}

impl From<&CgroupEvent> for Hint {
    fn from(event: &CgroupEvent) -> Self {
        let path = event.path.get(..event.length as usize).unwrap_or_default();
        let path = PathBuf::from(OsStr::from_bytes(path));
        Self { made: event.kind == CGROUP_MADE, path, time: event.time }
    }
}

/// The source.
#[derive(Debug)]
pub struct CgroupSource {
    finder: Finder,
    selection: watch::Receiver<Selection>,
    changes: mpsc::Sender<Change>,
    /// Told of, but not yet to be seen. Others do not wait for them.
    pending: Vec<Pending>,
    /// Something could not be looked at: when to try again.
    again: Option<Instant>,
}

#[derive(Debug)]
struct Pending {
    path: PathBuf,
    created: u64,
    tried: u32,
}

impl CgroupSource {
    /// A source that looks for what `selection` says, whenever that changes, and tells of it in `changes`.
    #[must_use]
    pub fn new(
        mount: CgroupMount,
        selection: watch::Receiver<Selection>,
        changes: mpsc::Sender<Change>,
    ) -> Self {
        Self { finder: Finder::new(mount), selection, changes, pending: Vec::new(), again: None }
    }

    /// Runs until nobody listens. `hints` come from the kernel's tracepoints; without them inotify is used.
    pub async fn run(mut self, hints: Option<mpsc::Receiver<Hint>>) -> io::Result<()> {
        match hints {
            Some(hints) => self.by_hints(hints).await,
            None => self.by_inotify().await,
        }
    }

    async fn by_hints(&mut self, mut hints: mpsc::Receiver<Hint>) -> io::Result<()> {
        loop {
            tokio::select! {
                changed = self.selection.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.all(|_| Ok(())).await;
                }
                () = at(self.again) => self.all(|_| Ok(())).await,
                hint = hints.recv() => {
                    let Some(hint) = hint else { return Ok(()) };
                    self.hint(&hint).await;
                }
                () = sleep(TRY_AFTER), if !self.pending.is_empty() => self.try_pending().await,
            }
        }
    }

    async fn hint(&mut self, hint: &Hint) {
        let Some(path) = self.finder.mount.below(&hint.path) else { return };
        if hint.made {
            self.try_made(Pending { path, created: hint.time, tried: 0 }).await;
            return;
        }
        self.pending.retain(|pending| pending.path != path);
        if let Some(change) = self.finder.removed(&path) {
            self.tell(change).await;
        }
    }

    async fn try_pending(&mut self) {
        for pending in mem::take(&mut self.pending) {
            self.try_made(pending).await;
        }
    }

    async fn try_made(&mut self, pending: Pending) {
        if self.made(&pending.path, Some(pending.created)).await {
            return;
        }
        if pending.tried < TRIES {
            self.pending.push(Pending { tried: pending.tried + 1, ..pending });
        } else {
            debug!(path = %pending.path.display(), "a new cgroup was gone before it could be looked at");
        }
    }

    /// Looks at a new cgroup. False if it is not there.
    async fn made(&mut self, path: &Path, created: Option<u64>) -> bool {
        match self.finder.made(path, created) {
            Ok(changes) => {
                for change in changes {
                    self.tell(change).await;
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return false,
            Err(error) => {
                let mut unseen = Unseen::default();
                unseen.note(path, &error);
                self.tell_unseen(unseen).await;
            }
        }
        true
    }

    /// Looks at everything and tells all of it.
    async fn all(&mut self, parent: impl FnMut(&Path) -> io::Result<()>) {
        self.finder.selection = self.selection.borrow_and_update().clone();
        let mut unseen = Unseen::default();
        let workloads = self.finder.all(parent, &mut unseen);
        if unseen.is_partial {
            // Nobody may be let go because it could not be seen.
            for workload in workloads {
                self.tell(Change::Appeared { workload, created: None }).await;
            }
        } else {
            self.tell(Change::All(workloads)).await;
        }
        if unseen.why.is_some() {
            self.tell_unseen(unseen).await;
        } else if self.again.take().is_some() {
            self.tell(Change::Unseen { why: None }).await;
        }
    }

    async fn tell_unseen(&mut self, unseen: Unseen) {
        self.again = Some(Instant::now() + LOOK_AGAIN);
        self.tell(Change::Unseen { why: unseen.why }).await;
    }

    async fn tell(&self, change: Change) {
        // Nobody listens when the agent ends.
        let _ = self.changes.send(change).await;
    }

    async fn by_inotify(&mut self) -> io::Result<()> {
        let mut watches = Watches::new()?;
        loop {
            tokio::select! {
                changed = self.selection.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.rescan(&mut watches).await;
                }
                () = at(self.again) => self.rescan(&mut watches).await,
                events = watches.events() => {
                    for event in events? {
                        self.event(&mut watches, event).await;
                    }
                }
            }
        }
    }

    async fn rescan(&mut self, watches: &mut Watches) {
        let mount = self.finder.mount.clone();
        self.all(|parent| watches.add(&mount, parent)).await;
    }

    async fn event(&mut self, watches: &mut Watches, event: Event) {
        let path = match event {
            Event::Lost => return self.rescan(watches).await,
            Event::Removed(path) => {
                if let Some(change) = self.finder.removed(&path) {
                    self.tell(change).await;
                }
                return;
            }
            Event::Made(path) => path,
        };
        // With what was made below it before it was watched. What was told already is not told again.
        let mount = self.finder.mount.clone();
        let mut unseen = Unseen::default();
        for path in self.finder.candidates(&path, |parent| watches.add(&mount, parent), &mut unseen) {
            // One that is not there any more was never told of.
            self.made(&path, None).await;
        }
        if unseen.why.is_some() {
            self.tell_unseen(unseen).await;
        }
    }
}

/// Waits until then, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What inotify told.
enum Event {
    Made(PathBuf),
    Removed(PathBuf),
    /// More than fits into its queue.
    Lost,
}

/// The directories in which cgroups can appear.
struct Watches {
    inotify: Inotify,
    readable: AsyncFd<OwnedFd>,
    paths: HashMap<WatchDescriptor, PathBuf>,
}

impl Watches {
    fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Self { readable: readable(&inotify)?, inotify, paths: HashMap::new() })
    }

    fn add(&mut self, mount: &CgroupMount, path: &Path) -> io::Result<()> {
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        let watch = self.inotify.add_watch(&mount.directory(path), flags)?;
        self.paths.insert(watch, path.to_owned());
        Ok(())
    }

    async fn events(&mut self) -> io::Result<Vec<Event>> {
        let read = loop {
            let mut ready = self.readable.readable().await?;
            let inotify = &self.inotify;
            if let Ok(read) = ready.try_io(|_| Ok(inotify.read_events()?)) {
                break read?;
            }
        };
        Ok(read.into_iter().filter_map(|event| self.understand(event)).collect())
    }

    fn understand(&mut self, event: InotifyEvent) -> Option<Event> {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return Some(Event::Lost);
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.paths.remove(&event.wd);
            return None;
        }
        let name: OsString = event.name.filter(|_| event.mask.contains(AddWatchFlags::IN_ISDIR))?;
        let path = self.paths.get(&event.wd)?.join(name);
        let made = event.mask.contains(AddWatchFlags::IN_CREATE);
        Some(if made { Event::Made(path) } else { Event::Removed(path) })
    }
}
