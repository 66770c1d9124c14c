//! The cgroup that CMD runs in: a new child of the caller's own, gone when `exec` is.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::exec::janitor::Janitor;
use crate::exec::mountinfo;

/// How long to wait for killed processes to be gone. They go in milliseconds unless a device holds them.
pub(super) const REMOVAL_LIMIT: Duration = Duration::from_secs(10);

/// Why the cgroup could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// There is no cgroup2 hierarchy that can be used.
    #[error("no cgroup2 is mounted; mount it: mount -t cgroup2 none /sys/fs/cgroup")]
    NotMounted,
    /// Only the old hierarchies.
    #[error(
        "this machine has only cgroup v1; boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 somewhere"
    )]
    OnlyV1,
    /// The caller's cgroup is not visible through any mount.
    #[error(
        "the caller's cgroup {own} is outside every cgroup2 mount; mount cgroup2 in this cgroup namespace"
    )]
    Outside {
        /// As the kernel names it.
        own: String,
    },
    /// A container's usual state.
    #[error(
        "{path} is read-only; in a container, mount cgroup2 read-write (mount -o remount,rw) or run on the host"
    )]
    ReadOnly {
        /// The caller's cgroup.
        path: PathBuf,
    },
    /// Not enough rights.
    #[error("not permitted to create a cgroup in {path}; run as the root that owns it")]
    NotPermitted {
        /// The caller's cgroup.
        path: PathBuf,
    },
    /// Threaded cgroups hold threads, not processes.
    #[error(
        "{path} is in a threaded cgroup subtree ({kind}), where a process cannot be confined; run from another"
    )]
    Threaded {
        /// The new cgroup.
        path: PathBuf,
        /// Its `cgroup.type`.
        kind: String,
    },
    /// Processes that do not die.
    #[error("cgroup {path} still has processes after SIGKILL; a device may hold them; later: rmdir {path}")]
    StillPopulated {
        /// The cgroup.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot {step} {path}: {source}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn io_error(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError::Io { step, path: path.to_owned(), source }
}

/// A cgroup of ours. Dropping it kills what is in it and removes it; so does the janitor, if nobody is left to drop it.
#[derive(Debug)]
pub struct Cgroup {
    mount: PathBuf,
    path: PathBuf,
    id: u64,
    dir: File,
    janitor: Option<Janitor>,
}

impl Cgroup {
    /// Makes a child of the caller's own cgroup.
    ///
    /// Starts a process, the janitor.
    pub fn create() -> Result<Self, CgroupError> {
        let (mount, parent) = own_cgroup()?;
        let path = parent.join(format!("egress-warden-exec.{}", std::process::id()));
        // First the janitor: a cgroup without one would stay after a SIGKILL of this process.
        let janitor = Janitor::start(&path).map_err(io_error("start the janitor of", &path))?;
        if let Err(error) = make_directory(&parent, &path) {
            janitor.dismiss();
            return Err(error);
        }
        let open = || -> io::Result<(File, u64)> {
            let dir = File::open(&path)?;
            let id = dir.metadata()?.ino();
            Ok((dir, id))
        };
        let (dir, id) = open().map_err(io_error("open", &path))?;
        let cgroup = Self { mount, path, id, dir, janitor: Some(janitor) };
        match fs::read_to_string(cgroup.path.join("cgroup.type")) {
            Ok(kind) if kind.trim() != "domain" => {
                Err(CgroupError::Threaded { path: cgroup.path.clone(), kind: kind.trim().to_owned() })
            }
            Ok(_) => Ok(cgroup),
            Err(source) => Err(io_error("read the type of", &cgroup.path)(source)),
        }
    }

    /// Where it is, in the mounts of this process.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where cgroup2 is mounted.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Its path under the mount, which is how a workload outside Kubernetes is named.
    #[must_use]
    pub fn name(&self) -> String {
        let below = self.path.strip_prefix(&self.mount).unwrap_or(&self.path);
        format!("/{}", below.display())
    }

    /// The id by which BPF programs know it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Kills what is in it, removes it, and says what went wrong, which dropping cannot.
    pub fn remove(mut self) -> Result<(), CgroupError> {
        let removed = destroy(&self.path, Instant::now() + REMOVAL_LIMIT);
        if removed.is_ok()
            && let Some(janitor) = self.janitor.take()
        {
            janitor.dismiss();
        }
        removed
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Some(janitor) = self.janitor.take()
            && destroy(&self.path, Instant::now() + REMOVAL_LIMIT).is_ok()
        {
            janitor.dismiss();
        }
    }
}

fn make_directory(parent: &Path, path: &Path) -> Result<(), CgroupError> {
    let make = || DirBuilder::new().mode(0o700).create(path);
    let made = make().or_else(|error| match error.kind() {
        // Ours by name, so its owner had our process id and is dead. If it is not empty it stays, and is told.
        ErrorKind::AlreadyExists => remove_tree(path).and_then(|()| make()),
        _ => Err(error),
    });
    made.map_err(|source| match source.kind() {
        ErrorKind::ReadOnlyFilesystem => CgroupError::ReadOnly { path: parent.to_owned() },
        ErrorKind::PermissionDenied => CgroupError::NotPermitted { path: parent.to_owned() },
        _ => io_error("create", path)(source),
    })
}

/// The directory of the caller's own cgroup.
/// The mount of cgroup2, and in it the caller's own cgroup.
fn own_cgroup() -> Result<(PathBuf, PathBuf), CgroupError> {
    let read = |file: &str| fs::read(file).map_err(io_error("read", Path::new(file)));
    let mounts = mountinfo::parse(&read("/proc/self/mountinfo")?);
    let membership = read("/proc/self/cgroup")?;
    let membership = String::from_utf8_lossy(&membership);
    let own = membership.lines().find_map(|line| line.strip_prefix("0::"));
    let mut of_v2 = mounts.iter().filter(|mount| mount.kind == "cgroup2" && mount.is_reachable()).peekable();
    let (Some(own), Some(_)) = (own, of_v2.peek()) else {
        let v1 = mounts.iter().any(|mount| mount.kind == "cgroup");
        return Err(if v1 { CgroupError::OnlyV1 } else { CgroupError::NotMounted });
    };
    // A path that climbs out of the cgroup namespace is in no mount of it.
    let climbs = own.starts_with("/..");
    of_v2
        .filter(|_| !climbs)
        .find_map(|mount| Some((mount.point.clone(), mountinfo::through(mount, Path::new(own))?)))
        .ok_or_else(|| CgroupError::Outside { own: own.to_owned() })
}

/// Kills everything in the cgroup, waits until it is gone and removes the directory with all below it.
pub(super) fn destroy(path: &Path, deadline: Instant) -> Result<(), CgroupError> {
    let mut events = match File::open(path.join("cgroup.events")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(io_error("open the events of", path))?,
    };
    loop {
        let mut text = String::new();
        events
            .rewind()
            .and_then(|()| events.read_to_string(&mut text))
            .map_err(io_error("read the events of", path))?;
        if text.lines().any(|line| line == "populated 0") {
            break;
        }
        kill_all(path).map_err(io_error("kill the processes of", path))?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CgroupError::StillPopulated { path: path.to_owned() });
        }
        // Woken by the change; the limit is for kernels without cgroup.kill, where a fork may have got away.
        let pause = left.min(Duration::from_millis(100));
        let timeout = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
        nix::poll::poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout)
            .map_err(|errno| io_error("wait for", path)(errno.into()))?;
    }
    remove_tree(path).map_err(io_error("remove", path))
}

fn kill_all(path: &Path) -> io::Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        // Kernels before 5.14.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            kill_each(path)
        }
        done => done,
    }
}

fn kill_each(path: &Path) -> io::Result<()> {
    for child in children(path)? {
        kill_each(&child)?;
    }
    let processes = fs::read_to_string(path.join("cgroup.procs"))?;
    // A process of a PID namespace that we cannot see is listed as 0, and kill(0) would be ourselves.
    for pid in processes.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0) {
        // One that is gone already is what we want.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    Ok(())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for child in children(path)? {
        remove_tree(&child)?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn children(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}
