//! What was seen on a wire a moment ago: a caller's first packet, so that the kernel's answer to it passes although no
//! socket sends it; the first fragment of an approved packet, so that the rest of it passes although it has no ports.
//!
//! Each note has one place, by its contents; a newer one takes it. All that a lost note costs is an answer or a packet.

use egress_warden_common::Address;
use egress_warden_common::limits::NOTES;
use egress_warden_common::state::{Interface, NOTE_BUSY, Note, note_counts, note_place};

use crate::atomic;
use crate::rules::boot_ns;
use crate::workload::bounded;

#[inline(always)]
fn place(interface: *mut Interface, peer: Address, key: u64) -> *mut Note {
    let place = bounded(note_place(peer, key), NOTES);
    // SAFETY: `interface` points at a live map value, and the index is in bounds.
    unsafe { &raw mut (*interface).notes[place] }
}

/// Notes what was just seen.
#[inline(always)]
pub(crate) fn note(interface: *mut Interface, peer: Address, key: u64) {
    let note = place(interface, peer, key);
    // SAFETY: aligned fields of a live map value. A place is claimed before it is written, and one that is claimed is
    // left to whoever did: what two processors write at once must not mix.
    unsafe {
        let seen = atomic::load(&raw const (*note).seen);
        if seen == NOTE_BUSY || !atomic::replace(&raw mut (*note).seen, seen, NOTE_BUSY) {
            return;
        }
        (*note).peer = peer.to_bytes();
        (*note).key = key;
        atomic::replace(&raw mut (*note).seen, NOTE_BUSY, boot_ns());
    }
}

/// Was it seen a moment ago?
#[inline(always)]
pub(crate) fn noted(interface: *mut Interface, peer: Address, key: u64) -> bool {
    let note = place(interface, peer, key);
    // SAFETY: aligned fields of a live map value. Unchanged before and after says that what is between belongs together.
    unsafe {
        let seen = atomic::load(&raw const (*note).seen);
        note_counts(seen, boot_ns())
            && atomic::load(&raw const (*note).key) == key
            && Address::from_bytes((*note).peer) == peer
            && atomic::add(&raw mut (*note).seen, 0) == seen
    }
}
