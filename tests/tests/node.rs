//! Enforcement that outlives the agent, on a real kernel.
//!
//! Each test has a BPF file system and cgroups of its own. They run one after the other: some count descriptors.

#[path = "node/support.rs"]
mod support;

#[path = "node/adoption.rs"]
mod adoption;
#[path = "node/approvals.rs"]
mod approvals;
#[path = "node/backstop.rs"]
mod backstop;
#[path = "node/before.rs"]
mod before;
#[path = "node/figures.rs"]
mod figures;
#[path = "node/followed.rs"]
mod followed;
#[path = "node/loadbalancer.rs"]
mod loadbalancer;
#[path = "node/names.rs"]
mod names;
#[path = "node/older.rs"]
mod older;
#[path = "node/release.rs"]
mod release;
#[path = "node/rulesets.rs"]
mod rulesets;
#[path = "node/tc.rs"]
mod tc;
#[path = "node/upgrade.rs"]
mod upgrade;
