//! Somebody else's programs on a cgroup, as tiny as they can be, and a process without `bpf(2)`.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::{TestCgroup, sys};

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_TEST_RUN: libc::c_long = 10;
const PROG_QUERY: libc::c_long = 16;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;

/// A hook of a cgroup: the kernel's number of the program type and of the attach type.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    kind: u32,
    attach_type: u32,
}

/// Packets that leave.
pub const EGRESS: Hook = Hook { kind: 8, attach_type: 1 };
/// Sockets that are made.
pub const SOCK_CREATE: Hook = Hook { kind: 9, attach_type: 2 };
/// IPv4 connect.
pub const CONNECT4: Hook = Hook { kind: 18, attach_type: 10 };
/// IPv4 sendmsg without connect.
pub const SENDMSG4: Hook = Hook { kind: 18, attach_type: 14 };

/// `BPF_F_ALLOW_OVERRIDE`.
pub const ALLOW_OVERRIDE: u32 = 1;
/// `BPF_F_ALLOW_MULTI`.
pub const ALLOW_MULTI: u32 = 2;

/// `r0 = 1; exit`: lets through.
pub const PASS: &[u64] = &[0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
/// `r1 = 0; call bpf_set_retval; r0 = 1; exit`: lets through, and undoes the refusal of whoever ran before.
pub const UNDO: &[u64] =
    &[0x0000_0000_0000_01b7, 0x0000_00bb_0000_0085, 0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    cgroup: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkAttr {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    program: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    cgroup: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    reserved: u32,
}

/// The ids of the programs on a cgroup, over the hooks that the agent attaches to.
///
/// # Errors
/// When the cgroup is gone.
pub fn programs_on(cgroup: &Path) -> io::Result<Vec<u32>> {
    let directory = File::open(cgroup)?;
    let mut found = Vec::new();
    for attach_type in [0, 1, 2, 10, 11, 12, 13, 14, 15] {
        let mut ids = [0_u32; 64];
        let mut asked = QueryAttr {
            cgroup: directory.as_raw_fd().cast_unsigned(),
            attach_type,
            ids: (&raw mut ids) as u64,
            count: 64,
            ..QueryAttr::default()
        };
        bpf(PROG_QUERY, &mut asked)?;
        found.extend(ids.iter().take(asked.count as usize));
    }
    Ok(found)
}

/// Attaches an empty program to either direction of an interface of the caller's network namespace. It stays as long as
/// the links that are returned.
///
/// # Errors
/// When the kernel refuses it, or has no tcx.
pub fn empty_on_interface(interface: &str) -> io::Result<Vec<OwnedFd>> {
    /// `r0 = TCX_NEXT; exit`.
    const NEXT: &[u64] = &[0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];
    let index = sys::interface_index(interface)?;
    [TCX_INGRESS, TCX_EGRESS]
        .into_iter()
        .map(|attach_type| {
            let program = load(Hook { kind: SCHED_CLS, attach_type }, NEXT)?;
            let mut link = LinkAttr {
                program: program.as_raw_fd().cast_unsigned(),
                interface: index,
                attach_type,
                ..LinkAttr::default()
            };
            let raw = bpf(LINK_CREATE, &mut link)?;
            // SAFETY: the descriptor is new and nobody else's.
            Ok(unsafe { OwnedFd::from_raw_fd(raw) })
        })
        .collect()
}

fn load(hook: Hook, program: &[u64]) -> io::Result<OwnedFd> {
    let mut load = LoadAttr {
        kind: hook.kind,
        count: u32::try_from(program.len()).unwrap_or_default(),
        instructions: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: hook.attach_type,
        ..LoadAttr::default()
    };
    let raw = bpf(PROG_LOAD, &mut load)?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Loads a program and attaches it to a cgroup of the test, with which it goes away. Returns its id.
///
/// # Errors
/// When the kernel refuses it.
pub fn attach(cgroup: &TestCgroup, hook: Hook, program: &[u64], flags: u32) -> io::Result<u32> {
    let loaded = load(hook, program)?;
    let directory = File::open(cgroup.path())?;
    let mut attached = AttachAttr {
        cgroup: directory.as_raw_fd().cast_unsigned(),
        program: loaded.as_raw_fd().cast_unsigned(),
        attach_type: hook.attach_type,
        flags,
        ..AttachAttr::default()
    };
    bpf(PROG_ATTACH, &mut attached)?;
    // Program type and id, the first two fields of the kernel's bpf_prog_info.
    let mut info = [0_u32; 2];
    let mut asked = InfoAttr {
        program: loaded.as_raw_fd().cast_unsigned(),
        length: u32::try_from(size_of_val(&info)).unwrap_or_default(),
        info: (&raw mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut asked)?;
    Ok(info[1])
}

#[repr(C)]
#[derive(Default)]
struct RunAttr {
    program: u32,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    processor: u32,
    batch_size: u32,
    reserved: u32,
}

/// The beginning of the kernel's `__sk_buff`.
#[repr(C)]
#[derive(Default)]
struct SkBuff {
    before: [u32; 10],
    interface: u32,
}

/// Runs a loaded packet program on a frame, as on one that leaves by this interface of the caller's network namespace
/// from a socket of the caller's cgroup. Returns what the program returned.
///
/// # Errors
/// When the kernel does not take the frame: it has to hold an Ethernet header and at least one byte more.
pub fn run_on_frame(program: BorrowedFd<'_>, frame: &[u8], interface: u32) -> io::Result<u32> {
    let context = SkBuff { interface, ..SkBuff::default() };
    let mut attr = RunAttr {
        program: program.as_raw_fd().cast_unsigned(),
        size_in: u32::try_from(frame.len()).unwrap_or(u32::MAX),
        data_in: frame.as_ptr() as u64,
        context_size_in: u32::try_from(size_of::<SkBuff>()).unwrap_or_default(),
        context_in: (&raw const context) as u64,
        ..RunAttr::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok(attr.result)
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a prefix of the kernel's `union bpf_attr` without padding, its size is passed along, and what
    // it points at outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or_default()) }
}

/// Has the command run where `bpf(2)` fails with this error, as under a container runtime's filter or on a kernel built
/// without it.
pub fn forbid_bpf(command: &mut Command, errno: u32) {
    const LOAD_NUMBER: libc::sock_filter = libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    const ALLOW: libc::sock_filter = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 };
    let number = u32::try_from(libc::SYS_bpf).unwrap_or_default();
    let is_bpf = libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: number };
    let refuse = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x0005_0000 | errno };
    let mut filter = [LOAD_NUMBER, is_bpf, refuse, ALLOW];
    let install = move || {
        let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
        // SAFETY: the program and its four instructions outlive the call; prctl is async-signal-safe.
        let result =
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec only prctl is called; nothing is allocated.
    unsafe { command.pre_exec(install) };
}
