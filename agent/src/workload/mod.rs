//! Workloads: what policies apply to, wherever they are heard of.
//!
//! Every source (cgroup paths here; container runtimes and the API server later) tells of workloads in the same words, a
//! [`Change`], over one channel. What follows from a change is [`crate::enforce`]'s business, never a source's.
#![forbid(unsafe_code)]

pub mod cgroup_tree;
pub mod cgroups;
mod finder;
pub mod mount;
pub mod network;
pub mod pattern;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A workload: one pod, or one cgroup outside Kubernetes. Its identity is its cgroup, never a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Id of its cgroup: unique until the machine boots again, and never used twice.
    pub cgroup: u64,
    /// Path of its cgroup under the mount of cgroup2, beginning with a slash.
    pub path: PathBuf,
    /// The pod that it is, where a source knows.
    pub pod: Option<Pod>,
}

impl Workload {
    /// What metrics and records call it: the pod's UID, or the path of its cgroup.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.pod {
            Some(pod) => pod.uid.clone(),
            None => path_text(&self.path),
        }
    }
}

/// The path of a cgroup as people and programs read it. Bytes that are no UTF-8 are written `\xNN`, so that two names of
/// them do not look like one.
#[must_use]
pub fn path_text(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing into a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// What Kubernetes knows of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What a source tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Everything that there is: sent at the start, and when the source may have missed something.
    All(Vec<Workload>),
    /// A workload that was not there.
    Appeared {
        /// It.
        workload: Workload,
        /// Boot time in nanoseconds at which its cgroup was made, where the kernel told.
        created: Option<u64>,
    },
    /// Its cgroup was removed.
    Gone {
        /// Id of its cgroup.
        cgroup: u64,
    },
    /// The node's own addresses, which the agent sees as its own.
    Node {
        /// Those of its network namespace.
        addresses: Vec<std::net::IpAddr>,
    },
    /// Something now runs in it, or its network changed: addresses, interfaces, or which namespace it is.
    Network {
        /// Id of its cgroup.
        cgroup: u64,
        /// What was found.
        namespace: crate::kernel::OwnNamespace,
    },
    /// Some cgroups cannot be looked at: a workload among them is not enforced. `None` when all can be again.
    Unseen {
        /// Which, and why.
        why: Option<String>,
    },
}
