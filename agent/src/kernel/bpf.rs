//! `bpf(2)`, for what aya has no call.

use std::io;

/// One call. What it returns is a descriptor, or 0.
pub(super) fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a zero-padded prefix of the kernel's `union bpf_attr`, its size is passed along, and whatever it
    // points at outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}
