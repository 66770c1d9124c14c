//! Links between a program and a cgroup. One is kept by its pin alone, so an agent holds no descriptor for it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::kernel::bpf::bpf;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_LINK_TYPE_CGROUP: u32 = 3;
const BPF_LINK_TYPE_TCX: u32 = 11;
/// In front of all that are attached already.
const BPF_F_BEFORE: u32 = 1 << 3;

/// A link that is open.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

/// What the kernel tells of a link; the beginning of its `struct bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkInfo {
    kind: u32,
    id: u32,
    /// Id of the program.
    pub(super) program: u32,
    reserved: u32,
    /// Of a cgroup: its id, 0 when that is gone, then the attach type. Of an interface: its index, 0 when that is gone, and
    /// the attach type.
    target: [u32; 4],
}

impl LinkInfo {
    /// Does it lead from this cgroup's hook?
    pub(super) fn is_at(&self, cgroup: u64, attach_type: u32) -> bool {
        let id = u64::from(self.target[0]) | u64::from(self.target[1]) << 32;
        self.kind == BPF_LINK_TYPE_CGROUP && id == cgroup && self.target[2] == attach_type
    }

    /// Does it lead from this interface's hook?
    pub(super) fn is_on(&self, interface: u32, attach_type: u32) -> bool {
        self.kind == BPF_LINK_TYPE_TCX && self.target[..2] == [interface, attach_type]
    }
}

#[repr(C)]
#[derive(Default)]
struct OnInterface {
    attr: CreateAttr,
    relative: u32,
    padding: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct UpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
struct PathAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

impl Link {
    /// Attaches a program to a cgroup, beside whatever else is attached.
    pub(super) fn create(
        program: BorrowedFd<'_>,
        cgroup: BorrowedFd<'_>,
        attach_type: u32,
    ) -> io::Result<Self> {
        let mut attr = CreateAttr { program: number(program), target: number(cgroup), attach_type, flags: 0 };
        bpf(BPF_LINK_CREATE, &mut attr).map(owned)
    }

    /// Attaches a program to an interface of the caller's network namespace, in front of whatever else is attached.
    pub(super) fn create_on(program: BorrowedFd<'_>, interface: u32, attach_type: u32) -> io::Result<Self> {
        let attr =
            CreateAttr { program: number(program), target: interface, attach_type, flags: BPF_F_BEFORE };
        // Behind it: before nobody in particular, and whatever the revision is.
        bpf(BPF_LINK_CREATE, &mut OnInterface { attr, ..OnInterface::default() }).map(owned)
    }

    /// Opens a pinned one.
    pub(super) fn open(pin: &Path) -> io::Result<Self> {
        let path = c_path(pin)?;
        let mut attr = PathAttr { path: path.as_ptr() as u64, fd: 0, flags: 0 };
        bpf(BPF_OBJ_GET, &mut attr).map(owned)
    }

    /// Pins it.
    pub(super) fn pin(&self, pin: &Path) -> io::Result<()> {
        let path = c_path(pin)?;
        let fd = self.0.as_raw_fd().cast_unsigned();
        bpf(BPF_OBJ_PIN, &mut PathAttr { path: path.as_ptr() as u64, fd, flags: 0 }).map(drop)
    }

    /// What it links.
    pub(super) fn info(&self) -> io::Result<LinkInfo> {
        let mut info = LinkInfo::default();
        let mut attr = InfoAttr {
            fd: self.0.as_raw_fd().cast_unsigned(),
            length: size_of::<LinkInfo>() as u32,
            info: (&raw mut info) as u64,
        };
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
        Ok(info)
    }

    /// Puts another program in the place of its own: every packet is judged by the one or by the other.
    pub(super) fn replace_program(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let link = self.0.as_raw_fd().cast_unsigned();
        let mut attr = UpdateAttr { link, program: number(program), flags: 0, old_program: 0 };
        bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
    }

    /// Ends it now, whoever else holds it. (The last pin's end would do it at some later moment.)
    pub(super) fn detach(&self) -> io::Result<()> {
        bpf(BPF_LINK_DETACH, &mut self.0.as_raw_fd().cast_unsigned()).map(drop)
    }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn owned(fd: i32) -> Link {
    // SAFETY: the kernel has just opened it for this process.
    Link(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
