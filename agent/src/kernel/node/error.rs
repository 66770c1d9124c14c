//! What can go wrong with what is pinned. Each message says what to do.

use std::io;
use std::path::PathBuf;

use egress_warden_common::ABI_VERSION;
use thiserror::Error;

use crate::kernel::KernelError;

/// An error of a [`super::Node`].
#[derive(Debug, Error)]
pub enum NodeError {
    /// Loading, attaching, or a map.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The lock is held.
    #[error("another agent is running: it holds the lock on {}; stop it first", .0.display())]
    AnotherAgent(PathBuf),
    /// Pins of a version with other records.
    #[error(
        "{} holds enforcement with kernel interface version {found}, and this agent speaks version {ABI_VERSION}: take it \
         out with `egress-warden detach --all`, which ends its enforcement, and start again", directory.display()
    )]
    OtherVersion {
        /// Where the pins are.
        directory: PathBuf,
        /// Their version.
        found: String,
    },
    /// It would be a container's own.
    #[error(
        "{}: there is no BPF file system, and one that is mounted in a container ends with it, and enforcement as well; \
         mount it on the node: mount -t bpf bpf /sys/fs/bpf", .0.display()
    )]
    Private(PathBuf),
    /// There is no BPF file system and none can be mounted.
    #[error("cannot mount a BPF file system at {}: {source}; mount it: mount -t bpf bpf {0}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Nothing leads from a pinned cgroup's id to the cgroup.
    #[error("cannot open the mount of cgroup2: {0}; mount it: mount -t cgroup2 none /sys/fs/cgroup")]
    NoCgroups(#[source] io::Error),
    /// The wait for running programs.
    #[error("cannot wait for the end of running programs: {0}")]
    Grace(#[source] io::Error),
    /// A pin or a directory of pins.
    #[error("cannot {what} {}: {source}", path.display())]
    Pin {
        /// What was tried.
        what: &'static str,
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A cgroup could not be opened or found.
    #[error("cannot look at the cgroup with id {cgroup}: {source}")]
    Cgroup {
        /// Its id.
        cgroup: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No such workload.
    #[error("the cgroup with id {0} is not enforced")]
    NotEnforced(u64),
    /// An interface leads to too many workloads.
    #[error("more than {0} workloads share the network namespace behind it")]
    Shared(usize),
    /// A ruleset without the length that its header tells.
    #[error("a ruleset of {0} words whose header tells otherwise: it was not compiled by this version")]
    Malformed(usize),
}

impl NodeError {
    pub(super) fn pin(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Pin { what, path: path.into(), source }
    }
}
