//! A cgroup and what is below it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::kernel::tree::{open, read_to_string, walk};

/// For all processes of a cgroup: whoever makes cgroups without end must not keep the agent from everything else.
const LONGEST: Duration = Duration::from_secs(1);

/// Names of the cgroups directly below.
pub(super) fn children(directory: &Path) -> io::Result<Vec<OsString>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // Removed meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.push(entry.file_name());
        }
    }
    Ok(names)
}

/// The processes of a cgroup and of all below it. Not by paths, which a workload can make longer than the kernel takes.
pub fn processes(directory: &Path) -> io::Result<Vec<u32>> {
    let top = match File::open(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut found = Vec::new();
    let mut enter = |cgroup: BorrowedFd<'_>| {
        found.extend(own_processes(cgroup)?);
        Ok(())
    };
    enter(top.as_fd())?;
    walk(top.as_fd(), Instant::now() + LONGEST, enter, |_, _| Ok(()))?;
    Ok(found)
}

fn own_processes(cgroup: BorrowedFd<'_>) -> rustix::io::Result<Vec<u32>> {
    let mut text = String::new();
    match open(cgroup, c"cgroup.procs", OFlags::RDONLY).and_then(|file| read_to_string(file, &mut text)) {
        // A threaded cgroup answers EOPNOTSUPP; the processes of its threads stand above it.
        Ok(()) | Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}
