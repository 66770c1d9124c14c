//! The addresses that answers opened, of all workloads.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use egress_warden_common::names::NO_CLASS;
use egress_warden_common::ruleset::Ruleset;

use super::{Node, NodeError};
use crate::kernel::OpenAddress;
use crate::kernel::clock::boot_ns;
use crate::ruleset::class_of_name;

impl Node {
    /// The addresses that are open now, by cgroup.
    pub fn grants(&self) -> Result<BTreeMap<u64, Vec<OpenAddress>>, NodeError> {
        let mut found = self.grants_at(boot_ns()?)?;
        // Read once where several workloads share them.
        let mut all_words = BTreeMap::new();
        for (cgroup, named) in &mut found {
            let binding = self.maps.bindings.get(self.slot(*cgroup)?)?;
            // Of another ruleset's names this one says what they open, as it does in the kernel.
            let is_older = |named: &OpenAddress| named.generation != binding.generation;
            if !named.iter().any(is_older) {
                continue;
            }
            let words = match all_words.entry(binding.ruleset) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(self.words_of(*cgroup)?),
            };
            let ruleset = Ruleset::new(words.as_slice(), 0);
            named.retain(|named| {
                if !is_older(named) {
                    return true;
                }
                let class = named.name.as_deref().map_or(NO_CLASS, |name| class_of_name(&ruleset, name));
                ruleset.may_point(class, named.address.into())
            });
        }
        found.retain(|_, named| !named.is_empty());
        Ok(found)
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
