//! Programs on an interface: by a pinned link where the kernel has tcx (6.6), by a filter below a clsact qdisc where it
//! does not. A filter needs no pin: it stays as long as the interface does.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::link::Link;
use super::programs::remove;
use super::{NodeError, clsact};
use crate::kernel::KernelError;
use crate::kernel::attach::Hook;

/// What bpf(2) says of a link to an interface before 6.6.
const NO_TCX: i32 = libc::EINVAL;

/// Makes sure that an interface of the agent's network namespace has this program. `pins` is the interface's directory.
pub(super) fn attach(
    pins: &Path,
    index: u32,
    hook: &'static Hook,
    program: BorrowedFd<'_>,
    id: u32,
) -> Result<(), NodeError> {
    let pin = pins.join(hook.program);
    let failed = |source| NodeError::from(KernelError::Interface { index, hook: hook.name, source });
    if keep(&pin, index, hook, program, id)? {
        return Ok(());
    }
    match Link::create_on(program, index, hook.attach_type) {
        Ok(link) => link.pin(&pin).map_err(NodeError::pin("pin a link at", &pin)),
        Err(error) if error.raw_os_error() == Some(NO_TCX) => Ok(clsact::attach(index, hook, program)?),
        Err(error) => Err(failed(error)),
    }
}

/// Takes it off again. An interface that is gone took it along.
pub(super) fn detach(pins: &Path, index: u32, hook: &'static Hook) -> Result<(), NodeError> {
    let pin = pins.join(hook.program);
    let failed = |source| NodeError::from(KernelError::Interface { index, hook: hook.name, source });
    match Link::open(&pin) {
        Ok(link) => match link.detach() {
            // Its interface is gone.
            Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => Err(failed(error)),
            _ => remove(&pin),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(clsact::detach(index, hook)?),
        Err(error) => Err(NodeError::pin("open the link at", &pin)(error)),
    }
}

/// Is there a link already? One with another program gets this one, one whose interface is gone goes.
fn keep(pin: &Path, index: u32, hook: &Hook, program: BorrowedFd<'_>, id: u32) -> Result<bool, NodeError> {
    let failed = || NodeError::pin("open the link at", pin);
    let link = match Link::open(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed()(error)),
    };
    let info = link.info().map_err(failed())?;
    if !info.is_on(index, hook.attach_type) {
        remove(pin)?;
        return Ok(false);
    }
    if info.program != id {
        link.replace_program(program).map_err(NodeError::pin("put the new program into the link at", pin))?;
    }
    Ok(true)
}

/// Makes the directory of an interface's pins.
pub(super) fn make(pins: &Path) -> Result<(), NodeError> {
    fs::create_dir_all(pins).map_err(NodeError::pin("make", pins))
}
