//! Names as they stand in records: labels, and pointers to labels that stand further in front.

use super::name::{BAD, MORE, READY};
use super::{HEADER, Message};

/// Bytes of the longest name, with the lengths and the closing zero.
const MAX_WIRE: u32 = 255;
/// From this first byte on it is a pointer.
const POINTER: u8 = 0xc0;
/// From this first byte on it is no label.
const NO_LABEL: u8 = 0x40;
/// Labels and pointers that one step passes.
const ROUNDS: u32 = 8;
/// Bytes of a label that one step compares.
const CHUNK: usize = 8;

/// A name that has been checked.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Known {
    /// Where it stands.
    pub(super) at: u32,
    /// Offset behind it.
    pub(super) end: u32,
    /// Bytes that it has when it is not compressed.
    pub(super) length: u32,
}

impl Known {
    pub(super) const NEW: Known = Known { at: 0, end: 0, length: 0 };
}

/// Checks a name from its first to its last label, and finds where the next thing begins.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Walk {
    /// Offset of the next label.
    at: u32,
    /// Where the labels in a row began: a pointer has to point before, so that it ends some time.
    segment: u32,
    /// Where they have to end: before the labels that pointed there, or the message's end.
    limit: u32,
    /// Bytes of the name so far, as if it were not compressed.
    pub(super) length: u32,
    /// Offset behind the name; zero until it is known.
    pub(super) end: u32,
}

impl Walk {
    pub(super) const NEW: Walk = Walk { at: 0, segment: 0, limit: 0, length: 0, end: 0 };

    #[inline(always)]
    pub(super) const fn begin(&mut self, at: u32, message: &Message) {
        *self = Walk { at, segment: at, limit: message.length, length: 0, end: 0 };
    }

    /// One step. A name that ends with the known one is not followed into it.
    #[inline(always)]
    pub(super) fn step(&mut self, message: &Message, known: Known) -> u32 {
        let Walk { mut at, mut segment, mut limit, mut length, mut end } = *self;
        for _ in 0..ROUNDS {
            if at >= limit {
                return BAD;
            }
            let first = message.byte(at);
            if first >= POINTER {
                let place = u32::from(message.two(at)) & 0x3fff;
                if at + 2 > message.length || place >= segment || place < HEADER {
                    return BAD;
                }
                if end == 0 {
                    end = at + 2;
                }
                if place == known.at && known.end <= segment {
                    (self.length, self.end) = (length + known.length, end);
                    return if length + known.length > MAX_WIRE { BAD } else { READY };
                }
                (at, limit, segment) = (place, segment, place);
                continue;
            }
            if first >= NO_LABEL {
                return BAD;
            }
            at += u32::from(first) + 1;
            length += u32::from(first) + 1;
            if length > MAX_WIRE {
                return BAD;
            }
            if first == 0 {
                (self.length, self.end) = (length, if end == 0 { at } else { end });
                return READY;
            }
        }
        *self = Walk { at, segment, limit, length, end };
        MORE
    }
}

/// The names are not the same.
pub(super) const DIFFERENT: u32 = 2;

/// Compares two names that [`Walk`] found good, ASCII letters of either case being the same.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Comparison {
    one: u32,
    other: u32,
    /// Bytes of the label that are still to be compared.
    left: u32,
    reserved: u32,
}

impl Comparison {
    pub(super) const NEW: Comparison = Comparison { one: 0, other: 0, left: 0, reserved: 0 };

    #[inline(always)]
    pub(super) const fn begin(&mut self, one: u32, other: u32) {
        *self = Comparison { one, other, left: 0, reserved: 0 };
    }

    /// [`MORE`], [`READY`] when they are the same, or [`DIFFERENT`].
    #[inline(always)]
    pub(super) fn step(&mut self, message: &Message) -> u32 {
        let Comparison { mut one, mut other, mut left, .. } = *self;
        if left == 0 {
            let first;
            (one, first) = followed(message, one);
            let second;
            (other, second) = followed(message, other);
            // The same place: the rest is the same, whatever it is.
            if one == other {
                return READY;
            }
            if first >= POINTER || second >= POINTER {
                (self.one, self.other) = (one, other);
                return MORE;
            }
            if first != second {
                return DIFFERENT;
            }
            if first == 0 {
                return READY;
            }
            (one, other, left) = (one + 1, other + 1, u32::from(first));
        }
        let (ours, theirs) = (message.some::<CHUNK>(one), message.some::<CHUNK>(other));
        let mut differences = 0;
        for (index, (ours, theirs)) in (0..).zip(ours.into_iter().zip(theirs)) {
            differences |= (folded(ours) ^ folded(theirs)) & ones_if_below(index, left);
        }
        if differences != 0 {
            return DIFFERENT;
        }
        let passed = if left < CHUNK as u32 { left } else { CHUNK as u32 };
        (self.one, self.other, self.left) = (one + passed, other + passed, left - passed);
        MORE
    }
}

/// Where the next label stands, behind one pointer at most, and its first byte.
#[inline(always)]
fn followed(message: &Message, at: u32) -> (u32, u8) {
    let first = message.byte(at);
    if first < POINTER {
        return (at, first);
    }
    let at = u32::from(message.two(at)) & 0x3fff;
    (at, message.byte(at))
}

/// A letter in lower case. Without a branch, of which the verifier would follow both ways for every byte.
#[inline(always)]
const fn folded(byte: u8) -> u32 {
    let byte = byte as u32;
    let is_upper = (byte.wrapping_sub(b'Z' as u32 + 1) & !byte.wrapping_sub(b'A' as u32)) >> 31;
    byte | is_upper << 5
}

/// All bits where `index` is below `bound`, else none. Without a branch as well; both are small.
#[inline(always)]
const fn ones_if_below(index: u32, bound: u32) -> u32 {
    (index.wrapping_sub(bound).cast_signed() >> 31).cast_unsigned()
}
