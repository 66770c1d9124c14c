//! Emptying and removing a cgroup of ours. Everything goes through descriptors: CMD can make cgroups below its own, so
//! deep that their path is longer than any path may be, and a name may be somebody else's by the time it is used.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::fs::{AtFlags, CWD, OFlags, unlinkat};
use rustix::io::Errno;

use crate::exec::cgroup::CgroupError;
use crate::kernel::tree::{open, walk, write};

/// Kills everything in the cgroup, waits until it is gone and removes the directory with all below it. Tries again until
/// the deadline: the kernel may still be busy with a process that no longer counts.
pub(crate) fn destroy(dir: BorrowedFd<'_>, path: &Path, deadline: Instant) -> Result<(), CgroupError> {
    let io_error = |step, source: io::Error| CgroupError::Io { step, path: path.to_owned(), source };
    let mut events = match open(dir, c"cgroup.events", OFlags::RDONLY) {
        // Nobody else removes it; this was done before.
        Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
        opened => File::from(opened.map_err(|errno| io_error("open the events of", errno.into()))?),
    };
    loop {
        let populated = is_populated(&mut events).map_err(|source| io_error("read the events of", source))?;
        let outcome = if populated { kill(dir) } else { remove(dir, path, deadline) };
        let busy = match outcome {
            Ok(()) if !populated => return Ok(()),
            Ok(()) => None,
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Some(error),
            Err(error) => {
                return Err(io_error(if populated { "kill the processes of" } else { "remove" }, error));
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(match busy {
                Some(error) => io_error("remove", error),
                None => CgroupError::StillPopulated { path: path.to_owned() },
            });
        }
        let patience = Duration::from_millis(if busy.is_some() { 5 } else { 100 });
        wait_for_change(&events, left.min(patience)).map_err(|source| io_error("wait for", source))?;
    }
}

/// Lets everything below run that was frozen there, as far as it can be done in time. CMD may freeze itself, and would
/// then not hear that it is to end.
pub(super) fn thaw(dir: BorrowedFd<'_>, deadline: Instant) -> io::Result<()> {
    let run = |cgroup: BorrowedFd<'_>| write(cgroup, c"cgroup.freeze", b"0");
    run(dir)?;
    Ok(walk(dir, deadline, run, |_, _| Ok(()))?)
}

fn is_populated(events: &mut File) -> io::Result<bool> {
    let mut text = String::new();
    events.rewind()?;
    match events.read_to_string(&mut text) {
        Ok(_) => Ok(!text.lines().any(|line| line == "populated 0")),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}

fn kill(dir: BorrowedFd<'_>) -> io::Result<()> {
    Ok(write(dir, c"cgroup.kill", b"1")?)
}

fn wait_for_change(events: &File, limit: Duration) -> io::Result<()> {
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    match nix::poll::poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn remove(dir: BorrowedFd<'_>, path: &Path, deadline: Instant) -> io::Result<()> {
    walk(dir, deadline, |_| Ok(()), |parent, name| gone(unlinkat(parent, name, AtFlags::REMOVEDIR)))?;
    match fs::symlink_metadata(path) {
        Ok(found) if found.ino() == rustix::fs::fstat(dir)?.st_ino => {
            Ok(gone(unlinkat(CWD, path, AtFlags::REMOVEDIR))?)
        }
        // Gone, or somebody else's by the same name.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn gone(removed: rustix::io::Result<()>) -> rustix::io::Result<()> {
    if removed == Err(Errno::NOENT) { Ok(()) } else { removed }
}
