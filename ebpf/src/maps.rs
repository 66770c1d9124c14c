//! The maps. Sizes are those of a node; `exec` shrinks them to one workload when it loads the object.

use aya_ebpf::bindings::{
    BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type,
};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use core::ffi::c_void;
use core::ptr;
use egress_warden_common::backend::{Backends, Named};
use egress_warden_common::grant::{Grant, GrantKey, GrantedName, NameKey, Pendings};
use egress_warden_common::limits::{
    CGROUPS_BYTES, MAX_GRANTED_NAMES, MAX_GRANTS, MAX_INTERFACES, MAX_KEPT, MAX_LOCALS,
    MAX_REFUSED_DESTINATIONS, MAX_WORKLOADS, RECORDS_BYTES,
};
use egress_warden_common::state::{
    Binding, Interface, Kept, KeptKey, LocalKey, RefusedKey, SocketState, State, UdpFlows, WallClock,
};

use crate::dns::{SCRATCHES, Scratch};

/// Cgroup id to slot.
#[map]
pub(crate) static WORKLOADS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_WORKLOADS, 0);

/// Slot to what the agent tells of the workload.
#[map]
pub(crate) static BINDINGS: Array<Binding> = Array::with_max_entries(MAX_WORKLOADS, BPF_F_MMAPABLE);

/// Slot to what is counted and remembered of the workload.
#[map]
pub(crate) static STATES: Array<State> = Array::with_max_entries(MAX_WORKLOADS, BPF_F_MMAPABLE);

/// The words of all rulesets, one behind the other.
#[map]
pub(crate) static WORDS: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Addresses and uplinks of the workloads' own network namespaces.
#[map]
pub(crate) static LOCALS: HashMap<LocalKey, u8> = HashMap::with_max_entries(MAX_LOCALS, BPF_F_NO_PREALLOC);

/// The host's ends of the wires that lead to workloads.
#[map]
pub(crate) static INTERFACES: HashMap<u32, Interface> =
    HashMap::with_max_entries(MAX_INTERFACES, BPF_F_NO_PREALLOC);

/// Slot to the backends that services of the workload were rewritten to; of workloads below a program that may rewrite.
#[map]
pub(crate) static BACKENDS: HashMap<u32, Backends> =
    HashMap::with_max_entries(MAX_WORKLOADS, BPF_F_NO_PREALLOC);

/// Flows that are older than the enforcement of their workload.
#[map]
pub(crate) static KEPT: HashMap<KeptKey, Kept> = HashMap::with_max_entries(MAX_KEPT, BPF_F_NO_PREALLOC);

/// Slot to the queries of the workload that wait for their answer; of workloads whose policy says something of names.
#[map]
pub(crate) static PENDINGS: HashMap<u32, Pendings> =
    HashMap::with_max_entries(MAX_WORKLOADS, BPF_F_NO_PREALLOC);

/// Addresses that answers opened.
#[map]
pub(crate) static GRANTS: HashMap<GrantKey, Grant> = HashMap::with_max_entries(MAX_GRANTS, BPF_F_NO_PREALLOC);

/// The names for which they did.
#[map]
pub(crate) static GRANTED_NAMES: HashMap<NameKey, GrantedName> =
    HashMap::with_max_entries(MAX_GRANTED_NAMES, BPF_F_NO_PREALLOC);

/// Memory for messages.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(SCRATCHES, 0);

/// Refused attempts by destination.
#[map]
pub(crate) static REFUSED: HashMap<RefusedKey, u64> = HashMap::with_max_entries(MAX_REFUSED_DESTINATIONS, 0);

/// Records of violations, on their way to the agent.
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(RECORDS_BYTES, 0);

/// Cgroups that were made or removed, on their way to the agent.
#[map]
pub(crate) static CGROUPS: RingBuf = RingBuf::with_byte_size(CGROUPS_BYTES, 0);

/// How many of them found no place there, or have too long a path.
#[map]
pub(crate) static CGROUPS_LOST: Array<u64> = Array::with_max_entries(1, 0);

/// The wall clock.
#[map]
pub(crate) static CLOCK: Array<WallClock> = Array::with_max_entries(1, 0);

/// What is remembered with a socket; accepted sockets inherit it.
#[btf_map]
pub(crate) static SOCKETS: SocketStorage<SocketState, { (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize }> =
    SocketStorage::new();

/// The inbound UDP flows of a socket. Apart, because few sockets need one and it is large.
#[btf_map]
pub(crate) static UDP_FLOWS: SocketStorage<UdpFlows, { BPF_F_NO_PREALLOC as usize }> = SocketStorage::new();

/// What the application named with a socket whose calls may be rewritten. No socket inherits it.
#[btf_map]
pub(crate) static NAMED: SocketStorage<Named, { BPF_F_NO_PREALLOC as usize }> = SocketStorage::new();

/// A BTF-defined socket storage map. aya-ebpf's own has no way to say `BPF_F_CLONE` and no access from `cgroup_skb`.
#[repr(C)]
pub(crate) struct SocketStorage<T, const FLAGS: usize> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the fields only carry types for the loader; nothing is ever read through them.
unsafe impl<T, const FLAGS: usize> Sync for SocketStorage<T, FLAGS> {}

impl<T, const FLAGS: usize> SocketStorage<T, FLAGS> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// The value that stands with this socket, if any. `socket` is a full socket or a context that stands for one.
    #[inline(always)]
    pub(crate) fn get(&self, socket: *mut c_void) -> Option<*mut T> {
        self.lookup(socket, 0)
    }

    /// The value that stands with this socket, made of zeros if there was none. `None` when the kernel had no memory
    /// for it: the caller then judges in full, and never takes it for "allowed".
    #[inline(always)]
    pub(crate) fn get_or_create(&self, socket: *mut c_void) -> Option<*mut T> {
        self.lookup(socket, BPF_SK_STORAGE_GET_F_CREATE.into())
    }

    #[inline(always)]
    fn lookup(&self, socket: *mut c_void, flags: u64) -> Option<*mut T> {
        // SAFETY: the verifier accepts only a socket here, and knows the value's size from BTF.
        let value = unsafe {
            bpf_sk_storage_get(ptr::from_ref(self).cast_mut().cast(), socket, ptr::null_mut(), flags)
        };
        if value.is_null() { None } else { Some(value.cast()) }
    }
}
