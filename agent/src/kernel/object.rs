//! The loaded programs and their maps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread;

use aya::maps::{Map, MapData, RingBuf};
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfError, EbpfLoader, Pod};
use aya_log::EbpfLogger;
use egress_warden_common::limits::NAME_ROOM;
use egress_warden_common::state::{NamedRecord, Record};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::chroot;

use super::attach::{HOOKS, Hook, INTERFACE_HOOKS, LAST_HOOKS, attach};
use super::maps::Maps;
use super::{KernelError, Probe};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/egress-warden.bpf.o"));

/// How large the maps are made.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Words of all rulesets together.
    pub words: u32,
    /// Workloads.
    pub workloads: u32,
    /// Refused destinations that are counted one by one.
    pub refused_destinations: u32,
    /// Does any ruleset say something of names? Without, nothing of names is loaded.
    pub names: bool,
}

/// A loader in the making. Begun early, it goes on beside the reading of allowlists.
#[derive(Debug)]
pub struct Preparation(thread::JoinHandle<EbpfLoader<'static>>);

impl Preparation {
    /// Begins.
    #[must_use]
    pub fn begin() -> Self {
        Self(thread::spawn(|| {
            look_away();
            EbpfLoader::new()
        }))
    }
}

// aya reads and parses the kernel's whole type information for every loader (5 MB, 20 ms, a third of what `exec -- true`
// took), and offers no way to say that nothing in the object is relocated against it. It does without where the file
// cannot be found: so this thread alone, which ends with its loader, gets a root directory in which there is no /sys.
// Should that not be permitted, the file is read; nothing else changes.
fn look_away() {
    let _ = unshare(CloneFlags::CLONE_FS).and_then(|()| chroot("/proc/self/task"));
}

/// The programs, loaded and verified, with their maps. It exists only when every program was accepted.
pub struct Enforcer {
    ebpf: Ebpf,
    pub(super) maps: Maps,
    records: RingBuf<MapData>,
    logger: Option<Logger>,
}

impl Enforcer {
    /// Loads every program. `log` turns on the programs' own diagnostics, which go to the [`log`] crate.
    pub fn load(preparation: Preparation, sizes: Sizes, log: bool) -> Result<Self, KernelError> {
        let (mut ebpf, logger) = load_object(preparation, sizes, log, &[])?;
        let maps = Maps::take(&mut ebpf)?;
        let records = take_ring(&mut ebpf, "RECORDS")?;
        Ok(Self { ebpf, maps, records, logger })
    }

    /// Attaches every program to a cgroup. When one fails, the cgroup is not enforced and must not be used: the caller
    /// removes it.
    pub fn attach(&self, cgroup: BorrowedFd<'_>, path: &Path) -> Result<(), KernelError> {
        for hook in HOOKS {
            let failed = |source| KernelError::Attach { path: path.to_owned(), hook: hook.name, source };
            let program = self.ebpf.program(hook.program).ok_or(KernelError::Missing(hook.program))?;
            let program = program.fd().map_err(|error| failed(io::Error::other(error)))?;
            attach(cgroup, &hook, program.as_fd()).map_err(failed)?;
        }
        Ok(())
    }

    /// A loaded program, for whoever runs it on packets of his own (`BPF_PROG_TEST_RUN`).
    pub fn program(&self, name: &'static str) -> Result<BorrowedFd<'_>, KernelError> {
        let program = self.ebpf.program(name).ok_or(KernelError::Missing(name))?;
        program.fd().map(AsFd::as_fd).map_err(|error| refused_program(name, &error))
    }

    /// How many instructions the verifier walked for each program.
    pub fn verified_instructions(&self) -> Result<Vec<(&'static str, u32)>, KernelError> {
        HOOKS
            .iter()
            .map(|hook| {
                let program = self.ebpf.program(hook.program).ok_or(KernelError::Missing(hook.program))?;
                let info = program.info().map_err(|error| refused_program(hook.program, &error))?;
                let count = info.verified_instruction_count();
                Ok((hook.program, count.ok_or(KernelError::Missing("verified instructions"))?))
            })
            .collect()
    }

    /// What becomes readable when there are records, or diagnostics.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.records.as_fd()];
        fds.extend(self.logger.as_ref().map(AsFd::as_fd));
        fds
    }

    /// The records written since the last call.
    pub fn drain_records(&mut self, mut each: impl FnMut(&NamedRecord)) {
        let maps = &self.maps;
        drain_records(&mut self.records, |mut record| {
            maps.name_destination(&mut record);
            each(&record);
        });
    }

    /// Hands the programs' diagnostics, if they are on, to the [`log`] crate.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }
}

/// The programs' diagnostics.
pub(super) type Logger = EbpfLogger<&'static dyn log::Log>;

/// Loads every program of a hook. The maps named in `pins` are those that are pinned there, and are pinned there if they
/// were not.
pub(super) fn load_object(
    preparation: Preparation,
    sizes: Sizes,
    log: bool,
    pins: &[(&'static str, PathBuf)],
) -> Result<(Ebpf, Option<Logger>), KernelError> {
    Probe::new()?.check()?;
    let mut loader = preparation.0.join().map_err(|_| KernelError::Missing("loader"))?;
    // The level is a constant to the verifier, so with 0 the diagnostics cost not one instruction.
    let level: &'static u8 = if log { &(aya_log::Level::Debug as u8) } else { &0 };
    let on_node: &'static u32 = if pins.is_empty() { &0 } else { &1 };
    let knows_names: &'static u32 = if sizes.names { &1 } else { &0 };
    loader
        // Nothing in the object is relocated against the kernel's types, whether they were read or not.
        .btf(None)
        .override_global(aya_log::LEVEL, level, true)
        .override_global("ON_NODE", on_node, true)
        .override_global("KNOWS_NAMES", knows_names, true)
        .map_max_entries("WORDS", sizes.words.max(1))
        .map_max_entries("WORKLOADS", sizes.workloads)
        .map_max_entries("BINDINGS", sizes.workloads)
        .map_max_entries("STATES", sizes.workloads)
        .map_max_entries("REFUSED", sizes.refused_destinations);
    if pins.is_empty() {
        // Nobody reads or writes them where nothing outlives the caller.
        loader
            .map_max_entries("CGROUPS", 4096)
            .map_max_entries("INTERFACES", 1)
            .map_max_entries("BACKENDS", 1)
            // Nothing is older than a command's enforcement.
            .map_max_entries("KEPT", 1);
    }
    if !sizes.names {
        loader
            .map_max_entries("SCRATCH", 1)
            .map_max_entries("PENDINGS", 1)
            .map_max_entries("GRANTS", 1)
            .map_max_entries("GRANTED_NAMES", 1);
    }
    for (map, pin) in pins {
        loader.map_pin_path(map, pin.clone());
    }
    let mut ebpf = loader.load(OBJECT).map_err(refused_object)?;
    // What is not the command's own outlives no command either.
    let (interfaces, last) =
        if pins.is_empty() { (&[][..], &[][..]) } else { (&INTERFACE_HOOKS[..], &LAST_HOOKS[..]) };
    load_all(&mut ebpf, &[&HOOKS[..], interfaces, last].concat())?;
    let logger = if log {
        Some(EbpfLogger::init(&mut ebpf).map_err(|_| KernelError::Missing("AYA_LOGS"))?)
    } else {
        None
    };
    Ok((ebpf, logger))
}

/// Hands over what was written into a ring since the last call. Every bit pattern has to be a valid `T`.
pub(super) fn drain<T: Pod>(ring: &mut RingBuf<MapData>, mut each: impl FnMut(&T)) {
    while let Some(bytes) = ring.next() {
        // An entry of another length would be of another ABI, which loading has ruled out.
        if bytes.len() == size_of::<T>() {
            // SAFETY: the length was checked, every bit pattern is valid for a `Pod`, and it is read unaligned.
            each(&unsafe { bytes.as_ptr().cast::<T>().read_unaligned() });
        }
    }
}

/// The same of records, of which those of queries have a name: the others are given an empty one.
pub(super) fn drain_records(ring: &mut RingBuf<MapData>, mut each: impl FnMut(NamedRecord)) {
    while let Some(bytes) = ring.next() {
        // SAFETY: the lengths are checked, every bit pattern is valid for either, and it is read unaligned.
        unsafe {
            if bytes.len() == size_of::<NamedRecord>() {
                each(bytes.as_ptr().cast::<NamedRecord>().read_unaligned());
            } else if bytes.len() == size_of::<Record>() {
                let record = bytes.as_ptr().cast::<Record>().read_unaligned();
                each(NamedRecord { record, name: [0; NAME_ROOM] });
            }
        }
    }
}

pub(super) fn take_ring(ebpf: &mut Ebpf, name: &'static str) -> Result<RingBuf<MapData>, KernelError> {
    RingBuf::try_from(take(ebpf, name)?).map_err(KernelError::map(name))
}

pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or(KernelError::Missing(name))
}

// The verifier works on one program per processor at a time, and loading is most of what `exec` waits for.
fn load_all(ebpf: &mut Ebpf, hooks: &[Hook]) -> Result<(), KernelError> {
    thread::scope(|scope| {
        let loading: Vec<_> = ebpf
            .programs_mut()
            .filter_map(|(name, program)| {
                let hook = hooks.iter().find(|hook| hook.program == name)?;
                Some((hook, scope.spawn(|| load(program))))
            })
            .collect();
        if let Some(missing) = hooks.iter().find(|hook| !loading.iter().any(|(found, _)| found == hook)) {
            return Err(KernelError::Missing(missing.program));
        }
        for (hook, thread) in loading {
            let result = thread.join().map_err(|_| KernelError::Missing(hook.program))?;
            result.map_err(|error| refused_program(hook.program, &error))?;
        }
        Ok(())
    })
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn refused_object(error: EbpfError) -> KernelError {
    match errno(&error) {
        Some(libc::EPERM | libc::EACCES) => KernelError::NotPermitted,
        Some(libc::ENOSYS) => KernelError::NoBpf,
        _ => KernelError::Object(Box::new(error)),
    }
}

pub(super) fn refused_program(program: &'static str, error: &ProgramError) -> KernelError {
    match errno(error) {
        Some(libc::EPERM) => KernelError::NotPermitted,
        _ => KernelError::Program { program, reason: last_lines(&error.to_string(), 6) },
    }
}

// aya wraps the kernel's answer several times; the innermost `io::Error` is it.
pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(number);
        }
        next = error.source();
    }
    None
}

// The verifier tells the whole way that it walked; the reason stands at its end.
fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    match lines.split_first() {
        Some((first, rest)) if rest.len() > count => {
            format!("{first} ... {}", rest[rest.len() - count..].join("\n"))
        }
        _ => lines.join("\n"),
    }
}
