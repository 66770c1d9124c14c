//! Other people's programs on the hooks that ours are on.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::attach::{ALLOW_MULTI, HOOKS, LAST_HOOKS, query};
use super::bpf::bpf;

const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// A program that is not the agent's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OtherProgram {
    /// The cgroup that it sits on.
    pub cgroup: PathBuf,
    /// The hook.
    pub hook: &'static str,
    /// Its id.
    pub id: u32,
    /// Its name; empty where it has none, or is gone.
    pub name: String,
    /// Was it attached without the multi flag? Below it nothing further can be attached.
    pub exclusive: bool,
    /// May it rewrite addresses, and do programs of the agent see what becomes of them?
    pub followed: bool,
}

impl OtherProgram {
    /// The same program at the same place?
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.cgroup, self.hook, self.id) == (&other.cgroup, other.hook, other.id)
    }
}

/// The beginning of the kernel's `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    before: [u64; 8],
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// Those on one cgroup. `own` are the ids of the agent's programs.
pub(super) fn on(cgroup: &Path, own: &[u32]) -> io::Result<Vec<OtherProgram>> {
    let directory = File::open(cgroup)?;
    let mut found = Vec::new();
    for hook in &HOOKS {
        let (flags, programs) = query(directory.as_fd(), hook.attach_type)?;
        for id in programs.into_iter().filter(|id| !own.contains(id)) {
            found.push(OtherProgram {
                cgroup: cgroup.to_owned(),
                hook: hook.name,
                id,
                name: name(id).unwrap_or_default(),
                exclusive: flags & ALLOW_MULTI == 0,
                followed: false,
            });
        }
    }
    Ok(found)
}

/// Is there one that can put another address in the place of the one that was asked for?
pub(super) fn may_rewrite(cgroup: &Path, own: &[u32]) -> io::Result<bool> {
    let directory = File::open(cgroup)?;
    for hook in &LAST_HOOKS {
        let (_, programs) = query(directory.as_fd(), hook.attach_type)?;
        if programs.iter().any(|id| !own.contains(id)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn name(id: u32) -> io::Result<String> {
    let raw = bpf(BPF_PROG_GET_FD_BY_ID, &mut IdAttr { id, ..IdAttr::default() })?;
    // SAFETY: the kernel has just opened it for this process.
    let program = unsafe { OwnedFd::from_raw_fd(raw) };
    read_name(program.as_fd())
}

fn read_name(program: BorrowedFd<'_>) -> io::Result<String> {
    let mut info = ProgramInfo::default();
    let mut attr = InfoAttr {
        fd: program.as_raw_fd().cast_unsigned(),
        length: size_of::<ProgramInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let end = info.name.iter().position(|byte| *byte == 0).unwrap_or(info.name.len());
    Ok(String::from_utf8_lossy(&info.name[..end]).into_owned())
}
