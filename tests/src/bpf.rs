//! Somebody else's programs, as tiny as they can be, and a process or a thread without `bpf(2)` or a part of it.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::{TestCgroup, sys};

const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const PROG_ATTACH: libc::c_long = 8;
const PROG_TEST_RUN: libc::c_long = 10;
const PROG_QUERY: libc::c_long = 16;
pub(crate) const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
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

impl Hook {
    /// The one with these numbers.
    pub(crate) const fn new(kind: u32, attach_type: u32) -> Hook {
        Hook { kind, attach_type }
    }
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
struct PinAttr {
    path: u64,
    program: u32,
    flags: u32,
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
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    reserved: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    /// Written whether it was asked for or not.
    revision: u64,
}

/// The ids of the programs on a cgroup, over the hooks that the agent attaches to.
///
/// # Errors
/// When the cgroup is gone.
pub fn programs_on(cgroup: &Path) -> io::Result<Vec<u32>> {
    let directory = File::open(cgroup)?;
    let mut found = Vec::new();
    for attach_type in [0, 1, 2, 10, 11, 12, 13, 14, 15] {
        found.extend(query(directory.as_raw_fd().cast_unsigned(), attach_type)?);
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
            link(&program, index, attach_type)
        })
        .collect()
}

fn link(program: &OwnedFd, interface: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let program = program.as_raw_fd().cast_unsigned();
    let raw = bpf(LINK_CREATE, &mut LinkAttr { program, interface, attach_type, ..LinkAttr::default() })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
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

/// The ids of the programs on an interface of the calling thread's network namespace by tcx, coming in before going out.
///
/// # Errors
/// When there is no such interface, and before Linux 6.6.
pub fn programs_on_interface(interface: &str) -> io::Result<Vec<u32>> {
    let index = sys::interface_index(interface)?;
    let mut found = Vec::new();
    for attach_type in [TCX_INGRESS, TCX_EGRESS] {
        found.extend(query(index, attach_type)?);
    }
    Ok(found)
}

fn query(target: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; 64];
    let mut asked =
        QueryAttr { target, attach_type, ids: (&raw mut ids) as u64, count: 64, ..QueryAttr::default() };
    bpf(PROG_QUERY, &mut asked)?;
    Ok(ids[..asked.count as usize].to_vec())
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

/// Somebody else's program for an interface: drops frames of one length.
#[derive(Debug)]
pub struct LengthFilter(OwnedFd);

impl LengthFilter {
    /// Loads it.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn new(length: u32) -> io::Result<LengthFilter> {
        // r2 = skb->len; if r2 != length goto +2; r0 = TC_ACT_SHOT; exit; r0 = TC_ACT_UNSPEC; exit
        let program = [
            0x1261,
            u64::from(length) << 32 | 0x0002_0255,
            0x0000_0002_0000_00b7,
            0x0095,
            0xffff_ffff_0000_00b7,
            0x0095,
        ];
        load(Hook { kind: SCHED_CLS, attach_type: 0 }, &program).map(LengthFilter)
    }

    /// Attaches it by tcx to what comes in by an interface of the calling thread's network namespace, behind all that are
    /// there. It stays as long as what is returned.
    ///
    /// # Errors
    /// Before Linux 6.6.
    pub fn attach(&self, interface: &str) -> io::Result<OwnedFd> {
        link(&self.0, sys::interface_index(interface)?, TCX_INGRESS)
    }

    /// Pins it, for a program that attaches what is pinned.
    ///
    /// # Errors
    /// When the path is in no BPF file system.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let program = self.0.as_raw_fd().cast_unsigned();
        bpf(OBJ_PIN, &mut PinAttr { path: path.as_ptr() as u64, program, flags: 0 }).map(drop)
    }
}

pub(crate) fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a prefix of the kernel's `union bpf_attr` without padding, its size is passed along, and what
    // it points at outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or_default()) }
}

/// Has the command run where `bpf(2)` fails with this error, as under a container runtime's filter or on a kernel built
/// without it.
pub fn forbid_bpf(command: &mut Command, errno: u32) {
    let mut filter = [LOAD_NUMBER, is(libc::SYS_bpf, 1), refuse(errno), ALLOW];
    let install = move || install(&mut filter);
    // SAFETY: between fork and exec only prctl is called; nothing is allocated.
    unsafe { command.pre_exec(install) };
}

/// Takes tcx from the calling thread and from what it starts, as on a kernel before 6.6. A link to an interface is told from
/// one to a cgroup by the size of what is asked.
///
/// # Errors
/// Without root.
pub fn forbid_tcx() -> io::Result<()> {
    const SIZE_WITH_NEIGHBOUR: i64 = 32;
    let mut filter = [
        LOAD_NUMBER,
        is(libc::SYS_bpf, 5),
        load_argument(0),
        is(LINK_CREATE, 3),
        load_argument(2),
        is(SIZE_WITH_NEIGHBOUR, 1),
        refuse(libc::EINVAL.cast_unsigned()),
        ALLOW,
    ];
    install(&mut filter)
}

const LOAD_NUMBER: libc::sock_filter = libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
const ALLOW: libc::sock_filter = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 };

/// The lower half of an argument, behind number, architecture and address of the call.
fn load_argument(number: u32) -> libc::sock_filter {
    libc::sock_filter { k: 16 + 8 * number, ..LOAD_NUMBER }
}

/// Goes on if what was loaded is this, and so many instructions further if not.
fn is(value: i64, otherwise: u8) -> libc::sock_filter {
    libc::sock_filter { code: 0x15, jt: 0, jf: otherwise, k: u32::try_from(value).unwrap_or_default() }
}

fn refuse(errno: u32) -> libc::sock_filter {
    libc::sock_filter { k: 0x0005_0000 | errno, ..ALLOW }
}

/// Async-signal-safe.
fn install(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).unwrap_or_default();
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its instructions outlive the call.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
