//! This agent's programs.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::Ebpf;
use aya::programs::RawTracePoint;

use super::pins::{failed, make, remove};
use crate::kernel::attach::{HOOKS, Hook};
use crate::kernel::{KernelError, bpf};

/// The loaded object.
pub(super) struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    pub(super) const fn new(ebpf: Ebpf) -> Self {
        Self { ebpf }
    }

    pub(super) fn fd(&self, hook: &Hook) -> Result<BorrowedFd<'_>, KernelError> {
        let program = self.ebpf.program(hook.program).ok_or(KernelError::Missing(hook.program))?;
        let program = program.fd().map_err(|_| KernelError::Missing(hook.program))?;
        Ok(program.as_fd())
    }

    /// Pins them, so that whoever looks at the node finds them by name. The links keep them in any case.
    pub(super) fn pin(&self, directory: &Path) -> Result<(), KernelError> {
        make(directory)?;
        for hook in &HOOKS {
            let pin = directory.join(hook.program);
            remove(&pin)?;
            bpf::pin(self.fd(hook)?, &pin).map_err(failed("cannot pin a program at", &pin))?;
        }
        Ok(())
    }

    /// Begins to listen to the making and removing of cgroups. A kernel that refuses that is served otherwise.
    pub(super) fn watch_cgroups(&mut self) -> Result<(), String> {
        for (program, tracepoint) in [("watch_mkdir", "cgroup_mkdir"), ("watch_rmdir", "cgroup_rmdir")] {
            let program: &mut RawTracePoint = self
                .ebpf
                .program_mut(program)
                .and_then(|program| program.try_into().ok())
                .ok_or_else(|| format!("the object lacks {program}"))?;
            program.load().map_err(|error| error.to_string())?;
            program.attach(tracepoint).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}
