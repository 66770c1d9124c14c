//! What stands behind a service's address, where somebody's program above the workload rewrites it: learnt from one call
//! by the first and the last program that see it, and asked when a packet's own address is not allowed.
//!
//! A pair is a fact and not a permission: that this service stands for that backend. Each packet asks the policy what
//! it says of the service now.

use core::ffi::c_void;
use egress_warden_common::backend::{Backend, Backends, Named, backend_counts, backend_set};
use egress_warden_common::limits::{BACKEND_REFRESH_NS, BACKEND_WAYS};
use egress_warden_common::packet::Packet;
use egress_warden_common::ruleset::Ruleset;
use egress_warden_common::{Address, Facts, Reason, Route, Verdict, decide};

use crate::atomic;
use crate::maps::{BACKENDS, NAMED};
use crate::rules::{KernelClock, KernelWords, boot_ns};
use crate::shared::{LOOPBACK_INTERFACE, on_node};
use crate::workload::{Workload, bounded};

/// The table of a workload, where calls of it may be rewritten.
#[inline(always)]
pub(crate) fn backends(slot: u32) -> Option<&'static mut Backends> {
    if !on_node() {
        return None;
    }
    // SAFETY: a live map value; what several processors write in it is guarded by versions.
    BACKENDS.get_ptr_mut(slot).map(|table| unsafe { &mut *table })
}

/// What stands with a socket whose calls may be rewritten.
#[inline(always)]
pub(crate) fn named(sk: *mut c_void) -> *mut Named {
    if sk.is_null() {
        return core::ptr::null_mut();
    }
    NAMED.get(sk).unwrap_or(core::ptr::null_mut())
}

/// May a packet that was refused so pass as one to a service? What the policy denies by name may not, nor what stays on the
/// host.
#[inline(always)]
const fn may_be_backend(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NotAllowlisted
            | Reason::PortNotAllowed
            | Reason::ProtocolNotAllowed
            | Reason::Expired
            | Reason::Quarantined
    )
}

/// Asks the policy about the service for which a refused packet's destination stands, if it does for any: for the socket,
/// or else for the workload. True where that is allowed; the verdict is then the service's.
#[inline(always)]
pub(crate) fn judge_service(
    workload: &Workload,
    packet: &Packet,
    sk: *mut c_void,
    interface: u32,
    verdict: &mut Verdict,
) -> bool {
    if !may_be_backend(verdict.reason) || interface == LOOPBACK_INTERFACE || backends(workload.slot).is_none()
    {
        return false;
    }
    let place = u64::from(workload.ruleset) << 32 | u64::from(workload.slot);
    let named = named(sk);
    // SAFETY: the socket's storage, and what is on the program's stack.
    let found = unsafe { judge_backend(place, packet, named, verdict) };
    if found == OF_SOCKET {
        // The backstop looks at the table alone, and a connection may be older than what stands there.
        // SAFETY: the socket's storage.
        unsafe { list_peer(named, workload.slot) };
    }
    found != 0
}

/// What [`judge_backend`] found allowed: what the workload reached by a service, or this very socket.
const OF_WORKLOAD: u32 = 1;
const OF_SOCKET: u32 = 2;

// Checked by the verifier once, by itself: see `shared`. Not a part of `judge_packet`, but called behind it: one after the
// other they share the stack.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn judge_backend(
    place: u64,
    packet: *const Packet,
    named: *mut Named,
    verdict: *mut Verdict,
) -> u32 {
    // SAFETY: the verifier checked the sizes of what they point at.
    let (Some(packet), Some(verdict)) = (unsafe { packet.as_ref() }, unsafe { verdict.as_mut() }) else {
        return 0;
    };
    // One by one: of both together the compiler keeps a register that a call has cleared.
    let Some(workload) = Workload::at(place as u32) else { return 0 };
    let Some(table) = backends(place as u32) else { return 0 };
    let mut pair = Pair::unknown(packet);
    let of_socket = !named.is_null() && pair.is_of_socket(named, table);
    if !of_socket && !pair.is_listed(table) {
        return 0;
    }
    let facts = Facts {
        destination: pair.service,
        protocol: packet.protocol,
        port: pair.service_port,
        route: Route::Uplink,
        host_namespace: workload.host_namespace(),
        reply: false,
        to_node: false,
        quarantined: workload.quarantined(),
        own_resolver: workload.asks(pair.service, pair.service_port),
    };
    let found = decide(&Ruleset::new(&KernelWords, (place >> 32) as u32), &KernelClock, &facts);
    if !matches!(found.reason, Reason::Allowed) {
        return 0;
    }
    *verdict = found;
    if of_socket { OF_SOCKET } else { OF_WORKLOAD }
}

/// A backend and the service that it stands for.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Pair {
    pub(crate) backend: Address,
    pub(crate) service: Address,
    pub(crate) backend_port: u16,
    pub(crate) service_port: u16,
    pub(crate) protocol: u8,
}

impl Pair {
    /// Of a packet of which only the backend can be seen.
    #[inline(always)]
    fn unknown(packet: &Packet) -> Self {
        Self {
            backend: packet.destination,
            service: Address { high: 0, low: 0 },
            backend_port: packet.port,
            service_port: 0,
            protocol: packet.protocol,
        }
    }

    /// Is it what this socket was connected with? Then the service is filled in.
    #[inline(always)]
    fn is_of_socket(&mut self, named: *mut Named, table: &Backends) -> bool {
        // SAFETY: the socket's storage, which the packet holds.
        unsafe { (*named).epoch == table.epoch && self.is_at(&raw mut (*named).backend) }
    }

    /// Does it stand in the workload's table, seen not long ago? Then the service is filled in.
    #[inline(always)]
    fn is_listed(&mut self, table: &mut Backends) -> bool {
        let now = boot_ns();
        for place in &mut table.sets[backend_set(self.backend, self.backend_port)] {
            if backend_counts(place.seen, now) && self.seems_at(place) && self.is_at(place) {
                return true;
            }
        }
        false
    }

    #[inline(always)]
    fn is_at(&mut self, place: *mut Backend) -> bool {
        // SAFETY: aligned fields of a live map value. An even version before and after says that what is between belongs
        // together; additions of nothing, which no other access overtakes.
        unsafe {
            let version = atomic::add(&raw mut (*place).version, 0);
            if version & 1 != 0 || (*place).seen == 0 || !self.seems_at(&*place) {
                return false;
            }
            self.service = Address::from_bytes((*place).service);
            self.service_port = (*place).service_port;
            atomic::add(&raw mut (*place).version, 0) == version
        }
    }

    /// Is this the place of the same backend? Whoever writes there at this moment may make the answer a wrong one.
    #[inline(always)]
    fn seems_at(&self, place: &Backend) -> bool {
        place.backend_port == self.backend_port
            && place.protocol == self.protocol
            && Address::from_bytes(place.backend) == self.backend
    }

    /// Lists it, or notes that it holds still. A full set gives up what was not seen for longest.
    #[inline(always)]
    pub(crate) fn list(&self, table: &mut Backends) {
        // SAFETY: a live map value, and what is on the program's stack.
        unsafe { list_backend(table, self) };
    }

    #[inline(always)]
    fn list_in(&self, table: &mut Backends) {
        // What stays on the host is judged by where it goes.
        if self.backend.is_loopback() || self.backend.is_unspecified() {
            return;
        }
        let now = boot_ns();
        let set = &mut table.sets[backend_set(self.backend, self.backend_port)];
        let (mut victim, mut oldest) = (0, u64::MAX);
        for (way, place) in set.iter_mut().enumerate() {
            if place.seen != 0 && self.seems_at(place) {
                // Of two services with one backend the first one stands here as long as it is used, so that it does not
                // change under those who read.
                if now.saturating_sub(place.seen) < BACKEND_REFRESH_NS {
                    return;
                }
                if place.service_port == self.service_port
                    && Address::from_bytes(place.service) == self.service
                {
                    // SAFETY: an aligned field of a live map value.
                    unsafe { atomic::store(&raw mut place.seen, now) };
                    return;
                }
                (victim, oldest) = (way, 0);
            } else if place.seen < oldest {
                (victim, oldest) = (way, place.seen);
            }
        }
        self.write(&mut set[bounded(victim, BACKEND_WAYS)], now);
    }

    /// Writes it there, unless somebody else does at this moment.
    #[inline(always)]
    pub(crate) fn write(&self, place: &mut Backend, now: u64) {
        // SAFETY: aligned fields of a live map value.
        unsafe {
            let version = atomic::load(&raw const place.version);
            if version & 1 != 0 || !atomic::replace(&raw mut place.version, version, version + 1) {
                return;
            }
            place.backend = self.backend.to_bytes();
            place.service = self.service.to_bytes();
            place.backend_port = self.backend_port;
            place.service_port = self.service_port;
            place.protocol = self.protocol;
            atomic::store(&raw mut place.seen, now);
            atomic::replace(&raw mut place.version, version + 1, version + 2);
        }
    }
}

// Checked by the verifier once, by itself: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn list_backend(table: *mut Backends, pair: *const Pair) -> u32 {
    // SAFETY: the verifier checked the sizes of what they point at.
    if let (Some(table), Some(pair)) = (unsafe { table.as_mut() }, unsafe { pair.as_ref() }) {
        pair.list_in(table);
    }
    0
}

// Checked by the verifier once, by itself: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn list_peer(named: *mut Named, slot: u32) -> u32 {
    // SAFETY: the verifier checked the size of what it points at.
    let (Some(named), Some(table)) = (unsafe { named.as_mut() }, backends(slot)) else { return 0 };
    let place = &raw mut named.backend;
    // SAFETY: aligned fields of a live map value; what they say together is looked at below.
    let mut pair = unsafe {
        Pair {
            backend: Address::from_bytes((*place).backend),
            service: Address { high: 0, low: 0 },
            backend_port: (*place).backend_port,
            service_port: 0,
            protocol: (*place).protocol,
        }
    };
    if pair.is_of_socket(named, table) {
        pair.list_in(table);
    }
    0
}
