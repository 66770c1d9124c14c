//! Which slot belongs to which workload.

use std::collections::{BTreeMap, BTreeSet};

/// Every slot has an owner, is free, or is retired: given back, but a program may still be at work with it.
#[derive(Debug)]
pub(super) struct Slots {
    capacity: u32,
    owners: BTreeMap<u32, u64>,
    free: BTreeSet<u32>,
    retired: BTreeSet<u32>,
}

impl Slots {
    /// Those without an owner are free: no program is at work with them.
    pub(super) fn new(capacity: u32, owners: BTreeMap<u32, u64>) -> Self {
        let free = (0..capacity).filter(|slot| !owners.contains_key(slot)).collect();
        Self { capacity, owners, free, retired: BTreeSet::new() }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// The cgroup that has it.
    pub(super) fn owner(&self, slot: u32) -> Option<u64> {
        self.owners.get(&slot).copied()
    }

    /// Is there no free one, but one that can be made free?
    pub(super) fn needs_reclaim(&self) -> bool {
        self.free.is_empty() && !self.retired.is_empty()
    }

    pub(super) fn take(&mut self, cgroup: u64) -> Option<u32> {
        let slot = self.free.pop_first()?;
        self.owners.insert(slot, cgroup);
        Some(slot)
    }

    pub(super) fn retire(&mut self, slot: u32) {
        self.owners.remove(&slot);
        self.retired.insert(slot);
    }

    /// Frees the retired ones, and tells which they were.
    pub(super) fn reclaim(&mut self) -> BTreeSet<u32> {
        self.free.extend(&self.retired);
        std::mem::take(&mut self.retired)
    }
}
