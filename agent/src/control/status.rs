//! The object of `status --json`, as it goes over the socket.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::protocol::Quarantine;

/// What the agent does: the object of `status --json`. Times are RFC 3339 in UTC, hashes 16 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`super::protocol::SCHEMA`].
    pub schema: u32,
    /// Is every selected workload enforced by a policy that the agent has read?
    pub ready: bool,
    /// Why not.
    pub not_ready: Option<String>,
    /// Where the rules come from.
    pub allowlists: Allowlists,
    /// The policies in force, by name.
    pub policies: Vec<Policy>,
    /// Selected workloads, by path.
    pub workloads: Vec<Workload>,
    /// Other people's programs on the enforced cgroups and above them.
    pub others: Vec<OtherProgram>,
    /// Records of violations that were not written, or not read in time.
    pub records_lost: u64,
    /// The last self-test; `None` where none has ended yet, or the agent is of a version that has none.
    #[serde(default)]
    pub selftest: Option<Selftest>,
}

/// The last self-test of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selftest {
    /// Was no way open?
    pub passed: bool,
    /// When it ended.
    pub at: String,
    /// What it found, or why it could not run, in a sentence.
    pub result: String,
}

/// A program that is not the agent's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherProgram {
    /// Directory of the cgroup that it is attached to.
    pub path: PathBuf,
    /// The hook.
    pub hook: String,
    /// Its id.
    pub id: u32,
    /// Its name; empty where it has none.
    pub name: String,
    /// Was it attached without the multi flag, so that nothing further can be attached below?
    pub exclusive: bool,
    /// May it rewrite addresses, and do programs of the agent see what becomes of them?
    #[serde(default)]
    pub followed: bool,
}

/// Where the rules come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowlists {
    /// `files`, `last-good`, `pinned` or `none`.
    pub source: String,
    /// When loading was last tried.
    pub loaded: String,
    /// What was wrong with the files then, with the places; one finding a line.
    pub error: Option<String>,
}

/// A policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name; of a merged one, the names joined by `+`.
    pub name: String,
    /// `enforce` or `audit`.
    pub mode: String,
    /// Hash of its ruleset.
    pub ruleset: String,
    /// Workloads under it.
    pub workloads: usize,
}

/// A selected workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Its label: the pod's UID, or the path of its cgroup.
    pub workload: String,
    /// Path of its cgroup under the mount of cgroup2.
    pub path: PathBuf,
    /// Id of its cgroup.
    pub cgroup: u64,
    /// The pod, where it is one.
    pub pod: Option<Pod>,
    /// Its policy.
    pub policy: String,
    /// `enforce` or `audit`.
    pub mode: String,
    /// Hash of its ruleset.
    pub ruleset: String,
    /// `backstop`, `cgroup` or `unenforced`.
    pub tier: String,
    /// `own`, `host` or `unknown`: its network namespace.
    pub network: String,
    /// The interfaces by which it reaches the world.
    pub interfaces: Vec<Interface>,
    /// What its processes may do, where it is in the host's network namespace; `None` where nobody has looked yet, or the
    /// agent is of a version that does not.
    #[serde(default)]
    pub capabilities: Option<Capabilities>,
    /// Its RDMA devices; `None` as above.
    #[serde(default)]
    pub rdma: Option<Rdma>,
    /// Since when it is enforced.
    pub enforced_since: Option<String>,
    /// Why it is not.
    pub failure: Option<String>,
    /// Violations in all.
    pub violations: u64,
    /// The same by reason and protocol, without zeros.
    pub violations_by_reason: BTreeMap<String, BTreeMap<String, u64>>,
    /// Its quarantine.
    pub quarantine: Option<Quarantine>,
    /// The addresses that are open for names, by name; none where the agent is of a version that knows no names.
    #[serde(default)]
    pub grants: Vec<Grant>,
}

/// An address that is open because a name resolved to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The address.
    pub address: IpAddr,
    /// The name; `None` where it is not known any more.
    pub name: Option<String>,
    /// When it was opened.
    pub since: String,
    /// Until when it is open.
    pub until: String,
}

/// An interface of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name in the workload's network namespace.
    pub name: String,
    /// `backstop` or `cgroup`.
    pub tier: String,
    /// Why it has no backstop.
    pub why: Option<String>,
}

/// What the processes of a workload may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Capabilities that lead past the programs of its cgroup.
    pub held: Vec<Held>,
    /// Those that none has, and that a program which is started may be given.
    pub obtainable: Vec<String>,
    /// Threads that were looked at.
    pub examined: usize,
    /// Those of which nothing could be read, or which were too many.
    pub unexamined: usize,
}

/// A capability that leads past the programs of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its name, without `CAP_`.
    pub capability: String,
    /// How it does that.
    pub why: String,
    /// How many processes have it.
    pub processes: usize,
    /// One of them.
    pub pid: u32,
}

/// The RDMA devices of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rdma {
    /// Is any of the files there?
    pub in_reach: bool,
    /// `shared`, `exclusive` or `absent`: which network namespaces may use a device.
    pub sharing: String,
    /// Devices that its network namespace may use.
    pub devices: Vec<String>,
    /// Device files in its `/dev`.
    pub files: Vec<String>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}
