//! The directory with the pins: where it is, whose it is, what lies in it.
//!
//! `<bpffs>/<directory>/v<ABI version>/` holds `maps/<map>`, `programs/<program>`, `links/<cgroup id>/<program>`,
//! `rewriters/<cgroup id>/<program>` and `interfaces/<index>/<program>`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use egress_warden_common::ABI_VERSION;
use rustix::fs::{FlockOperation, flock, statfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::link::Link;
use super::{NodeError, tc};
use crate::kernel::attach::INTERFACE_HOOKS;

const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// The locked directory. Whoever has it is the only one who writes to the pins.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lock: File,
}

impl Directory {
    /// Makes and locks it; mounts the file system where none is.
    pub(super) fn open(bpffs: &Path, name: &str) -> Result<Self, NodeError> {
        mount_bpffs(bpffs)?;
        let path = bpffs.join(name);
        loop {
            make(&path)?;
            if let Some(directory) = Self::lock(&path)? {
                return Ok(directory);
            }
        }
    }

    /// Locks it if it is there.
    pub(super) fn existing(bpffs: &Path, name: &str) -> Result<Option<Self>, NodeError> {
        if !is_bpffs(bpffs).unwrap_or(false) {
            return Ok(None);
        }
        Self::lock(&bpffs.join(name))
    }

    /// `None` where it is not there, any more.
    fn lock(path: &Path) -> Result<Option<Self>, NodeError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Ok(None),
            _ => Err(NodeError::pin("open", path)(error)),
        };
        let lock = match File::open(path) {
            Ok(lock) => lock,
            Err(error) => return failed(error),
        };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(NodeError::AnotherAgent(path.to_owned())),
            Err(error) => return Err(NodeError::pin("lock", path)(error.into())),
        }
        // Whoever held the lock may have removed the directory before letting go.
        match (lock.metadata(), fs::metadata(path)) {
            (Ok(locked), Ok(there)) if locked.ino() == there.ino() => {
                Ok(Some(Self { path: path.to_owned(), lock }))
            }
            (_, Err(error)) => failed(error),
            _ => Ok(None),
        }
    }

    /// Is it still where it was made? A file system that was unmounted takes the pins along.
    pub(super) fn is_there(&self) -> bool {
        match (self.lock.metadata(), fs::metadata(&self.path)) {
            (Ok(locked), Ok(there)) => (locked.dev(), locked.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    /// Refuses pins that this agent cannot read.
    pub(super) fn refuse_other_versions(&self) -> Result<(), NodeError> {
        let own = version_name();
        match entries(&self.path)?.into_iter().find(|name| name.starts_with('v') && *name != own) {
            Some(found) => Err(NodeError::OtherVersion {
                directory: self.path.clone(),
                found: found.trim_start_matches('v').to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Makes the directories of this version.
    pub(super) fn make_layout(&self) -> Result<(), NodeError> {
        let all = [self.maps(), self.programs(), self.links(), self.rewriters(), self.interfaces()];
        all.iter().try_for_each(|path| make(path))
    }

    fn version(&self) -> PathBuf {
        self.path.join(version_name())
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    pub(super) fn programs(&self) -> PathBuf {
        self.version().join("programs")
    }

    fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    fn interfaces(&self) -> PathBuf {
        self.version().join("interfaces")
    }

    /// Where the links of an interface are pinned. It is there as long as the interface has programs, pinned or not.
    pub(super) fn interface(&self, index: u32) -> PathBuf {
        self.interfaces().join(index.to_string())
    }

    /// The interfaces that have programs. What is no number is not ours, and stays.
    pub(super) fn guarded(&self) -> Result<Vec<u32>, NodeError> {
        Ok(entries(&self.interfaces())?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Removes the directory of an interface.
    pub(super) fn remove_interface(&self, index: u32) -> Result<(), NodeError> {
        remove_links(&self.interface(index))
    }

    fn rewriters(&self) -> PathBuf {
        self.version().join("rewriters")
    }

    /// Where the links behind other people's programs on a cgroup are pinned.
    pub(super) fn rewriter(&self, cgroup: u64) -> PathBuf {
        self.rewriters().join(cgroup.to_string())
    }

    /// The cgroups that have such links. What is no number is not ours, and stays.
    pub(super) fn followed(&self) -> Result<Vec<u64>, NodeError> {
        Ok(entries(&self.rewriters())?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Ends the links behind other people's programs on a cgroup and removes their pins.
    pub(super) fn remove_rewriter(&self, cgroup: u64) -> Result<(), NodeError> {
        remove_links(&self.rewriter(cgroup))
    }

    /// Where the links of a cgroup are pinned.
    pub(super) fn links_of(&self, cgroup: u64) -> PathBuf {
        self.links().join(cgroup.to_string())
    }

    /// The cgroups of which links are pinned. What is no number is not ours, and stays.
    pub(super) fn linked(&self) -> Result<Vec<u64>, NodeError> {
        Ok(entries(&self.links())?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Ends the links of a cgroup and removes their pins.
    pub(super) fn remove_links(&self, cgroup: u64) -> Result<(), NodeError> {
        remove_links(&self.links_of(cgroup))
    }

    /// Ends all links, then removes all pins, of this version or of every one, and the directory if nothing is left in it.
    /// Tells how many cgroups had links.
    pub(super) fn remove(self, all_versions: bool) -> Result<usize, NodeError> {
        let own = version_name();
        let mut count = 0;
        for name in entries(&self.path)? {
            if name == own || (all_versions && name.starts_with('v')) {
                let version = self.path.join(&name);
                for interface in entries(&version.join("interfaces"))? {
                    remove_backstop(&version.join("interfaces").join(&interface), &interface)?;
                }
                for cgroup in entries(&version.join("rewriters"))? {
                    remove_links(&version.join("rewriters").join(cgroup))?;
                }
                let links = version.join("links");
                for cgroup in entries(&links)? {
                    remove_links(&links.join(cgroup))?;
                    count += 1;
                }
                remove_all(&version)?;
            }
        }
        if entries(&self.path)?.is_empty() {
            fs::remove_dir(&self.path).map_err(NodeError::pin("remove", &self.path))?;
        }
        Ok(count)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Not left to the descriptor's end: a child on its way to execve has a copy of it. Should it fail, that is the end.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

fn version_name() -> String {
    format!("v{ABI_VERSION}")
}

fn remove_backstop(pins: &Path, index: &str) -> Result<(), NodeError> {
    if let Ok(index) = index.parse() {
        for hook in &INTERFACE_HOOKS {
            tc::detach(pins, index, hook)?;
        }
    }
    remove_links(pins)
}

fn make(path: &Path) -> Result<(), NodeError> {
    fs::create_dir_all(path).map_err(NodeError::pin("make", path))
}

/// The names in a directory; none where it is not there.
fn entries(path: &Path) -> Result<Vec<String>, NodeError> {
    let failed = || NodeError::pin("read", path);
    let names = match fs::read_dir(path) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed()(error)),
    };
    names.map(|entry| Ok(entry.map_err(failed())?.file_name().to_string_lossy().into_owned())).collect()
}

fn remove_links(directory: &Path) -> Result<(), NodeError> {
    for name in entries(directory)? {
        let pin = directory.join(name);
        match Link::open(&pin).and_then(|link| link.detach()) {
            Ok(()) => {}
            // No link, or one without an end: nothing to detach, and the pin goes below.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOLINK)) => {}
            Err(error) => return Err(NodeError::pin("detach", &pin)(error)),
        }
        fs::remove_file(&pin).map_err(NodeError::pin("remove", &pin))?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NodeError::pin("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

fn remove_all(path: &Path) -> Result<(), NodeError> {
    fs::remove_dir_all(path).map_err(NodeError::pin("remove", path))
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC)
}

/// Would what is mounted here end with a container? Where process 1 cannot be seen, nobody knows.
fn is_private() -> bool {
    let namespace = |path: &str| fs::read_link(path).ok();
    let first = namespace("/proc/1/ns/mnt");
    first.is_some() && first != namespace("/proc/self/ns/mnt")
}

fn mount_bpffs(path: &Path) -> Result<(), NodeError> {
    let failed = |source: io::Error| NodeError::Mount { path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(failed)?;
    if is_bpffs(path).map_err(failed)? {
        return Ok(());
    }
    if is_private() {
        return Err(NodeError::Private(path.to_owned()));
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("bpf", path, "bpf", flags, Some(c"mode=0700")).map_err(|error| failed(error.into()))
}
