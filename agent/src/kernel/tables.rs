//! Entries of the maps, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{IterableMap, MapData, MapError};
use egress_warden_common::backend::{Backend, Backends};
use egress_warden_common::limits::RECORDS_BYTES;
use egress_warden_common::state::{Interface, Kept, KeptKey, LocalKey, RefusedKey, State};
use memmap2::MmapOptions;

use super::KernelError;
use super::maps::{Maps, Wire};
use super::object::errno;

impl Maps {
    /// Tells the programs which cgroup a slot belongs to.
    pub(super) fn list_workload(&mut self, cgroup_id: u64, slot: u32) -> Result<(), KernelError> {
        let done = self.workloads.insert(cgroup_id, slot, 0);
        done.map_err(|error| full_or(error, self.workloads.map(), "WORKLOADS"))
    }

    pub(super) fn unlist_workload(&mut self, cgroup_id: u64) -> Result<(), KernelError> {
        gone(self.workloads.remove(&cgroup_id)).map_err(KernelError::map("WORKLOADS"))
    }

    /// Every cgroup with its slot.
    pub(super) fn listed_workloads(&self) -> Result<BTreeMap<u64, u32>, KernelError> {
        self.workloads.iter().collect::<Result<_, _>>().map_err(KernelError::map("WORKLOADS"))
    }

    /// Tells the programs what belongs to the workload's network namespace. `value` is told of uplinks.
    pub(super) fn list_local(&mut self, key: LocalKey, value: u8) -> Result<(), KernelError> {
        let done = self.locals.insert(Wire(key), value, 0);
        done.map_err(|error| full_or(error, self.locals.map(), "LOCALS"))
    }

    pub(super) fn unlist_local(&mut self, key: LocalKey) -> Result<(), KernelError> {
        gone(self.locals.remove(&Wire(key))).map_err(KernelError::map("LOCALS"))
    }

    pub(super) fn listed_locals(&self) -> Result<Vec<LocalKey>, KernelError> {
        let keys: Result<Vec<_>, _> = self.locals.keys().collect();
        Ok(keys.map_err(KernelError::map("LOCALS"))?.into_iter().map(|key| key.0).collect())
    }

    pub(super) fn locals_capacity(&self) -> Result<u64, KernelError> {
        capacity(self.locals.map(), "LOCALS")
    }

    /// Tells the programs of an interface.
    pub(super) fn list_interface(&mut self, index: u32, interface: Interface) -> Result<(), KernelError> {
        let done = self.interfaces.insert(index, Wire(interface), 0);
        done.map_err(|error| full_or(error, self.interfaces.map(), "INTERFACES"))
    }

    pub(super) fn unlist_interface(&mut self, index: u32) -> Result<(), KernelError> {
        gone(self.interfaces.remove(&index)).map_err(KernelError::map("INTERFACES"))
    }

    pub(super) fn listed_interfaces(&self) -> Result<BTreeMap<u32, Interface>, KernelError> {
        let listed = self.interfaces.iter().map(|entry| entry.map(|(index, interface)| (index, interface.0)));
        listed.collect::<Result<_, _>>().map_err(KernelError::map("INTERFACES"))
    }

    /// Tells the programs that calls of this slot's workload may be rewritten. What was noted before this counts no more.
    pub(super) fn add_backends(&mut self, slot: u32, epoch: u64) -> Result<(), KernelError> {
        let empty = Backends { epoch, sets: [[Backend::default(); _]; _] };
        let done = self.backends.insert(slot, Wire(empty), 0);
        done.map_err(|error| full_or(error, self.backends.map(), "BACKENDS"))
    }

    pub(super) fn remove_backends(&mut self, slot: u32) -> Result<(), KernelError> {
        gone(self.backends.remove(&slot)).map_err(KernelError::map("BACKENDS"))
    }

    /// The backends of a slot's workload, with their services; none where it has no table.
    pub(super) fn backends_of(&self, slot: u32) -> Result<Vec<Backend>, KernelError> {
        match self.backends.get(&slot, 0) {
            Ok(table) => Ok(table.0.sets.into_iter().flatten().filter(|backend| backend.seen != 0).collect()),
            Err(MapError::KeyNotFound) => Ok(Vec::new()),
            Err(error) => Err(KernelError::map("BACKENDS")(error)),
        }
    }

    /// The slots whose workloads have a table of backends.
    pub(super) fn listed_backends(&self) -> Result<BTreeSet<u32>, KernelError> {
        self.backends.keys().collect::<Result<_, _>>().map_err(KernelError::map("BACKENDS"))
    }

    /// Tells the programs of a flow that is older than its workload's enforcement. False where there is no room for it.
    pub(super) fn list_kept(&mut self, key: KeptKey, kept: Kept) -> Result<bool, KernelError> {
        match self.kept.insert(Wire(key), Wire(kept), 0) {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(libc::E2BIG) => Ok(false),
            Err(error) => Err(KernelError::map("KEPT")(error)),
        }
    }

    pub(super) fn unlist_kept(&mut self, key: KeptKey) -> Result<(), KernelError> {
        gone(self.kept.remove(&Wire(key))).map_err(KernelError::map("KEPT"))
    }

    pub(super) fn listed_kept(&self) -> Result<Vec<(KeptKey, Kept)>, KernelError> {
        let listed = self.kept.iter().map(|entry| entry.map(|(key, kept)| (key.0, kept.0)));
        listed.collect::<Result<_, _>>().map_err(KernelError::map("KEPT"))
    }

    pub(super) fn kept_capacity(&self) -> Result<u64, KernelError> {
        capacity(self.kept.map(), "KEPT")
    }

    /// The refused destinations of all workloads, with the number of attempts.
    pub(super) fn refused(&self) -> Result<Vec<(RefusedKey, u64)>, KernelError> {
        let mut found = Vec::new();
        for key in self.refused_keys()? {
            match self.refused.get(&Wire(key), 0) {
                Ok(count) => found.push((key, count)),
                // Its workload has just ended.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(KernelError::map("REFUSED")(error)),
            }
        }
        Ok(found)
    }

    pub(super) fn count_refused(&self) -> Result<u64, KernelError> {
        Ok(self.refused_keys()?.len() as u64)
    }

    pub(super) fn refused_capacity(&self) -> Result<u64, KernelError> {
        capacity(self.refused.map(), "REFUSED")
    }

    /// Removes the refused destinations of some slots.
    pub(super) fn forget_refused(&mut self, of: impl Fn(u32) -> bool) -> Result<(), KernelError> {
        for key in self.refused_keys()?.into_iter().filter(|key| of(key.slot)) {
            gone(self.refused.remove(&Wire(key))).map_err(KernelError::map("REFUSED"))?;
        }
        Ok(())
    }

    fn refused_keys(&self) -> Result<Vec<RefusedKey>, KernelError> {
        let keys: Result<Vec<_>, _> = self.refused.keys().collect();
        Ok(keys.map_err(KernelError::map("REFUSED"))?.into_iter().map(|key| key.0).collect())
    }

    /// What is counted in a slot.
    pub(super) fn state(&self, slot: u32) -> Result<State, KernelError> {
        Ok(self.states.get(&slot, 0).map_err(KernelError::map("STATES"))?.0)
    }

    /// Nothing is counted any more.
    pub(super) fn clear_state(&mut self, slot: u32) -> Result<(), KernelError> {
        // SAFETY: a record of integers, for which all zeros is a value.
        let empty: State = unsafe { std::mem::zeroed() };
        self.states.set(slot, Wire(empty), 0).map_err(KernelError::map("STATES"))
    }

    pub(super) fn states_map(&self) -> &MapData {
        self.states.map()
    }
}

/// Bytes of the ring of records that nobody has read yet, and how many there can be.
pub(super) fn pending_records(ring: BorrowedFd<'_>) -> Result<(u64, u64), KernelError> {
    // SAFETY: takes and gives a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).map_err(|_| KernelError::Missing("page size"))?;
    let position = |offset: usize| {
        let mut options = MmapOptions::new();
        // SAFETY: the mapping is read through an atomic only, and the kernel writes there with one store.
        let mapped = unsafe { options.offset(offset as u64).len(page).map(ring.as_raw_fd()) }
            .map_err(|source| KernelError::Mapping { map: "RECORDS", source })?;
        // SAFETY: the position stands in the page's first word.
        Ok(unsafe { &*mapped.as_ptr().cast::<AtomicU64>() }.load(Ordering::Acquire))
    };
    let consumed = position(0)?;
    Ok((position(page)?.saturating_sub(consumed), RECORDS_BYTES.into()))
}

pub(super) fn capacity(map: &MapData, name: &'static str) -> Result<u64, KernelError> {
    Ok(map.info().map_err(KernelError::map(name))?.max_entries().into())
}

/// Tells a table that is full from one that does not work.
pub(super) fn full_or(error: MapError, map: &MapData, name: &'static str) -> KernelError {
    match (errno(&error), map.info()) {
        (Some(libc::E2BIG), Ok(info)) => {
            let capacity = info.max_entries() as usize;
            KernelError::Full { map: name, wanted: capacity + 1, capacity }
        }
        _ => KernelError::map(name)(error),
    }
}

/// What is to go may be gone already.
pub(super) fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}
