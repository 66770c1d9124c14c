//! Hears of changes of allowlists through inotify, and waits until a burst of them is over.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::plan::{Interest, Plan, plan};
use crate::kernel::readable;

/// A burst is over once nothing happened for this long: an editor or a kubelet takes several steps.
const QUIET: Duration = Duration::from_millis(200);
/// And after this long in any case, so that somebody who keeps writing does not put off the reload.
const LONGEST: Duration = Duration::from_millis(800);
/// How often watches are placed anew because the files moved meanwhile.
const ROUNDS: usize = 8;

/// Why nothing would be heard.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The kernel has none left for this user.
    #[error(
        "cannot watch the allowlists: {source}; raise fs.inotify.max_user_instances and fs.inotify.max_user_watches"
    )]
    Limit {
        /// What it said.
        source: io::Error,
    },
    /// A path cannot be watched.
    #[error("cannot watch {path} for changes: {source}", path = path.display())]
    Path {
        /// It.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot watch the allowlists: {0}")]
    Io(#[from] io::Error),
}

/// Tells when allowlists may have changed: their files, what `cidrsFrom` names, and every link and directory on the way.
/// Now and then it tells of a change that was none, and never misses one; who is told compares
/// [`crate::allowlist::Fingerprint`]s. Not seen are writes through a memory map and file systems mounted over the files.
#[derive(Debug)]
pub struct AllowlistWatch {
    named: Vec<PathBuf>,
    files: Vec<PathBuf>,
    inotify: AsyncFd<OwnedFd>,
    placed: Plan,
    watches: HashMap<i32, Interest>,
    burst: Option<Burst>,
}

/// Events of one change.
#[derive(Clone, Copy, Debug)]
struct Burst {
    first: Instant,
    last: Instant,
}

impl Burst {
    fn over(self) -> Instant {
        (self.last + QUIET).min(self.first + LONGEST)
    }
}

impl AllowlistWatch {
    /// Watches the paths that an operator named. Make it before they are read for the first time.
    ///
    /// # Errors
    /// [`WatchError`]; a path that does not exist is none: its appearance is a change.
    pub fn new(paths: &[PathBuf]) -> Result<Self, WatchError> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(limit_or_io)?;
        let mut watch = Self {
            named: paths.to_vec(),
            files: Vec::new(),
            inotify: readable(inotify)?,
            placed: Plan::new(),
            watches: HashMap::new(),
            burst: None,
        };
        watch.place()?;
        Ok(watch)
    }

    /// Watches as well what was read, or could not be: [`crate::allowlist::Reading::files`].
    ///
    /// # Errors
    /// [`WatchError`].
    pub fn set_files(&mut self, files: &[PathBuf]) -> Result<(), WatchError> {
        self.files = files.to_vec();
        let before = self.placed.clone();
        self.place()?;
        // What is watched only now may have changed since it was read.
        if self.placed.iter().any(|(path, interest)| is_new(before.get(path), interest)) {
            self.heard();
        }
        Ok(())
    }

    /// Returns once something happened to the files and the burst is over. What is read after that is no older than what
    /// was told. Can be dropped and called again without loss.
    ///
    /// # Errors
    /// [`WatchError`].
    pub async fn changed(&mut self) -> Result<(), WatchError> {
        loop {
            let over = self.burst.map(Burst::over);
            tokio::select! {
                biased;
                events = self.events() => if events? { self.heard() },
                () = sleep_until(over.unwrap_or_else(Instant::now)), if over.is_some() => {
                    self.burst = None;
                    return self.place();
                }
            }
        }
    }

    fn heard(&mut self) {
        let now = Instant::now();
        self.burst.get_or_insert(Burst { first: now, last: now }).last = now;
    }

    /// Waits for events; true if one of them matters.
    async fn events(&self) -> Result<bool, WatchError> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        loop {
            let mut ready = self.inotify.readable().await?;
            let read = ready.try_io(|inotify| self.matters(inotify.get_ref(), &mut buffer));
            // Would block: wait again.
            if let Ok(matters) = read {
                return Ok(matters?);
            }
        }
    }

    fn matters(&self, inotify: &OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<bool> {
        let mut reader = inotify::Reader::new(inotify, buffer);
        let mut matters = false;
        loop {
            let event = reader.next()?;
            // Too many to queue: anything may have happened.
            matters |= event.events().contains(ReadFlags::QUEUE_OVERFLOW)
                || self.watches.get(&event.wd()).is_some_and(|interest| match event.file_name() {
                    Some(name) => interest.covers(OsStr::from_bytes(name.to_bytes())),
                    None => true,
                });
            if reader.is_buffer_empty() {
                return Ok(matters);
            }
        }
    }

    /// Makes the watches what the files want now.
    fn place(&mut self) -> Result<(), WatchError> {
        for _ in 0..ROUNDS {
            let wanted = plan(&self.named, &self.files)?;
            let stable = wanted == self.placed;
            self.watch(wanted)?;
            if stable {
                return Ok(());
            }
        }
        // They are still on the move, and will be looked at again after a while.
        self.heard();
        Ok(())
    }

    fn watch(&mut self, wanted: Plan) -> Result<(), WatchError> {
        let mut watches: HashMap<i32, Interest> = HashMap::new();
        for (path, interest) in &wanted {
            match inotify::add_watch(&self.inotify, path, flags(interest)) {
                // One directory under two paths, by a bind mount, is one watch.
                Ok(number) => watches.entry(number).or_default().add(interest),
                // Gone since the plan was made; the next round makes another.
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
                Err(rustix::io::Errno::NOSPC) => return Err(limit(rustix::io::Errno::NOSPC)),
                Err(error) => return Err(WatchError::Path { path: path.clone(), source: error.into() }),
            }
        }
        for number in self.watches.keys().filter(|number| !watches.contains_key(number)) {
            // Fails where the kernel dropped it first, because the file is gone.
            let _ = inotify::remove_watch(&self.inotify, *number);
        }
        self.watches = watches;
        self.placed = wanted;
        Ok(())
    }
}

fn is_new(before: Option<&Interest>, now: &Interest) -> bool {
    before.is_none_or(|before| {
        !now.names.iter().all(|name| before.covers(name)) || now.allowlists && !before.allowlists
    })
}

/// In a directory that is only on the way nobody wants to hear of every write to every file.
fn flags(interest: &Interest) -> WatchFlags {
    let moved = WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        // Two roles of one inode add up.
        | WatchFlags::MASK_ADD;
    let on_the_way = !interest.names.is_empty() && !interest.allowlists;
    if on_the_way { moved } else { moved | WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB }
}

fn limit(error: rustix::io::Errno) -> WatchError {
    WatchError::Limit { source: error.into() }
}

fn limit_or_io(error: rustix::io::Errno) -> WatchError {
    match error {
        rustix::io::Errno::MFILE => limit(error),
        _ => WatchError::Io(error.into()),
    }
}
