//! The directory of the pins: who may use it, and what stands where.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use egress_warden_common::ABI_VERSION;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::kernel::KernelError;

/// `<bpffs>/<directory>`, held by this process alone while it lives.
#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
    _lock: Flock<File>,
}

pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KernelError {
    move |source| KernelError::Pin { what, path: path.to_owned(), source }
}

impl Pins {
    /// Mounts bpffs where none is, makes the directory, and takes it.
    pub(super) fn take(bpffs: &Path, directory: &str) -> Result<Self, KernelError> {
        mount_bpffs(bpffs)?;
        let root = bpffs.join(directory);
        make(&root)?;
        Ok(Self { _lock: lock(&root)?, root })
    }

    /// Takes the directory if it is there.
    pub(super) fn take_existing(bpffs: &Path, directory: &str) -> Result<Option<Self>, KernelError> {
        let root = bpffs.join(directory);
        if !root.is_dir() {
            return Ok(None);
        }
        Ok(Some(Self { _lock: lock(&root)?, root }))
    }

    /// Refuses pins of another ABI: this agent could neither read nor replace them.
    pub(super) fn refuse_others(&self) -> Result<(), KernelError> {
        let other: Vec<String> = self
            .versions()?
            .into_iter()
            .filter(|version| *version != self.version())
            .filter_map(|version| {
                Some(version.file_name()?.to_string_lossy().trim_start_matches('v').to_owned())
            })
            .collect();
        if other.is_empty() {
            return Ok(());
        }
        Err(KernelError::Abi { path: self.root.clone(), found: other.join(", "), own: ABI_VERSION })
    }

    /// The directories of all versions.
    pub(super) fn versions(&self) -> Result<Vec<PathBuf>, KernelError> {
        list(&self.root)
    }

    /// That of this agent's ABI.
    pub(super) fn version(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    pub(super) fn programs(&self) -> PathBuf {
        self.version().join("programs")
    }

    pub(super) fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    pub(super) fn links_of(&self, cgroup: u64) -> PathBuf {
        self.links().join(cgroup.to_string())
    }

    /// Removes the directory itself, once nothing is in it.
    pub(super) fn remove_root(&self) {
        let _ = fs::remove_dir(&self.root);
    }
}

/// What is in a directory, `[]` where there is none.
pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>, KernelError> {
    match fs::read_dir(directory) {
        Ok(entries) => {
            let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
            paths.map_err(failed("cannot read", directory))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("cannot read", directory)(error)),
    }
}

pub(super) fn make(directory: &Path) -> Result<(), KernelError> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(failed("cannot make", directory)(error))
        }
        _ => Ok(()),
    }
}

pub(super) fn remove(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("cannot remove", path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn remove_directory(path: &Path) -> Result<(), KernelError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("cannot remove", path)(error)),
        _ => Ok(()),
    }
}

fn mount_bpffs(path: &Path) -> Result<(), KernelError> {
    let kind = statfs(path).map_err(|error| failed("no directory for bpffs at", path)(error.into()))?;
    if kind.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|error| failed("cannot mount bpffs at", path)(error.into()))
}

// The directory itself is locked and no file beside it: what is protected and what is locked cannot come apart.
fn lock(root: &Path) -> Result<Flock<File>, KernelError> {
    let directory = File::open(root).map_err(failed("cannot open", root))?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::Error::EWOULDBLOCK => KernelError::Held { path: root.to_owned() },
        other => failed("cannot lock", root)(other.into()),
    })
}
