//! The maps that the agent writes and reads, for one workload of `exec` and for all of a node.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};
use egress_warden_common::Address;
use egress_warden_common::limits::MAX_LOCALS;
use egress_warden_common::state::{
    BINDING_ACTIVE, BINDING_HOST_NAMESPACE, Binding, LocalKey, RefusedKey, State, WallClock,
};
use memmap2::{Mmap, MmapMut, MmapOptions};

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
wire!(State, LocalKey, RefusedKey, WallClock);

pub(super) struct Maps {
    words: Words,
    bindings: Bindings,
    states: Array<MapData, Wire<State>>,
    states_fd: OwnedFd,
    workloads: HashMap<MapData, u64, u32>,
    locals: HashMap<MapData, Wire<LocalKey>, u8>,
    refused: HashMap<MapData, Wire<RefusedKey>, u64>,
    clock: Array<MapData, Wire<WallClock>>,
}

impl Maps {
    pub(super) fn take(ebpf: &mut aya::Ebpf) -> Result<Self, KernelError> {
        let states = array(ebpf, "STATES")?;
        let states_fd = states.fd().as_fd().try_clone_to_owned();
        let states_fd = states_fd.map_err(|source| KernelError::Mapping { map: "STATES", source })?;
        Ok(Self {
            states_fd,
            words: Words::new(array(ebpf, "WORDS")?)?,
            bindings: Bindings::new(&array(ebpf, "BINDINGS")?)?,
            states: Map::Array(states).try_into().map_err(KernelError::map("STATES"))?,
            workloads: take(ebpf, "WORKLOADS")?.try_into().map_err(KernelError::map("WORKLOADS"))?,
            locals: take(ebpf, "LOCALS")?.try_into().map_err(KernelError::map("LOCALS"))?,
            refused: take(ebpf, "REFUSED")?.try_into().map_err(KernelError::map("REFUSED"))?,
            clock: take(ebpf, "CLOCK")?.try_into().map_err(KernelError::map("CLOCK"))?,
        })
    }

    pub(super) fn words(&self) -> &Words {
        &self.words
    }

    pub(super) fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    /// Writes what the programs need of a workload's network into a binding, and lists its addresses and uplinks.
    pub(super) fn tell_network(&mut self, slot: u32, namespace: &OwnNamespace) -> Result<(), KernelError> {
        for key in locals_of(slot, namespace) {
            self.locals.insert(Wire(key), 1, 0).map_err(KernelError::map("LOCALS"))?;
        }
        self.bindings.set_network(slot, namespace);
        Ok(())
    }

    pub(super) fn forget_local(&mut self, key: LocalKey) {
        // One that is gone already is no failure.
        let _ = self.locals.remove(&Wire(key));
    }

    /// Which addresses and uplinks are listed, of all slots.
    pub(super) fn locals(&self) -> Result<Vec<LocalKey>, KernelError> {
        let keys: Result<Vec<_>, _> = self.locals.keys().collect();
        Ok(keys.map_err(KernelError::map("LOCALS"))?.into_iter().map(|key| key.0).collect())
    }

    pub(super) fn insert_workload(&mut self, cgroup: u64, slot: u32) -> Result<(), KernelError> {
        self.workloads.insert(cgroup, slot, 0).map_err(KernelError::map("WORKLOADS"))
    }

    pub(super) fn remove_workload(&mut self, cgroup: u64) {
        // One that is gone already is no failure.
        let _ = self.workloads.remove(&cgroup);
    }

    /// Every workload that the programs know, with its slot.
    pub(super) fn workloads(&self) -> Result<Vec<(u64, u32)>, KernelError> {
        let entries: Result<Vec<_>, _> = self.workloads.iter().collect();
        entries.map_err(KernelError::map("WORKLOADS"))
    }

    pub(super) fn state(&self, slot: u32) -> Result<State, KernelError> {
        Ok(self.states.get(&slot, 0).map_err(KernelError::map("STATES"))?.0)
    }

    /// Makes a slot's counters those of nobody.
    pub(super) fn clear_state(&mut self, slot: u32) -> Result<(), KernelError> {
        // SAFETY: integers and arrays of integers, for which all zeros is a value.
        let empty: State = unsafe { std::mem::zeroed() };
        self.states.set(slot, Wire(empty), 0).map_err(KernelError::map("STATES"))
    }

    /// A slot's state where the programs write it. Mapped for the moment: all of them would be five megabytes.
    pub(super) fn live_state(&self, slot: u32) -> Result<LiveState, KernelError> {
        let Some(offset) = u64::from(slot).checked_mul(size_of::<State>() as u64) else {
            return Err(KernelError::Missing("STATES"));
        };
        // SAFETY: the mapping holds the map; what the programs change in it is read and written by atomic accesses only.
        let map = unsafe {
            MmapOptions::new().offset(offset).len(size_of::<State>()).map_mut(self.states_fd.as_raw_fd())
        };
        Ok(LiveState(map.map_err(|source| KernelError::Mapping { map: "STATES", source })?))
    }

    pub(super) fn refused(&self) -> Result<Vec<(RefusedKey, u64)>, KernelError> {
        let entries: Result<Vec<_>, _> = self.refused.iter().collect();
        let entries = entries.map_err(KernelError::map("REFUSED"))?;
        Ok(entries.into_iter().map(|(key, count)| (key.0, count)).collect())
    }

    pub(super) fn refused_count(&self) -> u64 {
        self.refused.keys().filter(Result::is_ok).count() as u64
    }

    pub(super) fn forget_refused(&mut self, key: RefusedKey) {
        // One that is gone already is no failure.
        let _ = self.refused.remove(&Wire(key));
    }

    pub(super) fn set_clock(&mut self, clock: WallClock) -> Result<(), KernelError> {
        self.clock.set(0, Wire(clock), 0).map_err(KernelError::map("CLOCK"))
    }
}

fn array(ebpf: &mut aya::Ebpf, name: &'static str) -> Result<MapData, KernelError> {
    let Map::Array(map) = take(ebpf, name)? else { return Err(KernelError::Missing(name)) };
    Ok(map)
}

/// The keys that stand for a network namespace.
pub(super) fn locals_of(slot: u32, namespace: &OwnNamespace) -> Vec<LocalKey> {
    let addresses = namespace.addresses.iter().map(|address| LocalKey {
        address: Address::from(*address).to_bytes(),
        slot,
        interface: 0,
    });
    let uplinks =
        namespace.uplinks.iter().map(|interface| LocalKey { address: [0; 16], slot, interface: *interface });
    addresses.chain(uplinks).collect()
}

/// The words of all rulesets. Only what is written or read is mapped, and only for that moment: the whole would count as
/// the agent's memory.
pub(super) struct Words {
    map: MapData,
    capacity: u32,
}

impl Words {
    fn new(map: MapData) -> Result<Self, KernelError> {
        let capacity = map.info().map_err(KernelError::map("WORDS"))?.max_entries();
        Ok(Self { map, capacity })
    }

    pub(super) const fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(super) fn write(&self, base: u32, words: &[u64]) -> Result<(), KernelError> {
        let (start, capacity) = (base as usize, self.capacity as usize);
        let wanted = start.saturating_add(words.len());
        if wanted > capacity {
            return Err(KernelError::Full { map: "WORDS", wanted, capacity });
        }
        if words.is_empty() {
            return Ok(());
        }
        let mut options = MmapOptions::new();
        options.offset((start * size_of::<u64>()) as u64).len(size_of_val(words));
        // SAFETY: the mapping holds the map; no program reads these words before a binding points at them.
        let mut target = unsafe { options.map_mut(self.map.fd().as_fd().as_raw_fd()) }
            .map_err(|source| KernelError::Mapping { map: "WORDS", source })?;
        for (place, word) in target.chunks_exact_mut(size_of::<u64>()).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        Ok(())
    }

    pub(super) fn read(&self, base: u32, length: u32) -> Result<Vec<u64>, KernelError> {
        let end = base.saturating_add(length);
        if length == 0 || end > self.capacity {
            return Ok(Vec::new());
        }
        let mut options = MmapOptions::new();
        options.offset(u64::from(base) * 8).len(length as usize * 8);
        // SAFETY: the mapping holds the map; a ruleset that a binding points at does not change.
        let source: Mmap = unsafe { options.map(self.map.fd().as_fd().as_raw_fd()) }
            .map_err(|source| KernelError::Mapping { map: "WORDS", source })?;
        let words = source.chunks_exact(size_of::<u64>());
        Ok(words.map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())).collect())
    }
}

/// What the programs are told of each workload, where they read it.
pub(super) struct Bindings {
    map: MmapMut,
}

impl Bindings {
    fn new(map: &MapData) -> Result<Self, KernelError> {
        let entries = map.info().map_err(KernelError::map("BINDINGS"))?.max_entries() as usize;
        let mut options = MmapOptions::new();
        options.len(entries * size_of::<Binding>());
        // SAFETY: the mapping holds the map; it is accessed through the atomic fields below only.
        let map = unsafe { options.map_mut(map.fd().as_fd().as_raw_fd()) }
            .map_err(|source| KernelError::Mapping { map: "BINDINGS", source })?;
        Ok(Self { map })
    }

    pub(super) fn len(&self) -> u32 {
        (self.map.len() / size_of::<Binding>()) as u32
    }

    /// A binding's word at this offset, for atomic access.
    fn word(&self, slot: u32, offset: usize) -> &AtomicU64 {
        assert!(slot < self.len() && offset + 8 <= size_of::<Binding>() && offset.is_multiple_of(8));
        let place = slot as usize * size_of::<Binding>() + offset;
        // SAFETY: in bounds by the assertion; aligned, as the mapping begins at a page and bindings are multiples of 8.
        unsafe { AtomicU64::from_ptr(self.map.as_ptr().add(place).cast_mut().cast()) }
    }

    fn half(&self, slot: u32, offset: usize) -> &AtomicU32 {
        assert!(slot < self.len() && offset + 4 <= size_of::<Binding>() && offset.is_multiple_of(4));
        let place = slot as usize * size_of::<Binding>() + offset;
        // SAFETY: as in `word`.
        unsafe { AtomicU32::from_ptr(self.map.as_ptr().add(place).cast_mut().cast()) }
    }

    pub(super) fn get(&self, slot: u32) -> Binding {
        let word = self.word(slot, 0).load(Ordering::Acquire).to_ne_bytes();
        let half = |at: usize| u32::from_ne_bytes([word[at], word[at + 1], word[at + 2], word[at + 3]]);
        Binding {
            ruleset: half(0),
            generation: half(4),
            netns_cookie: self.word(slot, 8).load(Ordering::Acquire),
            flags: self.half(slot, 16).load(Ordering::Acquire),
            serial: self.half(slot, 20).load(Ordering::Acquire),
        }
    }

    /// Another ruleset, in one store.
    pub(super) fn set_ruleset(&self, slot: u32, ruleset: u32, generation: u32) {
        self.word(slot, 0).store(Binding::word(ruleset, generation), Ordering::SeqCst);
    }

    /// In use, of nobody's network yet, under the next serial number.
    pub(super) fn activate(&self, slot: u32) {
        self.word(slot, 8).store(0, Ordering::SeqCst);
        self.half(slot, 20).fetch_add(1, Ordering::SeqCst);
        self.half(slot, 16).store(BINDING_ACTIVE, Ordering::SeqCst);
    }

    pub(super) fn deactivate(&self, slot: u32) {
        self.half(slot, 16).store(0, Ordering::SeqCst);
    }

    fn set_network(&self, slot: u32, namespace: &OwnNamespace) {
        let host = if namespace.is_host { BINDING_HOST_NAMESPACE } else { 0 };
        self.word(slot, 8).store(namespace.cookie, Ordering::SeqCst);
        self.half(slot, 16).store(BINDING_ACTIVE | host, Ordering::SeqCst);
    }
}

/// The state of one slot, shared with the programs.
pub(super) struct LiveState(MmapMut);

impl LiveState {
    fn field(&self, offset: usize) -> &AtomicU64 {
        assert!(offset + 8 <= size_of::<State>() && offset.is_multiple_of(8));
        // SAFETY: in bounds by the assertion; aligned, as a state begins at a multiple of 8 of the map.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr().add(offset).cast_mut().cast()) }
    }

    pub(super) fn quarantined_at(&self) -> &AtomicU64 {
        self.field(std::mem::offset_of!(State, quarantined_at))
    }

    pub(super) fn would_quarantine_at(&self) -> &AtomicU64 {
        self.field(std::mem::offset_of!(State, would_quarantine_at))
    }

    pub(super) fn quarantine_rule(&self) -> &AtomicU64 {
        self.field(std::mem::offset_of!(State, quarantine_rule))
    }

    pub(super) fn violations(&self) -> &AtomicU64 {
        self.field(std::mem::offset_of!(State, violations))
    }

    pub(super) fn forgiven(&self) -> &AtomicU64 {
        self.field(std::mem::offset_of!(State, forgiven))
    }
}

impl Enforcer {
    /// Writes a ruleset's words from index `base` on.
    pub fn write_words(&mut self, base: u32, words: &[u64]) -> Result<(), KernelError> {
        self.maps.words.write(base, words)
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
        self.maps.bindings.set_ruleset(slot, ruleset, generation);
        self.maps.bindings.activate(slot);
        self.maps.tell_network(slot, namespace)?;
        self.maps.insert_workload(cgroup_id, slot)
    }

    /// Tells the programs the wall clock.
    pub fn set_clock(&mut self, clock: WallClock) -> Result<(), KernelError> {
        self.maps.set_clock(clock)
    }

    /// What is counted of a workload.
    pub fn state(&self, slot: u32) -> Result<State, KernelError> {
        self.maps.state(slot)
    }

    /// The refused destinations of all workloads, with the number of attempts.
    pub fn refused(&self) -> Result<Vec<(RefusedKey, u64)>, KernelError> {
        self.maps.refused()
    }
}
