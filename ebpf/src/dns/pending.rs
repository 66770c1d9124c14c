//! Queries on their way: an answer counts only if it fits one.

use egress_warden_common::dns::{Answer, Query};
use egress_warden_common::grant::{
    PENDING_BUSY, Pending, Pendings, is_pending, pending_set, refused_mark, refused_place,
};
use egress_warden_common::limits::{PENDING_SETS, PENDING_WAYS, REFUSED_NAMES};

use crate::atomic;
use crate::maps::PENDINGS;
use crate::rules::boot_ns;
use crate::workload::{Workload, bounded};

/// The table of a workload, if it is this workload's and not that of one before in the same slot.
#[inline(always)]
fn table(workload: &Workload) -> *mut Pendings {
    let Some(table) = PENDINGS.get_ptr_mut(workload.slot) else { return core::ptr::null_mut() };
    // SAFETY: a live map value.
    if unsafe { (*table).serial } == workload.binding.serial { table } else { core::ptr::null_mut() }
}

/// Notes a query that is let through. False where it found no place: its answer would not be believed.
#[inline(always)]
pub(crate) fn note(workload: &Workload, cookie: u64, query: &Query) -> bool {
    let table = table(workload);
    if table.is_null() {
        return false;
    }
    let (now, set) = (boot_ns(), bounded(pending_set(cookie, query.id), PENDING_SETS));
    // SAFETY: a live map value, and an index in bounds.
    let set = unsafe { &mut (*table).sets[set] };
    // Another processor may take the same place at the same moment; then the next one is free. Not a loop: Linux 6.1 takes the way
    // that the compiler lays it out for one without an end.
    write(set, cookie, query, now) || write(set, cookie, query, now) || write(set, cookie, query, now)
}

#[inline(always)]
fn write(set: &mut [Pending; PENDING_WAYS], cookie: u64, query: &Query, now: u64) -> bool {
    let (mut victim, mut oldest) = (0, PENDING_BUSY);
    for (way, pending) in set.iter_mut().enumerate() {
        // SAFETY: an aligned field of a live map value.
        let asked = unsafe { atomic::load(&raw const pending.asked) };
        if asked < oldest {
            (victim, oldest) = (way, asked);
        }
    }
    let place = &mut set[bounded(victim, PENDING_WAYS)];
    // A place is claimed before it is written: two queries that leave at once must not mix.
    // SAFETY: see above.
    if oldest == PENDING_BUSY || !unsafe { atomic::replace(&raw mut place.asked, oldest, PENDING_BUSY) } {
        return false;
    }
    place.cookie = cookie;
    place.name = query.name.hash;
    (place.id, place.kind) = (query.id, query.kind);
    // SAFETY: see above.
    unsafe { atomic::replace(&raw mut place.asked, PENDING_BUSY, now) }
}

/// Takes the query out that this answers. False where nobody asked.
#[inline(always)]
pub(crate) fn take(workload: &Workload, cookie: u64, answer: &Answer) -> bool {
    let table = table(workload);
    if table.is_null() {
        return false;
    }
    let (now, set) = (boot_ns(), bounded(pending_set(cookie, answer.id), PENDING_SETS));
    // SAFETY: a live map value, and an index in bounds.
    for pending in unsafe { &mut (*table).sets[set] } {
        // SAFETY: an aligned field of a live map value.
        let asked = unsafe { atomic::load(&raw const pending.asked) };
        if is_pending(asked, now) && fits(pending, cookie, answer) {
            // Whoever takes it is the one: a second answer finds nothing. Should the place have been given to another query
            // meanwhile, this fails too.
            // SAFETY: see above.
            return unsafe { atomic::replace(&raw mut pending.asked, asked, 0) };
        }
    }
    false
}

#[inline(always)]
const fn fits(pending: &Pending, cookie: u64, answer: &Answer) -> bool {
    pending.cookie == cookie
        && pending.name == answer.name.hash
        && pending.id == answer.id
        && pending.kind == answer.kind
}

/// Was this name refused before in this minute? Notes that it was.
#[inline(always)]
pub(crate) fn refused_before(workload: &Workload, name: u64) -> bool {
    let table = table(workload);
    if table.is_null() {
        return false;
    }
    let mark = refused_mark(name, boot_ns());
    let place = bounded(refused_place(name), REFUSED_NAMES);
    // SAFETY: a live map value, and an index in bounds.
    unsafe {
        let place = &raw mut (*table).refused[place];
        if atomic::load(place) == mark {
            return true;
        }
        atomic::store(place, mark);
    }
    false
}
