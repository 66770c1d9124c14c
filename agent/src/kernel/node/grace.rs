//! Waiting until no program can be using what was taken away from it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::kernel::bpf::bpf;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

#[repr(C)]
struct CreateAttr {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
    inner_fd: u32,
}

#[repr(C)]
struct UpdateAttr {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Waits until every program has ended that runs now.
///
/// The kernel waits for that before it returns from an update of a map of maps; there is no call for it alone.
/// (`membarrier` waits as well, but not on a machine with one processor.)
pub(super) fn wait() -> io::Result<()> {
    let inner = create(BPF_MAP_TYPE_ARRAY, 0)?;
    let inner_fd = inner.as_raw_fd().cast_unsigned();
    let outer = create(BPF_MAP_TYPE_ARRAY_OF_MAPS, inner_fd)?;
    let (key, value) = (0u32, inner_fd);
    let mut attr = UpdateAttr {
        map: outer.as_raw_fd().cast_unsigned(),
        reserved: 0,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

fn create(kind: u32, inner_fd: u32) -> io::Result<OwnedFd> {
    let mut attr = CreateAttr { kind, key_size: 4, value_size: 4, entries: 1, flags: 0, inner_fd };
    let fd = bpf(BPF_MAP_CREATE, &mut attr)?;
    // SAFETY: the kernel has just opened it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
