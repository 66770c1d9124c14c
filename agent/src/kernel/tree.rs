//! A cgroup and those below it, through descriptors: a path can be too long, and a name somebody else's by the time it is
//! used.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Goes through every cgroup below, however deep, with one descriptor: down by name, up by `..`. `enter` is called with
/// each before what is below it, `leave` with its parent and its name afterwards. One that is removed meanwhile is passed
/// over.
pub(crate) fn walk(
    top: BorrowedFd<'_>,
    deadline: Instant,
    mut enter: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<()>,
    mut leave: impl FnMut(BorrowedFd<'_>, &CStr) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let mut here = open_directory(top, c".")?;
    let mut names: Vec<CString> = Vec::new();
    let mut to_come = vec![children(&here)?];
    while Instant::now() < deadline {
        if let Some(name) = to_come.last_mut().and_then(Vec::pop) {
            let Some(child) = there(open_directory(here.as_fd(), &name))? else { continue };
            here = child;
            there(enter(here.as_fd()))?;
            names.push(name);
            to_come.push(there(children(&here))?.unwrap_or_default());
        } else if let Some(name) = names.pop() {
            to_come.pop();
            here = open_directory(here.as_fd(), c"..")?;
            leave(here.as_fd(), &name)?;
        } else {
            return Ok(());
        }
    }
    Err(Errno::TIMEDOUT)
}

/// `None` where the cgroup is gone.
fn there<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Err(Errno::NOENT | Errno::NODEV) => Ok(None),
        other => other.map(Some),
    }
}

fn children(directory: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    open(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Opens a file of a cgroup, or a cgroup below it.
pub(crate) fn open(parent: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(parent, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Writes into a file of a cgroup.
pub(crate) fn write(cgroup: BorrowedFd<'_>, name: &CStr, bytes: &[u8]) -> rustix::io::Result<()> {
    rustix::io::write(open(cgroup, name, OFlags::WRONLY)?, bytes).map(drop)
}

/// Reads a file of a cgroup.
pub(crate) fn read_to_string(file: OwnedFd, text: &mut String) -> rustix::io::Result<()> {
    let read = File::from(file).read_to_string(text);
    read.map(drop).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
