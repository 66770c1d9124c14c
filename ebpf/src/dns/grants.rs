//! The addresses that answers opened, and what they have to say in a verdict.

use egress_warden_common::grant::{Grant, GrantKey, Granted, GrantedName, NameKey};
use egress_warden_common::limits::{GRANT_NAMES, GRANTS_PER_WORKLOAD, NAME_ROOM, UNOPENED_PER_WORKLOAD};
use egress_warden_common::names::{NO_CLASS, may_open};
use egress_warden_common::packet::Packet;
use egress_warden_common::ruleset::Ruleset;
use egress_warden_common::{Address, Verdict};

use super::knows_names;
use super::scratch::{Scratch, give_back, is_same, lend, lent_at, look_up};
use crate::atomic;
use crate::maps::{GRANTED_NAMES, GRANTS};
use crate::rules::{KernelClock, KernelWords, boot_ns};
use crate::shared::{LIVES, LOOPBACK_INTERFACE};
use crate::workload::{Workload, bounded, bump};

const NO_EXIST: u64 = 1;

/// Asks the grants of the workload about what its addresses alone do not open.
#[inline(always)]
pub(crate) fn by_grant(
    workload: &Workload,
    packet: &Packet,
    (interface, socket_flags): (u32, u32),
    verdict: &mut Verdict,
) {
    if !knows_names() || interface == LOOPBACK_INTERFACE || !may_open(verdict.reason) {
        return;
    }
    let place = u64::from(workload.ruleset) << 32 | u64::from(workload.slot);
    let mut classes = [NO_CLASS; GRANT_NAMES];
    // SAFETY: all are on the program's stack.
    unsafe {
        if granted_classes(place, workload.generation, packet, socket_flags & LIVES, &raw mut classes) == 0 {
            return;
        }
        let sets = sets_of(packet.destination.high, packet.destination.low, workload.ruleset);
        for class in classes {
            if class != NO_CLASS && judge_by_class(place, class, packet, sets, verdict) != 0 {
                return;
            }
        }
    }
}

// Checked by the verifier once, by itself: see `shared`. The result is how many there are.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn granted_classes(
    place: u64,
    generation: u32,
    packet: *const Packet,
    lives: u32,
    classes: *mut [u32; GRANT_NAMES],
) -> u32 {
    // SAFETY: the verifier checked the sizes of what they point at.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    // SAFETY: see above.
    let Some(classes) = (unsafe { classes.as_mut() }) else { return 0 };
    let Some(workload) = Workload::at(place as u32) else { return 0 };
    let (slot, serial) = (workload.slot, workload.binding.serial);
    let key = GrantKey { address: packet.destination.to_bytes(), slot, serial };
    let Some(grant) = GRANTS.get_ptr_mut(key) else { return 0 };
    // A connection outlives the grant by which it began: what has ended still says for which name that was.
    let now = if lives == 0 { boot_ns() } else { 0 };
    let mut count = 0;
    // SAFETY: a live map value.
    let names = unsafe { &mut (*grant).names };
    for (place_of_class, place_of_name) in classes.iter_mut().zip(names) {
        // SAFETY: see above.
        let name = unsafe { live(place_of_name, now) };
        // What was only remembered opens nothing under another ruleset either: it has to be asked for again, and judged.
        if name.until == 0 || name.class == NO_CLASS {
            continue;
        }
        let class = if name.generation == generation {
            name.class
        } else {
            class_of_name(NameKey { hash: name.name, slot, serial }, (place >> 32) as u32)
        };
        if class != NO_CLASS {
            *place_of_class = class;
            count += 1;
        }
    }
    count
}

// Checked by the verifier once, by itself: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn sets_of(high: u64, low: u64, ruleset: u32) -> u64 {
    Ruleset::new(&KernelWords, ruleset).points(Address { high, low })
}

// Checked by the verifier once, by itself: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn judge_by_class(
    place: u64,
    class: u32,
    packet: *const Packet,
    sets: u64,
    verdict: *mut Verdict,
) -> u32 {
    // SAFETY: the verifier checked the sizes of what they point at.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    // SAFETY: see above.
    let Some(verdict) = (unsafe { verdict.as_mut() }) else { return 0 };
    let Some(workload) = Workload::at(place as u32) else { return 0 };
    let asked = (packet.protocol, packet.port, workload.quarantined());
    let ruleset = Ruleset::new(&KernelWords, (place >> 32) as u32);
    u32::from(ruleset.opens(&KernelClock, asked, sets, class, verdict))
}

/// What stands at a place while it is open; `until` is 0 where it is not.
///
/// # Safety
/// `place` points into a live map value.
#[inline(always)]
unsafe fn live(place: *mut Granted, now: u64) -> Granted {
    // SAFETY: the caller's promise. The place is another name's only if `until` was changed before, and is again behind.
    unsafe {
        let until = atomic::load(&raw const (*place).until);
        let mut granted = Granted {
            name: atomic::load(&raw const (*place).name),
            since: 0,
            until: 0,
            class: 0,
            generation: 0,
        };
        let class = atomic::load((&raw const (*place).class).cast());
        (granted.class, granted.generation) = (class as u32, (class >> 32) as u32);
        // An addition of nothing, which no other access overtakes. Longer than before is the same name still.
        if until > now && atomic::add(&raw mut (*place).until, 0) >= until {
            granted.until = until;
        }
        granted
    }
}

/// The class, in this ruleset, of a name that was granted under another one.
#[inline(always)]
fn class_of_name(key: NameKey, ruleset: u32) -> u32 {
    let Some(name) = GRANTED_NAMES.get_ptr_mut(key) else { return NO_CLASS };
    let scratch = lent_at(lend());
    if scratch.is_null() {
        return NO_CLASS;
    }
    // SAFETY: live map values; the text of a name never changes.
    unsafe {
        let class = look_up(&raw mut (*scratch).lookup, &raw const (*name).text, (*name).length, ruleset);
        give_back(scratch);
        class
    }
}

/// May the workload have one more? Addresses and names count alike. What opens nothing takes a small part of the room only.
#[inline(always)]
fn has_room(workload: &Workload, class: u32) -> bool {
    // SAFETY: an aligned field of a live map value.
    let written = unsafe { atomic::load(&raw const (*workload.state).grants) };
    let room = if class == NO_CLASS { UNOPENED_PER_WORKLOAD } else { GRANTS_PER_WORKLOAD };
    written.wrapping_sub(workload.binding.grants_ended) < room
}

/// Makes the text of a name known for so many nanoseconds at least. False where there is no room, or another name has its hash.
#[inline(always)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would be copied to the stack")]
pub(crate) fn name(workload: &Workload, scratch: &mut Scratch, life: u64) -> bool {
    let heard = boot_ns();
    let until = heard + life;
    let key =
        NameKey { hash: scratch.answer.name.hash, slot: workload.slot, serial: workload.binding.serial };
    if let Some(known) = GRANTED_NAMES.get_ptr_mut(key) {
        // SAFETY: a live map value.
        unsafe {
            let name = &raw const scratch.answer.name;
            let length = (*name).length;
            if (*known).length != length
                || !is_same(&raw const (*name).text, &raw const (*known).text, length)
            {
                return false;
            }
            atomic::store(&raw mut (*known).heard, heard);
            if atomic::load(&raw const (*known).until) < until {
                atomic::store(&raw mut (*known).until, until);
            }
        }
        return true;
    }
    if !has_room(workload, scratch.class) {
        return false;
    }
    let length = scratch.answer.name.length;
    scratch.name = GrantedName { until, heard, length, reserved: 0, text: [0; NAME_ROOM] };
    scratch.name.text = scratch.answer.name.text;
    if GRANTED_NAMES.insert(key, &scratch.name, NO_EXIST).is_ok() {
        bump!(workload, grants);
        return true;
    }
    // Where another processor was first, it is the same name all but certainly; if it is not, this answer is asked again.
    GRANTED_NAMES.get_ptr(key).is_some()
}

/// Lets an address stay open for a name, where it is open for it by the same right: that was judged then. False where it is not.
#[inline(always)]
pub(crate) fn renew(key: &GrantKey, granted: &Granted) -> bool {
    let Some(grant) = GRANTS.get_ptr_mut(key) else { return false };
    // SAFETY: a live map value, whose turn is taken and given back here.
    unsafe {
        if !atomic::replace(&raw mut (*grant).turn, 0, 1) {
            return false;
        }
        let done = renew_place(grant, granted);
        atomic::replace(&raw mut (*grant).turn, 1, 0);
        done
    }
}

/// # Safety
/// `grant` points at a live map value, and its turn is this processor's.
#[inline(always)]
unsafe fn renew_place(grant: *mut Grant, granted: &Granted) -> bool {
    for index in 0..GRANT_NAMES {
        // SAFETY: the caller's promise, and an index in bounds.
        let place = unsafe { &mut (*grant).names[index] };
        let same = place.name == granted.name
            && place.class == granted.class
            && place.generation == granted.generation
            && place.until > granted.since;
        if same {
            if place.until < granted.until {
                // SAFETY: an aligned field of a live map value, which others read meanwhile.
                unsafe { atomic::store(&raw mut place.until, granted.until) };
            }
            return true;
        }
    }
    false
}

/// Opens an address for a name. False where there is no room.
#[inline(always)]
pub(crate) fn add(workload: &Workload, key: &GrantKey, granted: &Granted, room: &mut Grant) -> bool {
    if let Some(grant) = GRANTS.get_ptr_mut(key) {
        // SAFETY: a live map value.
        return unsafe { add_name(grant, granted) };
    }
    if !has_room(workload, granted.class) {
        return false;
    }
    *room = Grant::default();
    room.names[0] = *granted;
    if GRANTS.insert(key, room, NO_EXIST).is_ok() {
        bump!(workload, grants);
        if granted.class != NO_CLASS {
            bump!(workload, dns.grants);
        }
        return true;
    }
    // Another processor was first, or the table is full.
    match GRANTS.get_ptr_mut(key) {
        // SAFETY: a live map value.
        Some(grant) => unsafe { add_name(grant, granted) },
        None => false,
    }
}

/// How often a processor asks for a grant that another one is writing: that takes less than a microsecond.
const TRIES: u32 = 32;

/// # Safety
/// `grant` points at a live map value.
#[inline(always)]
unsafe fn add_name(grant: *mut Grant, granted: &Granted) -> bool {
    for _ in 0..TRIES {
        // SAFETY: the caller's promise.
        unsafe {
            if atomic::replace(&raw mut (*grant).turn, 0, 1) {
                let done = place_name(grant, granted);
                atomic::replace(&raw mut (*grant).turn, 1, 0);
                return done;
            }
        }
    }
    false
}

/// What a place is to a name that needs one, the best first.
const OWN: u32 = 0;
const EMPTY: u32 = 1;
/// Of a name that opens nothing.
const UNOPENED: u32 = 2;
/// Another name's with the same rights: they may share it.
const EQUAL: u32 = 3;
/// It has ended, but a connection may live by it.
const ENDED: u32 = 4;
/// Of a ruleset from before, which gives way to the first name of this one.
const STALE: u32 = 5;
const NONE: u32 = 6;

#[inline(always)]
const fn worth(place: &Granted, granted: &Granted) -> u32 {
    if place.until == 0 {
        EMPTY
    } else if place.name == granted.name {
        OWN
    } else if place.class == NO_CLASS {
        UNOPENED
    } else if granted.class == NO_CLASS {
        // It takes nothing from a name that opens something, or did.
        NONE
    } else if place.generation == granted.generation && place.class == granted.class {
        EQUAL
    } else if place.until <= granted.since {
        ENDED
    } else if place.generation != granted.generation {
        STALE
    } else {
        NONE
    }
}

/// # Safety
/// `grant` points at a live map value, and its turn is this processor's.
#[inline(always)]
unsafe fn place_name(grant: *mut Grant, granted: &Granted) -> bool {
    let (mut best, mut index) = (NONE, 0);
    for at in 0..GRANT_NAMES {
        // SAFETY: the caller's promise.
        let worth = worth(unsafe { &(*grant).names[at] }, granted);
        if worth < best {
            (best, index) = (worth, at);
        }
    }
    if best == NONE {
        return false;
    }
    // SAFETY: the caller's promise, and an index in bounds.
    unsafe {
        let place = &raw mut (*grant).names[bounded(index, GRANT_NAMES)];
        let class = u64::from(granted.generation) << 32 | u64::from(granted.class);
        if best != OWN && best != EQUAL {
            // Closed while it becomes another's.
            atomic::replace(&raw mut (*place).until, (*place).until, 0);
            atomic::store(&raw mut (*place).name, granted.name);
        }
        if (*place).until <= granted.since {
            atomic::store(&raw mut (*place).since, granted.since);
        }
        if best != EQUAL {
            atomic::store((&raw mut (*place).class).cast(), class);
        }
        let until = (*place).until;
        if granted.until > until {
            atomic::replace(&raw mut (*place).until, until, granted.until);
        }
    }
    true
}
