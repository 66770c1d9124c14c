//! The links of one cgroup: one for each hook, kept by its pin alone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::pins::{failed, list, make, remove, remove_directory};
use super::programs::Programs;
use crate::kernel::attach::{HOOKS, Hook};
use crate::kernel::{KernelError, bpf};

/// Attaches every program to a cgroup and pins its link, in the order of [`HOOKS`]. What is attached already stays.
pub(super) fn attach(
    directory: &Path,
    programs: &Programs,
    cgroup: BorrowedFd<'_>,
    path: &Path,
) -> Result<(), KernelError> {
    make(directory)?;
    for hook in HOOKS {
        let pin = directory.join(hook.program);
        if live(&pin).is_some() {
            continue;
        }
        remove(&pin)?;
        let refused = |source| KernelError::Attach { path: path.to_owned(), hook: hook.name, source };
        let link = bpf::link(programs.fd(&hook)?, cgroup, hook.attach_type).map_err(refused)?;
        bpf::pin(link.as_fd(), &pin).map_err(failed("cannot pin a link at", &pin))?;
    }
    Ok(())
}

/// Takes every program off and removes the pins. Gives how many were attached.
pub(super) fn detach(directory: &Path) -> Result<usize, KernelError> {
    let mut detached = 0;
    for pin in list(directory)? {
        if let Some(link) = live(&pin) {
            // Now, and not when the kernel gets round to the last reference: what is told to the programs goes next.
            match bpf::detach(link.as_fd()) {
                Ok(()) => detached += 1,
                // The cgroup was removed in this moment.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                Err(error) => return Err(failed("cannot detach", &pin)(error)),
            }
        }
        remove(&pin)?;
    }
    remove_directory(directory)?;
    Ok(detached)
}

/// What became of the links of a cgroup while no agent was there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Every program is attached, and is now this agent's.
    Whole,
    /// Some are.
    Half,
    /// None is: the cgroup is gone.
    Nothing,
}

/// Puts this agent's programs in the place of those that are attached.
pub(super) fn renew(directory: &Path, programs: &Programs) -> Result<Found, KernelError> {
    let renewed = |hook: &Hook| -> Result<bool, KernelError> {
        let pin = directory.join(hook.program);
        let Some(link) = live(&pin) else { return Ok(false) };
        match bpf::replace(link.as_fd(), programs.fd(hook)?) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
            Err(error) => Err(failed("cannot replace the program of", &pin)(error)),
        }
    };
    let mut count = 0;
    for hook in &HOOKS {
        count += usize::from(renewed(hook)?);
    }
    Ok(match count {
        0 => Found::Nothing,
        _ if count == HOOKS.len() => Found::Whole,
        _ => Found::Half,
    })
}

/// The link behind a pin, if it is one that still attaches to a cgroup.
fn live(pin: &Path) -> Option<OwnedFd> {
    let link = bpf::pinned(pin).ok()?;
    let attached: io::Result<Option<u64>> = bpf::cgroup_of(link.as_fd());
    attached.ok()?.map(|_| link)
}
