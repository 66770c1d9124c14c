//! The maps that the agent writes and reads.

use aya::Pod;
use aya::maps::{Array, HashMap, MapData};
use egress_warden_common::Address;
use egress_warden_common::backend::Backends;
use egress_warden_common::grant::{Grant, GrantKey, GrantedName, NameKey, Pendings};
use egress_warden_common::limits::MAX_LOCALS;
use egress_warden_common::state::{
    BINDING_ACTIVE, BINDING_HOST_NAMESPACE, Binding, CgroupEvent, Interface, Kept, KeptKey, LocalKey,
    RESOLVER_INTERFACE, Record, RefusedKey, State, UPLINK_BARE, WallClock,
};

use super::memory::{Bindings, Memory, Words};
use super::object::take;
use super::{Enforcer, KernelError, OwnNamespace};

/// A record of the shared crate, as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Wire<T: Copy>(pub(super) T);

macro_rules! wire {
    ($($type:ty),+) => { $(
        // SAFETY: `repr(C)`, integers and arrays of integers only, without padding, of a size that `common::state` asserts.
        unsafe impl Pod for Wire<$type> {}
    )+ };
}
wire!(
    State,
    Interface,
    Backends,
    Pendings,
    GrantKey,
    Grant,
    NameKey,
    GrantedName,
    LocalKey,
    KeptKey,
    Kept,
    RefusedKey,
    WallClock,
    Record,
    CgroupEvent
);

/// Every map but the ring buffers.
pub(super) struct Maps {
    pub(super) words: Words,
    pub(super) bindings: Bindings,
    pub(super) states: Array<MapData, Wire<State>>,
    pub(super) workloads: HashMap<MapData, u64, u32>,
    pub(super) locals: HashMap<MapData, Wire<LocalKey>, u8>,
    pub(super) interfaces: HashMap<MapData, u32, Wire<Interface>>,
    pub(super) backends: HashMap<MapData, u32, Wire<Backends>>,
    pub(super) kept: HashMap<MapData, Wire<KeptKey>, Wire<Kept>>,
    pub(super) pendings: HashMap<MapData, u32, Wire<Pendings>>,
    pub(super) grants: HashMap<MapData, Wire<GrantKey>, Wire<Grant>>,
    pub(super) granted_names: HashMap<MapData, Wire<NameKey>, Wire<GrantedName>>,
    pub(super) refused: HashMap<MapData, Wire<RefusedKey>, u64>,
    clock: Array<MapData, Wire<WallClock>>,
}

impl Maps {
    pub(super) fn take(ebpf: &mut aya::Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            words: Words(Memory::new("WORDS", take(ebpf, "WORDS")?)?),
            bindings: Bindings::new(&Memory::new("BINDINGS", take(ebpf, "BINDINGS")?)?)?,
            states: take(ebpf, "STATES")?.try_into().map_err(KernelError::map("STATES"))?,
            workloads: take(ebpf, "WORKLOADS")?.try_into().map_err(KernelError::map("WORKLOADS"))?,
            locals: take(ebpf, "LOCALS")?.try_into().map_err(KernelError::map("LOCALS"))?,
            interfaces: take(ebpf, "INTERFACES")?.try_into().map_err(KernelError::map("INTERFACES"))?,
            backends: take(ebpf, "BACKENDS")?.try_into().map_err(KernelError::map("BACKENDS"))?,
            kept: take(ebpf, "KEPT")?.try_into().map_err(KernelError::map("KEPT"))?,
            pendings: take(ebpf, "PENDINGS")?.try_into().map_err(KernelError::map("PENDINGS"))?,
            grants: take(ebpf, "GRANTS")?.try_into().map_err(KernelError::map("GRANTS"))?,
            granted_names: take(ebpf, "GRANTED_NAMES")?
                .try_into()
                .map_err(KernelError::map("GRANTED_NAMES"))?,
            refused: take(ebpf, "REFUSED")?.try_into().map_err(KernelError::map("REFUSED"))?,
            clock: take(ebpf, "CLOCK")?.try_into().map_err(KernelError::map("CLOCK"))?,
        })
    }

    pub(super) fn set_clock(&mut self, clock: WallClock) -> Result<(), KernelError> {
        self.clock.set(0, Wire(clock), 0).map_err(KernelError::map("CLOCK"))
    }
}

/// The keys that tell the programs of a network namespace.
pub(super) fn local_keys(slot: u32, namespace: &OwnNamespace) -> Result<Vec<LocalKey>, KernelError> {
    let (wanted, capacity) = (namespace.addresses.len() + namespace.uplinks.len(), MAX_LOCALS as usize);
    if wanted > capacity {
        return Err(KernelError::Full { map: "LOCALS", wanted, capacity });
    }
    let addresses = namespace.addresses.iter().map(|address| LocalKey {
        address: Address::from(*address).to_bytes(),
        slot,
        interface: 0,
    });
    let uplinks =
        namespace.uplinks.iter().map(|interface| LocalKey { address: [0; 16], slot, interface: *interface });
    let resolvers = namespace.resolvers.iter().map(|address| LocalKey {
        address: Address::from(*address).to_bytes(),
        slot,
        interface: RESOLVER_INTERFACE,
    });
    let shown = if namespace.is_host { capacity } else { MAX_LOCALS_OF_ONE };
    Ok(resolvers.chain(uplinks).chain(addresses).take(shown).collect())
}

/// How much of a namespace of its own is shown to the programs. Root inside can make as many addresses and interfaces as he
/// likes, and the table is everybody's. What is left out does not count as the workload's own, which opens nothing.
const MAX_LOCALS_OF_ONE: usize = 256;

/// The flags of an active binding.
pub(super) fn binding_flags(is_host: bool) -> u32 {
    if is_host { BINDING_ACTIVE | BINDING_HOST_NAMESPACE } else { BINDING_ACTIVE }
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
        for key in local_keys(slot, namespace)? {
            self.maps.list_local(key, UPLINK_BARE)?;
        }
        self.maps.add_pendings(slot, 0)?;
        let flags = binding_flags(namespace.is_host);
        let binding = Binding {
            ruleset,
            generation,
            netns_cookie: namespace.cookie,
            flags,
            serial: 0,
            grants_ended: 0,
        };
        self.maps.bindings.set(slot, binding)?;
        self.maps.list_workload(cgroup_id, slot)
    }

    /// Tells the programs the wall clock.
    pub fn set_clock(&mut self, clock: WallClock) -> Result<(), KernelError> {
        self.maps.set_clock(clock)
    }

    /// What is counted of a workload.
    pub fn state(&self, slot: u32) -> Result<State, KernelError> {
        self.maps.state(slot)
    }

    /// Nothing is counted of a workload any more; its records are limited anew.
    pub fn clear_state(&mut self, slot: u32) -> Result<(), KernelError> {
        self.maps.clear_state(slot)
    }

    /// The refused destinations of all workloads, with the number of attempts.
    pub fn refused(&self) -> Result<Vec<(RefusedKey, u64)>, KernelError> {
        self.maps.refused()
    }
}
