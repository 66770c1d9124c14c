//! The cgroup that CMD runs in: a new child of the caller's own, gone when `exec` is.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::exec::janitor::{Janitor, NAME_PREFIX};
use crate::exec::remove::{destroy, thaw};
use crate::mountinfo;

/// How long to wait for killed processes to be gone. They go in milliseconds unless a device holds them.
const REMOVAL_LIMIT: Duration = Duration::from_secs(10);

/// How long thawing may keep a signal waiting.
const THAW_LIMIT: Duration = Duration::from_secs(1);

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
    /// Has the janitor make a child of the caller's own cgroup.
    pub fn create() -> Result<Self, CgroupError> {
        let (mount, parent) = own_cgroup()?;
        let wanted = parent.join(format!("{NAME_PREFIX}{}", std::process::id()));
        let (path, janitor) = Janitor::start(&wanted).map_err(|source| refused(&parent, &wanted, source))?;
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

    /// What thaws it, for whoever passes signals on.
    pub(super) fn thawer(&self) -> io::Result<Thawer> {
        Ok(Thawer { dir: self.dir.try_clone()? })
    }

    /// Kills what is in it, removes it, and says what went wrong, which dropping cannot.
    pub fn remove(mut self) -> Result<(), CgroupError> {
        let removed = destroy(self.fd(), &self.path, Instant::now() + REMOVAL_LIMIT);
        if removed.is_ok()
            && let Some(janitor) = self.janitor.take()
        {
            janitor.dismiss();
        }
        removed
    }
}

/// Lets run what CMD froze in its cgroup, so that it hears that it is to end.
#[derive(Debug)]
pub(super) struct Thawer {
    dir: File,
}

impl Thawer {
    /// Best effort: who runs may freeze again. SIGKILL to the wrapper ends what is frozen, too.
    pub(super) fn thaw(&self) {
        let _ = thaw(self.dir.as_fd(), Instant::now() + THAW_LIMIT);
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Some(janitor) = self.janitor.take()
            && destroy(self.fd(), &self.path, Instant::now() + REMOVAL_LIMIT).is_ok()
        {
            janitor.dismiss();
        }
    }
}

fn refused(parent: &Path, path: &Path, source: io::Error) -> CgroupError {
    match source.kind() {
        ErrorKind::ReadOnlyFilesystem => CgroupError::ReadOnly { path: parent.to_owned() },
        ErrorKind::PermissionDenied => CgroupError::NotPermitted { path: parent.to_owned() },
        _ => io_error("create", path)(source),
    }
}

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
