//! The addresses that answers opened, of all workloads.

use std::collections::BTreeMap;

use super::{Node, NodeError};
use crate::kernel::OpenAddress;
use crate::kernel::clock::boot_ns;

impl Node {
    /// The addresses that are open now, by cgroup.
    pub fn grants(&self) -> Result<BTreeMap<u64, Vec<OpenAddress>>, NodeError> {
        self.grants_at(boot_ns()?)
    }

    /// Those of a workload that its connections may still live by, which are also some that have ended.
    pub fn remembered_grants(&self, cgroup: u64) -> Result<Vec<OpenAddress>, NodeError> {
        Ok(self.grants_at(0)?.remove(&cgroup).unwrap_or_default())
    }

    fn grants_at(&self, now: u64) -> Result<BTreeMap<u64, Vec<OpenAddress>>, NodeError> {
        let mut open = self.maps.open_addresses(now)?;
        let mut found = BTreeMap::new();
        for (cgroup, bound) in &self.workloads {
            let serial = self.maps.bindings.get(bound.slot)?.serial;
            if let Some(open) = open.remove(&(bound.slot, serial)) {
                found.insert(*cgroup, open);
            }
        }
        Ok(found)
    }

    /// Removes addresses that were open some time ago, with their names, and whatever is nobody's. `now` is the boot time in
    /// nanoseconds.
    pub fn sweep_grants(&mut self, now: u64) -> Result<(), NodeError> {
        let mut slots = BTreeMap::new();
        for bound in self.workloads.values() {
            slots.insert(bound.slot, self.maps.bindings.get(bound.slot)?.serial);
        }
        Ok(self.maps.sweep_grants(now, &slots)?)
    }
}
