//! Opens a cgroup by its id.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::mountinfo;

/// `FILEID_KERNFS`, from linux/exportfs.h.
const KERNFS_HANDLE: libc::c_int = 0xfe;

/// The mount of cgroup2, through which ids lead to cgroups.
#[derive(Debug)]
pub(super) struct Cgroups(File);

#[repr(C)]
struct Handle {
    length: libc::c_uint,
    kind: libc::c_int,
    id: [u8; 8],
}

impl Cgroups {
    pub(super) fn find() -> io::Result<Self> {
        let mounts = mountinfo::parse(&fs::read("/proc/self/mountinfo")?);
        let found = mounts.iter().find(|mount| mount.kind == "cgroup2" && mount.is_reachable());
        let mount = found.ok_or_else(|| io::Error::other("no cgroup2 is mounted"))?;
        File::open(&mount.point).map(Self)
    }

    /// `None` where the cgroup is gone.
    pub(super) fn open(&self, id: u64) -> io::Result<Option<OwnedFd>> {
        let mut handle = Handle { length: 8, kind: KERNFS_HANDLE, id: id.to_ne_bytes() };
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: the handle has the layout of `struct file_handle` with its eight bytes, and outlives the call.
        let fd = unsafe { libc::open_by_handle_at(self.0.as_raw_fd(), (&raw mut handle).cast(), flags) };
        if fd >= 0 {
            // SAFETY: the kernel has just opened it for this process.
            return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
        }
        match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::ESTALE | libc::ENOENT)) => Ok(None),
            error => Err(error),
        }
    }
}
