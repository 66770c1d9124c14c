//! Sizes that both sides agree on. `docs/architecture.md` explains each; the agent refuses what would not fit before
//! it touches a map.

/// Boundaries of one address family in one ruleset. A CIDR with other rules on both sides takes two.
pub const MAX_BOUNDARIES: u32 = 1 << 20;
/// Different sets of ports in one ruleset.
pub const MAX_CLASSES: u32 = 1 << 16;
/// Port intervals of one class.
pub const MAX_INTERVALS_PER_CLASS: u32 = 1 << 12;
/// Port intervals of one ruleset.
pub const MAX_INTERVALS: u32 = 1 << 20;
/// Quarantine rules of one ruleset.
pub const MAX_QUARANTINE_RULES: usize = 4;
/// The largest `quarantine.violations`.
pub const MAX_WINDOW: u32 = 256;
/// Places for the times of violations: twice the largest window, so that one in flight is not overwritten.
pub const WINDOW_PLACES: usize = 2 * MAX_WINDOW as usize;
/// Workloads that one loaded set of programs can hold.
pub const MAX_WORKLOADS: u32 = 1024;
/// Addresses and uplinks of all workloads' network namespaces together.
pub const MAX_LOCALS: u32 = MAX_WORKLOADS * 16;
/// Interfaces with a backstop.
pub const MAX_INTERFACES: u32 = MAX_WORKLOADS * 2;
/// Workloads that may share one network namespace.
pub const INTERFACE_WORKLOADS: usize = 4;
/// Addresses of a namespace that stand beside its interface; the rest is looked up in the table of addresses.
pub const INTERFACE_ADDRESSES: usize = 8;
/// Flows that are older than the enforcement of their workload and are kept or about to be ended, over all workloads.
pub const MAX_KEPT: u32 = 1 << 14;
/// Those of one workload: no workload takes the places of all others.
pub const KEPT_PER_WORKLOAD: usize = 1 << 12;
/// Notes of an interface.
pub const NOTES: usize = 256;
/// How long a note counts.
pub const NOTE_NS: u64 = 2_000_000_000;
/// Depth to which a cgroup's ancestors are walked.
pub const MAX_CGROUP_DEPTH: i32 = 32;
/// Records that a workload may write at once before the token bucket limits it.
pub const RECORD_BURST: u64 = 128;
/// Nanoseconds after which the bucket holds one more token: 100 a second.
pub const RECORD_INTERVAL_NS: u64 = 10_000_000;
/// Refused destinations counted one by one, over all workloads.
pub const MAX_REFUSED_DESTINATIONS: u32 = 8192;
/// Bytes of the ring buffer that carries records.
pub const RECORDS_BYTES: u32 = 1 << 18;
/// Bytes of the ring buffer that tells of cgroups.
pub const CGROUPS_BYTES: u32 = 1 << 20;
/// Peers that one UDP socket may answer: sets times ways.
pub const UDP_FLOW_SETS: usize = 128;
/// Ways of a set.
pub const UDP_FLOW_WAYS: usize = 4;
/// How long an inbound UDP datagram may be answered.
pub const UDP_FLOW_NS: u64 = 60_000_000_000;
/// Backends that are remembered of one workload: sets times ways.
pub const BACKEND_SETS: usize = 64;
/// Ways of a set.
pub const BACKEND_WAYS: usize = 4;
/// How long a backend counts after it was last seen to stand for its service.
pub const BACKEND_NS: u64 = 60_000_000_000;
/// How old what is remembered of a backend may become before it is written anew.
pub const BACKEND_REFRESH_NS: u64 = 1_000_000_000;
/// IPv6 extension headers that are walked; a longer chain is refused.
pub const MAX_EXTENSION_HEADERS: usize = 8;
/// The longest name, in characters without the closing dot. Below what DNS allows, so that a name asked for under a search
/// suffix still fits a record.
pub const MAX_NAME: usize = 240;
/// Bytes that hold one.
pub const NAME_ROOM: usize = 256;
/// Different names in one ruleset, those under search suffixes included.
pub const MAX_NAMES: u32 = 1 << 16;
/// Slots of the table of names that are looked at for one name.
pub const NAME_PROBES: u32 = 16;
/// Entries that may cover one name with different ports or places.
pub const MAX_NAME_TARGETS: u32 = 8;
/// Different sets of addresses that names of one ruleset may point to.
pub const MAX_POINT_SETS: u32 = 62;
/// Query types of one ruleset.
pub const MAX_QUERY_TYPES: u32 = 64;
/// Queries of one workload that may wait for their answer: sets times ways.
pub const PENDING_SETS: usize = 32;
/// Ways of a set.
pub const PENDING_WAYS: usize = 8;
/// Refused names of a workload that are remembered for a minute.
pub const REFUSED_NAMES: usize = 256;
/// How long a query waits for its answer. Resolver libraries ask again after 5 s.
pub const PENDING_NS: u64 = 10_000_000_000;
/// Addresses that answers opened, over all workloads.
pub const MAX_GRANTS: u32 = 1 << 16;
/// Those of one workload, together with the names for which they are: no workload takes the places of all others.
pub const GRANTS_PER_WORKLOAD: u64 = 1 << 14;
/// How many of them may be there when one is added that opens nothing, which audit remembers for its records only.
pub const UNOPENED_PER_WORKLOAD: u64 = GRANTS_PER_WORKLOAD / 8;
/// How long such a one lasts, nanoseconds: applications connect soon after they asked.
pub const UNOPENED_NS: u64 = 60_000_000_000;
/// Names with different rights for which one address of a workload may be open at a time.
pub const GRANT_NAMES: usize = 4;
/// Names that answers opened addresses for, over all workloads.
pub const MAX_GRANTED_NAMES: u32 = 1 << 16;
