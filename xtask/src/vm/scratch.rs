//! Directories that go when they are done with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result};

/// A directory of this run below a cache or the system's temporary one. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one in the system's temporary directory.
    pub(super) fn new(purpose: &str) -> Result<Scratch> {
        Self::below(&std::env::temp_dir(), purpose)
    }

    /// Makes one here, and removes those of runs that were killed.
    pub(super) fn below(directory: &Path, purpose: &str) -> Result<Scratch> {
        let prefix = format!("egress-warden-vm-{purpose}.");
        remove_stale(directory, &prefix);
        let path = directory.join(format!("{prefix}{}", process::id()));
        fs::create_dir_all(directory)
            .and_then(|()| fs::create_dir(&path))
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch { path })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// What cannot be removed is somebody else's, and in nobody's way.
fn remove_stale(directory: &Path, prefix: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse::<u32>().ok());
        if owner.is_some_and(|pid| pid == process::id() || !Path::new("/proc").join(pid.to_string()).exists())
        {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_and_takes_what_a_killed_run_left() {
        let parent = Scratch::new("test").unwrap();
        // Larger than any process id.
        let stale = parent.path().join("egress-warden-vm-boot.4294967295");
        let (running, other) = (parent.path().join("egress-warden-vm-boot.1"), parent.path().join("6.1"));
        for path in [&stale, &running, &other] {
            fs::create_dir(path).unwrap();
        }
        let scratch = Scratch::below(parent.path(), "boot").unwrap();
        assert!(!stale.exists() && running.exists() && other.exists() && scratch.path().exists());
        let path = parent.path().to_owned();
        drop((scratch, parent));
        assert!(!path.exists());
    }
}
