//! Which workload has which place in the maps.

use std::collections::HashMap;

use egress_warden_common::state::LocalKey;

use crate::kernel::KernelError;

/// The places. What stands in the kernel's own tables is the truth; this is the way back from it.
#[derive(Debug)]
pub(super) struct Slots {
    by_cgroup: HashMap<u64, u32>,
    by_slot: Vec<Option<u64>>,
    free: Vec<u32>,
    /// Given back, but a program that began before may still write there.
    leaving: Vec<u32>,
    locals: HashMap<u32, Vec<LocalKey>>,
}

impl Slots {
    pub(super) fn new(capacity: u32, taken: &[(u64, u32)], locals: Vec<LocalKey>) -> Self {
        let mut by_slot = vec![None; capacity as usize];
        for (cgroup, slot) in taken {
            if let Some(place) = by_slot.get_mut(*slot as usize) {
                *place = Some(*cgroup);
            }
        }
        let free = (0..capacity).rev().filter(|slot| by_slot[*slot as usize].is_none()).collect();
        let mut of_slot: HashMap<u32, Vec<LocalKey>> = HashMap::new();
        for key in locals {
            of_slot.entry(key.slot).or_default().push(key);
        }
        Self {
            by_cgroup: taken.iter().copied().collect(),
            by_slot,
            free,
            leaving: Vec::new(),
            locals: of_slot,
        }
    }

    pub(super) fn of(&self, cgroup: u64) -> Result<u32, KernelError> {
        self.by_cgroup.get(&cgroup).copied().ok_or(KernelError::NotEnforced(cgroup))
    }

    pub(super) fn cgroup(&self, slot: u32) -> Option<u64> {
        self.by_slot.get(slot as usize).copied().flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.by_cgroup.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.by_slot.len()
    }

    pub(super) fn take(&mut self, cgroup: u64) -> Option<u32> {
        let slot = self.free.pop()?;
        self.by_cgroup.insert(cgroup, slot);
        self.by_slot[slot as usize] = Some(cgroup);
        Some(slot)
    }

    pub(super) fn give_back(&mut self, cgroup: u64) -> Option<u32> {
        let slot = self.by_cgroup.remove(&cgroup)?;
        self.by_slot[slot as usize] = None;
        self.leaving.push(slot);
        Some(slot)
    }

    pub(super) fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    pub(super) fn grace_passed(&mut self) {
        self.free.append(&mut self.leaving);
    }

    /// Notes what is listed of a workload's network, and gives what was listed before.
    pub(super) fn replace_locals(&mut self, slot: u32, keys: Vec<LocalKey>) -> Vec<LocalKey> {
        if keys.is_empty() {
            return self.locals.remove(&slot).unwrap_or_default();
        }
        self.locals.insert(slot, keys).unwrap_or_default()
    }

    pub(super) fn locals(&self) -> usize {
        self.locals.values().map(Vec::len).sum()
    }
}
