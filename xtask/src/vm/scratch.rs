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

    /// Makes one here.
    pub(super) fn below(directory: &Path, purpose: &str) -> Result<Scratch> {
        let path = directory.join(format!("egress-warden-vm-{purpose}.{}", process::id()));
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

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}
