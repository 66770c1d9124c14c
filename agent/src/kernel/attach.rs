//! Attaching to a cgroup, and looking at who else is attached.
//!
//! The programs of `exec` are attached with `BPF_PROG_ATTACH` and not through links: a link ends with the last
//! descriptor of it, so a killed wrapper would free the workload for the moment until the workload is killed as well.
//! What is attached this way stays as long as the cgroup does. aya knows links only, hence the system call here.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::statfs;

use super::KernelError;
use super::bpf::bpf;

const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_QUERY: libc::c_long = 16;
pub(super) const ALLOW_MULTI: u32 = 2;
const TCX_INGRESS: u32 = 46;
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The program's name in the object.
    pub program: &'static str,
    /// What people call the hook.
    pub name: &'static str,
    /// The kernel's number for it.
    pub(super) attach_type: u32,
}

impl Hook {
    /// Can a program at this hook of that name put another address in the place of the one that was asked for?
    #[must_use]
    pub fn can_rewrite(name: &str) -> bool {
        LAST_HOOKS.iter().any(|hook| hook.name == name)
    }

    /// Of an interface: does it see what comes in?
    pub(super) fn is_ingress(&self) -> bool {
        self.attach_type == TCX_INGRESS
    }
}

const fn hook(program: &'static str, name: &'static str, attach_type: u32) -> Hook {
    Hook { program, name, attach_type }
}

/// Every hook, in the order of attaching: the authority first, so that no packet ever leaves between two of them.
pub const HOOKS: [Hook; 9] = [
    hook("egress", "cgroup_skb/egress", 1),
    hook("ingress", "cgroup_skb/ingress", 0),
    hook("note_socket", "cgroup/sock_create", 2),
    hook("note_bound4", "cgroup/post_bind4", 12),
    hook("note_bound6", "cgroup/post_bind6", 13),
    hook("connect4", "cgroup/connect4", 10),
    hook("connect6", "cgroup/connect6", 11),
    hook("sendmsg4", "cgroup/sendmsg4", 14),
    hook("sendmsg6", "cgroup/sendmsg6", 15),
];

/// Those on the host's end of a workload's wire, in the order of attaching.
pub(super) const INTERFACE_HOOKS: [Hook; 2] =
    [hook("backstop", "tc/ingress", TCX_INGRESS), hook("callers", "tc/egress", 47)];

/// Those on a cgroup whose other programs may rewrite what [`HOOKS`] have judged, behind all of them.
pub(super) const LAST_HOOKS: [Hook; 4] = [
    hook("after_connect4", "cgroup/connect4", 10),
    hook("after_connect6", "cgroup/connect6", 11),
    hook("after_sendmsg4", "cgroup/sendmsg4", 14),
    hook("after_sendmsg6", "cgroup/sendmsg6", 15),
];

/// A cgroup above the workload's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor(pub PathBuf);

impl Ancestor {
    /// Every directory from the mount of cgroup2 down to `parent`.
    #[must_use]
    pub fn between(mount: &Path, parent: &Path) -> Vec<Self> {
        let mut found: Vec<Self> = parent
            .ancestors()
            .take_while(|path| path.starts_with(mount))
            .map(|path| Self(path.to_owned()))
            .collect();
        found.reverse();
        found
    }

    /// Every directory above this cgroup, the mount of cgroup2 included.
    pub(super) fn of(cgroup: BorrowedFd<'_>) -> io::Result<Vec<Self>> {
        let link = format!("/proc/self/fd/{}", cgroup.as_raw_fd());
        let path = fs::read_link(link)?;
        let is_cgroup = |path: &&Path| statfs(*path).is_ok_and(|found| found.f_type == CGROUP2_SUPER_MAGIC);
        Ok(path.ancestors().skip(1).take_while(is_cgroup).map(|path| Self(path.to_owned())).collect())
    }

    /// Refuses an ancestor on which somebody's program sits without the multi flag: attached before ours it makes our
    /// attach fail, attached after ours it is skipped without a word.
    pub fn refuse_exclusive(&self) -> Result<(), KernelError> {
        for hook in HOOKS {
            // The first bpf(2) of all: what is wrong with the machine shows here.
            let failed = |source: io::Error| match source.raw_os_error() {
                Some(libc::EPERM) => KernelError::NotPermitted,
                Some(libc::ENOSYS) => KernelError::NoBpf,
                _ => KernelError::Query { path: self.0.clone(), hook: hook.name, source },
            };
            let directory = File::open(&self.0).map_err(failed)?;
            let (flags, programs) = query(directory.as_fd(), hook.attach_type).map_err(failed)?;
            if let (Some(program), 0) = (programs.first(), flags & ALLOW_MULTI) {
                return Err(KernelError::Exclusive {
                    path: self.0.clone(),
                    hook: hook.name,
                    program: *program,
                });
            }
        }
        Ok(())
    }
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    program_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_fd: u32,
    relative: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    reserved: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Attaches a program beside whatever else is attached.
pub(super) fn attach(cgroup: BorrowedFd<'_>, hook: &Hook, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        program_fd: program.as_raw_fd() as u32,
        attach_type: hook.attach_type,
        attach_flags: ALLOW_MULTI,
        ..AttachAttr::default()
    };
    bpf(BPF_PROG_ATTACH, &mut attr).map(drop)
}

/// The attach flags of a hook on this cgroup, and the ids of the programs there.
pub(super) fn query(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<(u32, Vec<u32>)> {
    let mut ids = [0u32; 64];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type,
        program_ids: (&raw mut ids) as u64,
        count: ids.len() as u32,
        ..QueryAttr::default()
    };
    match bpf(BPF_PROG_QUERY, &mut attr) {
        // More programs than places: the ids that fit are there.
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {}
        other => drop(other?),
    }
    let count = (attr.count as usize).min(ids.len());
    Ok((attr.attach_flags, ids[..count].to_vec()))
}
