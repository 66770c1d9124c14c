//! `bpf(2)`, where aya has no word for what is wanted: links that only a pin keeps, their replacement, and a wait for every
//! program that runs.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
const LINK_TYPE_CGROUP: u32 = 3;

/// The system call. The result is a descriptor or 0.
pub(super) fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a zero-padded prefix of the kernel's `union bpf_attr`, its size is passed along, and whatever it
    // points at outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, libc::c_long::from(command), attr as *mut T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn descriptor<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel has just opened it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[repr(C)]
#[derive(Default)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Gives an object a name in bpffs, which keeps it.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr { path: path.as_ptr() as u64, fd: object.as_raw_fd() as u32, flags: 0 };
    bpf(OBJ_PIN, &mut attr).map(drop)
}

/// The object behind a name in bpffs.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    descriptor(OBJ_GET, &mut ObjectAttr { path: path.as_ptr() as u64, ..ObjectAttr::default() })
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to a cgroup by a link, beside whatever else is attached.
pub(super) fn link(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    let (program, target) = (program.as_raw_fd() as u32, cgroup.as_raw_fd() as u32);
    descriptor(LINK_CREATE, &mut LinkCreateAttr { program, target, attach_type, flags: 0 })
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Puts another program in a link's place: every packet meets the one or the other.
pub(super) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link, program) = (link.as_raw_fd() as u32, program.as_raw_fd() as u32);
    bpf(LINK_UPDATE, &mut LinkUpdateAttr { link, program, ..LinkUpdateAttr::default() }).map(drop)
}

/// Takes a link's program off its cgroup, now and not when the last reference is gone.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = link.as_raw_fd() as u32;
    bpf(LINK_DETACH, &mut attr).map(drop)
}

#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    cgroup: u64,
    attach_type: u32,
    rest: [u32; 7],
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// The id of the cgroup that a link attaches to; `None` once that cgroup was removed or the link detached.
pub(super) fn cgroup_of(link: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut info = LinkInfo::default();
    let length = size_of::<LinkInfo>() as u32;
    let mut attr = InfoAttr { fd: link.as_raw_fd() as u32, length, info: (&raw mut info) as u64 };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok((info.kind == LINK_TYPE_CGROUP && info.cgroup != 0).then_some(info.cgroup))
}

#[repr(C)]
#[derive(Default)]
struct MapCreateAttr {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct MapUpdateAttr {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Waits until every program that runs now has ended.
///
/// The kernel waits so when an element of a map of maps is replaced, which is the only way in which it can be asked.
#[derive(Debug)]
pub(super) struct GracePeriod {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl GracePeriod {
    pub(super) fn new() -> io::Result<Self> {
        let plain = MapCreateAttr {
            kind: MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            ..MapCreateAttr::default()
        };
        let inner = descriptor(MAP_CREATE, &mut MapCreateAttr { ..plain })?;
        let inner_map = inner.as_raw_fd() as u32;
        let outer =
            descriptor(MAP_CREATE, &mut MapCreateAttr { kind: MAP_TYPE_ARRAY_OF_MAPS, inner_map, ..plain })?;
        Ok(Self { outer, inner })
    }

    pub(super) fn wait(&self) -> io::Result<()> {
        let (key, value) = (0u32, self.inner.as_raw_fd() as u32);
        let mut attr = MapUpdateAttr {
            map: self.outer.as_raw_fd() as u32,
            key: (&raw const key) as u64,
            value: (&raw const value) as u64,
            ..MapUpdateAttr::default()
        };
        bpf(MAP_UPDATE_ELEM, &mut attr).map(drop)
    }
}
