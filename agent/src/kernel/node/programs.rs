//! Which programs judge: those that are pinned, or those of this binary.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::Ebpf;
use aya::programs::{ProgramError, ProgramFd, ProgramInfo};

use super::NodeError;
use super::directory::Directory;
use super::link::Link;
use crate::kernel::KernelError;
use crate::kernel::attach::{HOOKS, Hook, INTERFACE_HOOKS, LAST_HOOKS};
use crate::kernel::object::refused_program;

/// The programs of all hooks, in the order of [`HOOKS`], of [`INTERFACE_HOOKS`], and of [`LAST_HOOKS`].
#[derive(Debug)]
pub(super) struct Programs {
    all: Vec<Loaded>,
    /// They are not pinned yet.
    new: bool,
}

#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) fd: ProgramFd,
    pub(super) id: u32,
}

impl Programs {
    /// Keeps the pinned ones if they are the same, at work on the same maps, and none of them is missing.
    pub(super) fn choose(
        ebpf: &Ebpf,
        directory: &Directory,
        maps: &[u32],
        replace: bool,
    ) -> Result<Self, NodeError> {
        let failed = |hook: &Hook| {
            let program = hook.program;
            move |error: ProgramError| NodeError::from(refused_program(program, &error))
        };
        let mut own = Vec::new();
        let mut pinned = Vec::new();
        for hook in hooks() {
            let program = ebpf.program(hook.program).ok_or(KernelError::Missing(hook.program))?;
            let info = program.info().map_err(failed(hook))?;
            if let Ok(found) = ProgramInfo::from_pin(directory.programs().join(hook.program))
                && is_same(&info, &found, maps)
            {
                pinned.push(Loaded::new(&found).map_err(failed(hook))?);
            }
            own.push(Loaded::new(&info).map_err(failed(hook))?);
        }
        let new = replace || pinned.len() < own.len();
        Ok(Self { all: if new { own } else { pinned }, new })
    }

    /// The ids of all.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.all.iter().map(|program| program.id).collect()
    }

    /// Those of an interface, with their hooks.
    pub(super) fn of_interface(&self) -> impl Iterator<Item = (&'static Hook, BorrowedFd<'_>, u32)> {
        let programs = self.all.iter().skip(HOOKS.len());
        INTERFACE_HOOKS.iter().zip(programs).map(|(hook, program)| (hook, program.fd.as_fd(), program.id))
    }

    /// Those behind other people's, with their hooks.
    pub(super) fn last(&self) -> impl Iterator<Item = (&'static Hook, &Loaded)> {
        LAST_HOOKS.iter().zip(self.all.iter().skip(HOOKS.len() + INTERFACE_HOOKS.len()))
    }

    /// Makes sure that a cgroup is linked to the program of every hook.
    pub(super) fn link(
        &self,
        links: &Path,
        id: u64,
        cgroup: BorrowedFd<'_>,
        name: &Path,
    ) -> Result<(), NodeError> {
        fs::create_dir_all(links).map_err(NodeError::pin("make", links))?;
        for (hook, program) in HOOKS.iter().zip(&self.all) {
            let pin = links.join(hook.program);
            if keep(&pin, id, hook, program)? {
                continue;
            }
            let failed = |source| KernelError::Attach { path: name.to_owned(), hook: hook.name, source };
            let link = Link::create(program.fd.as_fd(), cgroup, hook.attach_type).map_err(failed)?;
            link.pin(&pin).map_err(NodeError::pin("pin a link at", &pin))?;
        }
        Ok(())
    }

    /// Pins the programs that took the place of the pinned ones, now that every link leads to them.
    pub(super) fn pin(&mut self, ebpf: &mut Ebpf, directory: &Directory) -> Result<(), NodeError> {
        if !self.new {
            return Ok(());
        }
        for hook in hooks() {
            let pin = directory.programs().join(hook.program);
            let program = ebpf.program_mut(hook.program).ok_or(KernelError::Missing(hook.program))?;
            remove(&pin)?;
            let failed = |error| NodeError::pin("pin a program at", &pin)(io::Error::other(error));
            program.pin(&pin).map_err(failed)?;
        }
        self.new = false;
        Ok(())
    }
}

fn hooks() -> impl Iterator<Item = &'static Hook> {
    HOOKS.iter().chain(&INTERFACE_HOOKS).chain(&LAST_HOOKS)
}

impl Loaded {
    fn new(info: &ProgramInfo) -> Result<Self, ProgramError> {
        Ok(Self { fd: info.fd()?, id: info.id() })
    }
}

/// The tag is of the instructions without the maps; with diagnostics the verifier left more of them in.
fn is_same(own: &ProgramInfo, pinned: &ProgramInfo, maps: &[u32]) -> bool {
    let ids = |info: &ProgramInfo| {
        let mut ids = info.map_ids().ok().flatten().unwrap_or_default();
        ids.retain(|id| maps.contains(id));
        ids.sort_unstable();
        ids
    };
    own.tag() == pinned.tag() && own.size_translated() == pinned.size_translated() && ids(own) == ids(pinned)
}

/// Is there such a link already? One with another program gets this one, one from elsewhere goes.
pub(super) fn keep(pin: &Path, cgroup: u64, hook: &Hook, program: &Loaded) -> Result<bool, NodeError> {
    let failed = || NodeError::pin("open the link at", pin);
    let link = match Link::open(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed()(error)),
    };
    let info = link.info().map_err(failed())?;
    if !info.is_at(cgroup, hook.attach_type) {
        remove(pin)?;
        return Ok(false);
    }
    if info.program != program.id {
        let failed = NodeError::pin("put the new program into the link at", pin);
        link.replace_program(program.fd.as_fd()).map_err(failed)?;
    }
    Ok(true)
}

pub(super) fn remove(pin: &Path) -> Result<(), NodeError> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(NodeError::pin("remove", pin)(error)),
        _ => Ok(()),
    }
}
