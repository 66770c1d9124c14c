//! What the agent knows at one moment, for metrics and for people.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use egress_warden_common::state::State;

use super::dns::DnsTotals;
use super::totals::Older;
use crate::allowlist::Action;
use crate::kernel::OtherProgram;
use crate::policy::Mode;
use crate::reach::Reach;
use crate::selftest::LastSelftest;
use crate::workload::Pod;

/// Everything at one moment. Counters in it were read from the kernel for it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Enforced workloads, and selected ones that could not be enforced; by path.
    pub workloads: Vec<WorkloadStatus>,
    /// Workloads that are gone, kept for ten minutes with their last counters, so that a scrape can still see them.
    pub gone: Vec<WorkloadStatus>,
    /// The policies of the allowlists in force, by name; a merged policy that a workload uses stands here as well.
    pub policies: Vec<PolicyStatus>,
    /// Violations of this node since the pins were made, workloads that are gone included.
    pub node_violations: Vec<NodeViolations>,
    /// Quarantines so far by policy and action.
    pub quarantines: Vec<QuarantineTotal>,
    /// Audit: how often a policy would have quarantined.
    pub would_quarantine: Vec<(String, u64)>,
    /// What became of connections older than the attach.
    pub older: Older,
    /// How long from a cgroup's creation to its enforcement.
    pub enforcement_delay: Delays,
    /// Seconds that selected workloads existed without enforcement, summed.
    pub unenforced_seconds: f64,
    /// The last attempt to load the allowlists.
    pub reload: Reload,
    /// Every map with a capacity.
    pub maps: Vec<MapUsage>,
    /// Other people's programs on the enforced cgroups and above them.
    pub others: Vec<OtherProgram>,
    /// Records that were not written, or not read in time.
    pub records_lost: u64,
    /// Queries and answers, workloads that are gone included.
    pub dns: DnsTotals,
    /// Is every selected workload enforced by a policy that the agent has read? Else why not.
    pub ready: Result<(), String>,
    /// What the self-test found.
    pub selftest: LastSelftest,
}

/// One workload.
#[derive(Clone, Debug)]
pub struct WorkloadStatus {
    /// Id of its cgroup.
    pub cgroup: u64,
    /// Path of its cgroup under the mount of cgroup2, beginning with a slash.
    pub path: PathBuf,
    /// The pod, where known.
    pub pod: Option<Pod>,
    /// What metrics call it.
    pub label: String,
    /// Name of its policy; of several, sorted and joined by `+`.
    pub policy: String,
    /// What the policy does.
    pub mode: Mode,
    /// Hash of the ruleset in force.
    pub ruleset: u64,
    /// How well it is protected.
    pub tier: Tier,
    /// The interfaces by which it reaches the world; `None` while its network is not known.
    pub interfaces: Option<Vec<InterfaceStatus>>,
    /// Is its network namespace the host's?
    pub host_network: bool,
    /// What it has in reach by which packets leave unjudged; `None` while nobody has looked.
    pub reach: Option<Reach>,
    /// Since when; `None` where it is not enforced.
    pub enforced_since: Option<SystemTime>,
    /// Why it is not enforced.
    pub failure: Option<String>,
    /// Its quarantine, if it is in one.
    pub quarantine: Option<QuarantineStatus>,
    /// The addresses that are open for names, by name.
    pub grants: Vec<GrantStatus>,
    /// What the kernel counts of it.
    pub state: Box<State>,
}

/// An address that is open because a name resolved to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantStatus {
    /// The address.
    pub address: IpAddr,
    /// The name, where it is still known.
    pub name: Option<String>,
    /// When it was opened.
    pub since: SystemTime,
    /// Until when it is open.
    pub until: SystemTime,
}

/// How well a workload is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// It is not.
    Unenforced,
    /// The programs on its cgroup.
    Cgroup,
    /// These, and the backstop on the other end of every interface.
    Backstop,
}

/// An interface of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceStatus {
    /// Its name in the workload's network namespace.
    pub name: String,
    /// Why there is no backstop on its other end; `None` where there is.
    pub missing: Option<String>,
}

impl Tier {
    /// Every tier.
    pub const ALL: [Self; 3] = [Self::Unenforced, Self::Cgroup, Self::Backstop];

    /// As metrics and `status` write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unenforced => "unenforced",
            Self::Cgroup => "cgroup",
            Self::Backstop => "backstop",
        }
    }
}

/// A quarantine that lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineStatus {
    /// Since when.
    pub since: SystemTime,
    /// What was done.
    pub action: Action,
    /// Who did it: `kernel`, or the user who asked.
    pub who: String,
    /// Why.
    pub why: String,
    /// When it ends by itself.
    pub until: Option<SystemTime>,
}

/// A policy of the allowlists in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStatus {
    /// Its name.
    pub name: String,
    /// What it does.
    pub mode: Mode,
    /// Hash of its ruleset.
    pub ruleset: u64,
    /// Does any workload use it?
    pub workloads: usize,
}

/// One cell of `node_violations_total`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeViolations {
    /// The policy.
    pub policy: String,
    /// Its mode.
    pub mode: Mode,
    /// The reason.
    pub reason: egress_warden_common::Reason,
    /// How many.
    pub count: u64,
}

/// One cell of `quarantines_total`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineTotal {
    /// The policy.
    pub policy: String,
    /// What was done.
    pub action: Action,
    /// How often.
    pub count: u64,
}

/// A histogram of seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delays {
    /// Observations not above [`DELAY_BOUNDS`], each counted in one bucket only.
    pub buckets: [u64; DELAY_BOUNDS.len()],
    /// All observations.
    pub count: u64,
    /// Their sum in seconds.
    pub sum: f64,
}

/// Upper bounds of the buckets of [`Delays`], in seconds.
pub const DELAY_BOUNDS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 10.0];

impl Delays {
    /// Adds one.
    pub fn observe(&mut self, seconds: f64) {
        if let Some(bucket) = DELAY_BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket] += 1;
        }
        self.count += 1;
        self.sum += seconds;
    }
}

/// What came of the last attempt to load the allowlists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// When.
    pub at: SystemTime,
    /// Whether the allowlists in the files are those in force, and if not, the errors with their places.
    pub outcome: Result<(), String>,
    /// Where the allowlists in force come from.
    pub source: RulesFrom,
}

/// Where the allowlists in force come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulesFrom {
    /// The files that the agent was told to read.
    Files,
    /// The copy of the last valid ones.
    LastGood,
    /// What an earlier agent left pinned in the kernel.
    Pinned,
    /// None yet.
    Nowhere,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapUsage {
    /// Its name, lower case.
    pub map: &'static str,
    /// What is in it.
    pub entries: u64,
    /// What it holds.
    pub capacity: u64,
}
