//! What an earlier agent left: taken over, completed, or removed.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use egress_warden_common::ruleset::{HEADER_WORDS, LENGTH, VERSION};

use super::links::{self, Found};
use super::pins::{Pins, failed, list, remove, remove_directory};
use super::{Adopted, Node};
use crate::kernel::KernelError;

impl Node {
    pub(super) fn adopt(&mut self) -> Result<Vec<Adopted>, KernelError> {
        let known = self.maps.workloads()?;
        let known_cgroups: HashSet<u64> = known.iter().map(|(cgroup, _)| *cgroup).collect();
        for directory in list(&self.pins.links())? {
            let cgroup =
                directory.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            // Programs that were told nothing refuse everything, and nobody can say for whom.
            if cgroup.is_none_or(|cgroup: u64| !known_cgroups.contains(&cgroup)) {
                links::detach(&directory)?;
            }
        }
        let mut adopted = Vec::new();
        for (cgroup, slot) in known {
            match self.take_over(cgroup, slot)? {
                Some(one) => adopted.push(one),
                None => {
                    links::detach(&self.pins.links_of(cgroup))?;
                    self.forget(cgroup, slot)?;
                }
            }
        }
        Ok(adopted)
    }

    /// `None` where its cgroup is gone, or what it was told cannot be read.
    fn take_over(&mut self, cgroup: u64, slot: u32) -> Result<Option<Adopted>, KernelError> {
        let directory = self.pins.links_of(cgroup);
        let found = links::renew(&directory, &self.programs)?;
        let binding = self.maps.bindings().get(slot);
        let Some((length, hash)) = self.ruleset_at(binding.ruleset)? else {
            self.maps.bindings().deactivate(slot);
            return Ok(None);
        };
        self.regions.adopt(binding.ruleset, length, hash);
        if found != Found::Whole {
            let Ok(opened) = open_by_id(&self.cgroups, cgroup) else { return Ok(None) };
            links::attach(&directory, &self.programs, opened.as_fd(), &self.cgroups)?;
        }
        let quarantined_at = self.maps.state(slot)?.quarantined_at;
        Ok(Some(Adopted { cgroup, quarantined_at, hash }))
    }

    /// Length and hash of the ruleset that stands there; `None` where none does.
    fn ruleset_at(&self, base: u32) -> Result<Option<(u32, u64)>, KernelError> {
        if let (Some(length), Some(hash)) = (self.regions.length_at(base), self.regions.hash_at(base)) {
            return Ok(Some((length, hash)));
        }
        let header = self.maps.words().read(base, HEADER_WORDS)?;
        let (Some(&version), Some(&length)) = (header.first(), header.get(LENGTH as usize)) else {
            return Ok(None);
        };
        let Ok(length) = u32::try_from(length) else { return Ok(None) };
        if version != VERSION {
            return Ok(None);
        }
        let words = self.maps.words().read(base, length)?;
        Ok((words.len() == length as usize).then(|| (length, super::hash(&words))))
    }
}

/// Takes all enforcement out of the kernel, without an agent. Gives how many workloads were enforced.
///
/// # Errors
/// While an agent runs: it has to be asked itself.
pub fn detach(bpffs: &Path, directory: &str, all_versions: bool) -> Result<usize, KernelError> {
    let Some(pins) = Pins::take_existing(bpffs, directory)? else { return Ok(0) };
    let mut count = 0;
    for version in pins.versions()? {
        if !all_versions && version != pins.version() {
            continue;
        }
        for workload in list(&version.join("links"))? {
            count += usize::from(links::detach(&workload)? > 0);
        }
        for part in ["links", "programs", "maps"] {
            let part = version.join(part);
            for pin in list(&part)? {
                remove(&pin)?;
            }
            remove_directory(&part)?;
        }
        remove_directory(&version)?;
    }
    pins.remove_root();
    Ok(count)
}

#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    id: u64,
}

/// A cgroup by its number, wherever it stands.
fn open_by_id(mount: &Path, cgroup: u64) -> Result<OwnedFd, KernelError> {
    /// `FILEID_KERNFS`.
    const KERNFS: i32 = 0xfe;
    let root = File::open(mount).map_err(failed("cannot open", mount))?;
    let mut handle = Handle { bytes: 8, kind: KERNFS, id: cgroup };
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: `handle` is a file handle with eight bytes behind its header, as its first field says, and outlives the
    // call.
    let fd = unsafe { libc::open_by_handle_at(root.as_raw_fd(), (&raw mut handle).cast(), flags) };
    if fd < 0 {
        return Err(failed("cannot open a cgroup below", mount)(io::Error::last_os_error()));
    }
    // SAFETY: the kernel has just opened it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
