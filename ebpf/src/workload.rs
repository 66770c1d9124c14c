//! Whose packet or call is it?

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_loop, bpf_skb_ancestor_cgroup_id,
    bpf_skb_cgroup_id,
};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use core::ffi::c_void;
use core::ptr;
use egress_warden_common::Address;
use egress_warden_common::decide::DNS_PORT;
use egress_warden_common::limits::MAX_CGROUP_DEPTH;
use egress_warden_common::ruleset::{FLAG_AUDIT, FLAG_OWN_RESOLVERS, Ruleset};
use egress_warden_common::state::{
    BINDING_ACTIVE, BINDING_HOST_NAMESPACE, Binding, LocalKey, NODE_SLOT, Process, RESOLVER_INTERFACE,
    SOCKET_TCP, SocketState, State, UPLINK_BACKSTOP,
};

use crate::atomic;
use crate::dns::knows_names;
use crate::maps::{BINDINGS, LOCALS, STATES, WORKLOADS};
use crate::rules::KernelWords;

/// A workload that the agent has told of.
#[derive(Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) slot: u32,
    /// Where its ruleset begins, and which one it is: read once, so that all that is done for a packet or a call is done
    /// by one ruleset.
    pub(crate) ruleset: u32,
    pub(crate) generation: u32,
    pub(crate) binding: &'static Binding,
    pub(crate) state: *mut State,
}

impl Workload {
    #[inline(always)]
    pub(crate) fn at(slot: u32) -> Option<Self> {
        let binding = BINDINGS.get(slot)?;
        if binding.flags & BINDING_ACTIVE == 0 {
            return None;
        }
        // SAFETY: the first two fields, which are one aligned word.
        let word = unsafe { atomic::load(ptr::from_ref(binding).cast()) };
        let (ruleset, generation) = (word as u32, (word >> 32) as u32);
        Some(Self { slot, ruleset, generation, binding, state: STATES.get_ptr_mut(slot)? })
    }

    /// The workload of the running task: the innermost known cgroup on its way to the root.
    #[inline(always)]
    pub(crate) fn of_current() -> Option<Self> {
        // SAFETY: takes no argument.
        Self::known(unsafe { slot_of_current() })
    }

    /// The workload of the packet's socket.
    #[inline(always)]
    pub(crate) fn of_packet(skb: *mut __sk_buff) -> Option<Self> {
        // SAFETY: `skb` is the program's context.
        Self::known(unsafe { slot_of_packet(skb) })
    }

    #[inline(always)]
    pub(crate) fn known(slot_plus_one: u32) -> Option<Self> {
        if slot_plus_one == 0 { None } else { Self::at(slot_plus_one - 1) }
    }

    /// The workload that this socket belongs to, from what is remembered with it.
    #[inline(always)]
    pub(crate) fn of_socket(socket: Option<&SocketState>) -> Option<Self> {
        let socket = socket?;
        let workload = Self::known(socket.slot)?;
        // The slot was given to another workload since.
        if workload.binding.serial == socket.serial { Some(workload) } else { None }
    }

    /// Notes that a socket is this workload's. What was remembered of it under another does not count.
    #[inline(always)]
    pub(crate) fn claim(&self, socket: &mut SocketState) {
        socket.slot = self.slot + 1;
        socket.serial = self.binding.serial;
        socket.flags &= SOCKET_TCP;
        socket.counted_valid = 0;
    }

    /// The flags of a socket, with [`OWN_NAMESPACE`] where it was made in the workload's own network namespace.
    #[inline(always)]
    pub(crate) fn flags_of(&self, socket: &SocketState) -> u32 {
        let own = socket.netns_cookie != 0 && socket.netns_cookie == self.binding.netns_cookie;
        if own { socket.flags | OWN_NAMESPACE } else { socket.flags }
    }

    #[inline(always)]
    pub(crate) fn host_namespace(&self) -> bool {
        self.binding.flags & BINDING_HOST_NAMESPACE != 0
    }

    #[inline(always)]
    pub(crate) fn quarantined(&self) -> bool {
        // SAFETY: an aligned field of a live map value.
        unsafe { atomic::load(&raw const (*self.state).quarantined_at) != 0 }
    }

    /// Does the workload's policy only watch? A ruleset that cannot be read enforces.
    #[inline(always)]
    pub(crate) fn is_audit(&self) -> bool {
        Ruleset::new(&KernelWords, self.ruleset).flags().unwrap_or(0) & FLAG_AUDIT != 0
    }

    /// Is this an address of the workload's own network namespace?
    #[inline(always)]
    pub(crate) fn owns(&self, address: Address) -> bool {
        // SAFETY: takes numbers.
        unsafe { is_own_address(self.slot, address.high, address.low) != 0 }
    }

    /// Is this a resolver of the workload's own, which its policy lets it ask? The address says so only at a resolver's port.
    #[inline(always)]
    pub(crate) fn asks(&self, address: Address, port: u16) -> bool {
        // SAFETY: takes numbers.
        knows_names()
            && port == DNS_PORT
            && unsafe { is_own_resolver(self.slot, address.high, address.low, self.ruleset) != 0 }
    }

    /// Is this a resolver that its policy names, or one of its own?
    #[inline(always)]
    pub(crate) fn has_resolver(&self, address: Address) -> bool {
        // SAFETY: takes numbers.
        unsafe { is_resolver(self.slot, address.high, address.low, self.ruleset) != 0 }
    }

    /// Is this an interface by which the workload's own network namespace reaches the world?
    #[inline(always)]
    pub(crate) fn has_uplink(&self, interface: u32) -> bool {
        lists(&LocalKey { address: [0; 16], slot: self.slot, interface })
    }
}

impl Workload {
    /// Is there a backstop at the far end of this interface of the workload's own network namespace?
    #[inline(always)]
    pub(crate) fn has_backstop(&self, interface: u32) -> bool {
        let key = LocalKey { address: [0; 16], slot: self.slot, interface };
        match LOCALS.get_ptr(key) {
            // SAFETY: a live map value.
            Some(value) => unsafe { *value == UPLINK_BACKSTOP },
            None => false,
        }
    }
}

/// Is this an address of the node?
#[inline(always)]
pub(crate) fn is_node(address: Address) -> bool {
    // SAFETY: takes numbers.
    unsafe { is_own_address(NODE_SLOT, address.high, address.low) != 0 }
}

#[inline(always)]
fn lists(key: &LocalKey) -> bool {
    LOCALS.get_ptr(key).is_some()
}

// Checked by the verifier once, by itself: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn is_own_address(slot: u32, high: u64, low: u64) -> u32 {
    let address = Address { high, low }.to_bytes();
    u32::from(lists(&LocalKey { address, slot, interface: 0 }))
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn is_own_resolver(slot: u32, high: u64, low: u64, ruleset: u32) -> u32 {
    if Ruleset::new(&KernelWords, ruleset).flags().unwrap_or(0) & FLAG_OWN_RESOLVERS == 0 {
        return 0;
    }
    let address = Address { high, low }.to_bytes();
    u32::from(lists(&LocalKey { address, slot, interface: RESOLVER_INTERFACE }))
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn is_resolver(slot: u32, high: u64, low: u64, ruleset: u32) -> u32 {
    if Ruleset::new(&KernelWords, ruleset).is_resolver(Address { high, low }) {
        return 1;
    }
    // SAFETY: takes numbers.
    unsafe { is_own_resolver(slot, high, low, ruleset) }
}

// Checked by the verifier once, by themselves: see `shared`. The result is a slot plus 1, or 0.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn slot_of_current() -> u32 {
    // SAFETY: reads the current task.
    match slot_of(unsafe { bpf_get_current_cgroup_id() }) {
        0 => innermost(ptr::null_mut(), step_current),
        slot => slot,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn slot_of_packet(skb: *mut __sk_buff) -> u32 {
    // SAFETY: `skb` is the program's context.
    match slot_of(unsafe { bpf_skb_cgroup_id(skb) }) {
        0 => innermost(skb, step_packet),
        slot => slot,
    }
}

/// A walk over the ancestors of a cgroup, from the root inwards: it ends with the cgroup itself, and most are not deep.
struct Ancestors {
    skb: *mut __sk_buff,
    slot_plus_one: u32,
}

#[inline(always)]
fn innermost(skb: *mut __sk_buff, step: unsafe extern "C" fn(u64, *mut c_void) -> i64) -> u32 {
    let mut walk = Ancestors { skb, slot_plus_one: 0 };
    // SAFETY: `step` has the signature that `bpf_loop` calls, with the pointer given here.
    unsafe { bpf_loop(MAX_CGROUP_DEPTH as u32 + 1, step as *mut c_void, (&raw mut walk).cast(), 0) };
    walk.slot_plus_one
}

unsafe extern "C" fn step_current(depth: u64, walk: *mut c_void) -> i64 {
    // SAFETY: reads the current task; any level is allowed and gives 0 where there is none.
    let id = unsafe { bpf_get_current_ancestor_cgroup_id(depth as i32) };
    // SAFETY: `innermost` passes an `Ancestors` that outlives the loop.
    look_up(id, unsafe { &mut *walk.cast() })
}

unsafe extern "C" fn step_packet(depth: u64, walk: *mut c_void) -> i64 {
    // SAFETY: `innermost` passes an `Ancestors` that outlives the loop.
    let walk: &mut Ancestors = unsafe { &mut *walk.cast() };
    // SAFETY: `skb` is the program's context.
    let id = unsafe { bpf_skb_ancestor_cgroup_id(walk.skb, depth as i32) };
    look_up(id, walk)
}

#[inline(always)]
fn look_up(id: u64, walk: &mut Ancestors) -> i64 {
    // A level below the cgroup: that was all.
    if id == 0 {
        return 1;
    }
    let slot = slot_of(id);
    if slot != 0 {
        walk.slot_plus_one = slot;
    }
    0
}

/// The slot plus 1 of a cgroup that is a workload, or 0.
#[inline(always)]
fn slot_of(id: u64) -> u32 {
    // SAFETY: the value is a number that is written once, before its cgroup's programs are attached.
    match unsafe { WORKLOADS.get(id) } {
        Some(slot) => *slot + 1,
        None => 0,
    }
}

/// Beside the flags of a socket: it was made in the workload's own network namespace. "Unknown" is not "yes".
pub(crate) const OWN_NAMESPACE: u32 = 1 << 30;

/// Was the socket made in the workload's own network namespace?
#[inline(always)]
pub(crate) const fn in_own_namespace(socket_flags: u32) -> bool {
    socket_flags & OWN_NAMESPACE != 0
}

/// Adds one to a counter in the state of a [`Workload`], and gives what was there before.
macro_rules! bump {
    ($workload:expr, $($field:tt)+) => {
        // SAFETY: `state` points at a live map value, and its counters are aligned.
        unsafe { $crate::atomic::add(&raw mut (*$workload.state).$($field)+, 1) }
    };
}
pub(crate) use bump;

/// An index below `length`, a power of two, in a form that the verifier can follow: the compiler, which knows that an
/// enumeration is in bounds, would otherwise leave out the very mask that proves it.
#[inline(always)]
pub(crate) fn bounded(index: usize, length: usize) -> usize {
    core::hint::black_box(index) & (length - 1)
}

/// The running process.
#[inline(always)]
pub(crate) fn current_process() -> Process {
    let id = bpf_get_current_pid_tgid();
    Process { pid: id as u32, tgid: (id >> 32) as u32, comm: bpf_get_current_comm().unwrap_or_default() }
}
