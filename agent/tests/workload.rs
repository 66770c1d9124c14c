//! Workloads as they come and go, on the running kernel: in cgroups that each test makes, with patterns that match only
//! those.

#[path = "workload/found.rs"]
mod found;
#[path = "workload/networks.rs"]
mod networks;
#[path = "workload/support.rs"]
mod support;
