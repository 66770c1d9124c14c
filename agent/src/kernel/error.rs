//! What can go wrong between the agent and the kernel. Each message says what to do.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// An error of the kernel's side.
#[derive(Debug, Error)]
pub enum KernelError {
    /// Not uid 0, or without the capabilities.
    #[error("not permitted to load eBPF programs: run as root with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    NotPermitted,
    /// The kernel has no `bpf` system call.
    #[error("this kernel has no eBPF (CONFIG_BPF_SYSCALL): egress cannot be enforced here")]
    NoBpf,
    /// The kernel is older than [`super::MINIMUM_KERNEL`].
    #[error("Linux {found} is too old: egress-warden needs {needed} or newer")]
    TooOld {
        /// The running kernel's release.
        found: String,
        /// The oldest one that works.
        needed: String,
    },
    /// The object could not be read or its maps could not be made.
    #[error("cannot create the kernel maps: {0}")]
    Object(#[source] Box<aya::EbpfError>),
    /// The verifier or the kernel refused a program.
    #[error("the kernel refused program {program}: {reason}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The error, with the end of the verifier's log.
        reason: String,
    },
    /// The object does not hold what the agent expects: they were not built together.
    #[error("the embedded eBPF object lacks {0}: it does not belong to this agent; rebuild both")]
    Missing(&'static str),
    /// A map could not be read or written.
    #[error("map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// A map could not be mapped into memory.
    #[error("map {map} cannot be mapped: {source}")]
    Mapping {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// More than the map holds.
    #[error("map {map} is full: {wanted} wanted, {capacity} is its capacity")]
    Full {
        /// Its name.
        map: &'static str,
        /// What was asked for.
        wanted: usize,
        /// What it holds.
        capacity: usize,
    },
    /// A program without the multi flag sits on an ancestor: it would swallow ours, or be swallowed.
    #[error(
        "cgroup {} has an exclusive {hook} program (id {program}): it and ours would silence each other; \
         have it attached with BPF_F_ALLOW_MULTI, or detach it", path.display()
    )]
    Exclusive {
        /// The ancestor.
        path: PathBuf,
        /// The hook.
        hook: &'static str,
        /// The other program's id.
        program: u32,
    },
    /// Attaching failed.
    #[error("cannot attach the {hook} program to cgroup {}: {source}", path.display())]
    Attach {
        /// The cgroup.
        path: PathBuf,
        /// The hook.
        hook: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Attaching to an interface, or taking off.
    #[error("cannot change the {hook} program of interface {index}: {source}")]
    Interface {
        /// Its index.
        index: u32,
        /// The hook.
        hook: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Before Linux 6.6: the place at the head of an interface's filters is somebody else's.
    #[error(
        "interface {index}: the filters of priority 1 at {hook} are of another kind or protocol, and the backstop has to \
         come before all others: have them take another priority"
    )]
    PriorityTaken {
        /// Its index.
        index: u32,
        /// The hook.
        hook: &'static str,
    },
    /// Before Linux 6.6: an interface with the older kind of qdisc.
    #[error(
        "interface {index} has an `ingress` qdisc, below which nothing can be attached to what goes out: have it replaced by \
         clsact, which takes the same filters, or run Linux 6.6 or newer"
    )]
    IngressQdisc {
        /// Its index.
        index: u32,
    },
    /// The kernel lacks both ways to have a program on an interface.
    #[error(
        "this kernel has neither tcx (Linux 6.6) nor clsact with cls_bpf (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF), or \
         cannot load the modules: no interface can have a backstop"
    )]
    NoFilters,
    /// The programs on a cgroup could not be listed.
    #[error("cannot list the {hook} programs on cgroup {}: {source}", path.display())]
    Query {
        /// The cgroup.
        path: PathBuf,
        /// The hook.
        hook: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A clock could not be read.
    #[error("cannot read the clock: {what}: {source}")]
    Clock {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The network namespace could not be examined.
    #[error("cannot examine the network namespace: {what}: {source}")]
    Namespace {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl KernelError {
    /// Does this agent lack a right?
    #[must_use]
    pub fn is_denied(&self) -> bool {
        match self {
            Self::NotPermitted => true,
            Self::Namespace { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }

    pub(super) fn map(map: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self::Map { map, source: Box::new(source) }
    }
}
