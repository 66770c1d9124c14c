//! The maps that the agent writes and reads.

use std::os::fd::{AsFd, AsRawFd};

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};
use egress_warden_common::Address;
use egress_warden_common::limits::MAX_LOCALS;
use egress_warden_common::state::{
    BINDING_ACTIVE, BINDING_HOST_NAMESPACE, Binding, LocalKey, RefusedKey, State, WallClock,
};
use memmap2::{MmapMut, MmapOptions};

use super::object::take;
use super::{Enforcer, KernelError, OwnNamespace};

/// A record of the shared crate, as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Wire<T: Copy>(T);

macro_rules! wire {
    ($($type:ty),+) => { $(
        // SAFETY: `repr(C)`, integers and arrays of integers only, without padding, of a size that `common::state` asserts.
        unsafe impl Pod for Wire<$type> {}
    )+ };
}
wire!(Binding, State, LocalKey, RefusedKey, WallClock);

pub(super) struct Maps {
    words: MmapMut,
    bindings: Array<MapData, Wire<Binding>>,
    states: Array<MapData, Wire<State>>,
    workloads: HashMap<MapData, u64, u32>,
    locals: HashMap<MapData, Wire<LocalKey>, u8>,
    refused: HashMap<MapData, Wire<RefusedKey>, u64>,
    clock: Array<MapData, Wire<WallClock>>,
}

impl Maps {
    pub(super) fn take(ebpf: &mut aya::Ebpf) -> Result<Self, KernelError> {
        let Map::Array(words) = take(ebpf, "WORDS")? else { return Err(KernelError::Missing("WORDS")) };
        let length =
            words.info().map_err(KernelError::map("WORDS"))?.max_entries() as usize * size_of::<u64>();
        // SAFETY: the mapping holds the map; nobody else in this process writes to it, and the programs only read it.
        let words = unsafe { MmapOptions::new().len(length).map_mut(words.fd().as_fd().as_raw_fd()) }
            .map_err(|source| KernelError::Mapping { map: "WORDS", source })?;
        Ok(Self {
            words,
            bindings: take(ebpf, "BINDINGS")?.try_into().map_err(KernelError::map("BINDINGS"))?,
            states: take(ebpf, "STATES")?.try_into().map_err(KernelError::map("STATES"))?,
            workloads: take(ebpf, "WORKLOADS")?.try_into().map_err(KernelError::map("WORKLOADS"))?,
            locals: take(ebpf, "LOCALS")?.try_into().map_err(KernelError::map("LOCALS"))?,
            refused: take(ebpf, "REFUSED")?.try_into().map_err(KernelError::map("REFUSED"))?,
            clock: take(ebpf, "CLOCK")?.try_into().map_err(KernelError::map("CLOCK"))?,
        })
    }
}

impl Enforcer {
    /// Writes a ruleset's words from index `base` on.
    pub fn write_words(&mut self, base: u32, words: &[u64]) -> Result<(), KernelError> {
        let capacity = self.maps.words.len() / size_of::<u64>();
        let start = base as usize;
        let wanted = start + words.len();
        if wanted > capacity {
            return Err(KernelError::Full { map: "WORDS", wanted, capacity });
        }
        let target = &mut self.maps.words[start * size_of::<u64>()..wanted * size_of::<u64>()];
        for (place, word) in target.chunks_exact_mut(size_of::<u64>()).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        Ok(())
    }

    /// Tells the programs of a workload: its ruleset and its network namespace, then which cgroup it is.
    pub fn bind(
        &mut self,
        slot: u32,
        cgroup_id: u64,
        ruleset: u32,
        generation: u32,
        namespace: &OwnNamespace,
    ) -> Result<(), KernelError> {
        let (wanted, capacity) = (namespace.addresses.len() + namespace.uplinks.len(), MAX_LOCALS as usize);
        if wanted > capacity {
            return Err(KernelError::Full { map: "LOCALS", wanted, capacity });
        }
        for address in &namespace.addresses {
            let address = Address::from(*address).to_bytes();
            self.list_local(LocalKey { address, slot, interface: 0 })?;
        }
        for interface in &namespace.uplinks {
            self.list_local(LocalKey { address: [0; 16], slot, interface: *interface })?;
        }
        let mut flags = BINDING_ACTIVE;
        if namespace.is_host {
            flags |= BINDING_HOST_NAMESPACE;
        }
        let binding = Binding { ruleset, generation, netns_cookie: namespace.cookie, flags, serial: 0 };
        self.maps.bindings.set(slot, Wire(binding), 0).map_err(KernelError::map("BINDINGS"))?;
        self.maps.workloads.insert(cgroup_id, slot, 0).map_err(KernelError::map("WORKLOADS"))
    }

    fn list_local(&mut self, key: LocalKey) -> Result<(), KernelError> {
        self.maps.locals.insert(Wire(key), 1, 0).map_err(KernelError::map("LOCALS"))
    }

    /// Tells the programs the wall clock.
    pub fn set_clock(&mut self, clock: WallClock) -> Result<(), KernelError> {
        self.maps.clock.set(0, Wire(clock), 0).map_err(KernelError::map("CLOCK"))
    }

    /// What is counted of a workload.
    pub fn state(&self, slot: u32) -> Result<State, KernelError> {
        Ok(self.maps.states.get(&slot, 0).map_err(KernelError::map("STATES"))?.0)
    }

    /// The refused destinations of all workloads, with the number of attempts.
    pub fn refused(&self) -> Result<Vec<(RefusedKey, u64)>, KernelError> {
        let entries: Result<Vec<_>, _> = self.maps.refused.iter().collect();
        let entries = entries.map_err(KernelError::map("REFUSED"))?;
        Ok(entries.into_iter().map(|(key, count)| (key.0, count)).collect())
    }
}
