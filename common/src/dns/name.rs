//! Names in the form that policies write them, and the reader of the question's name.

use crate::names::{HASH_START, hash_step};

use super::{HEADER, MAX_MESSAGE, MAX_NAME, Message, NAME_ROOM};

/// A name in text: lower case, labels joined by dots, no closing dot; zeros behind it. The root has no characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Name {
    /// The characters.
    pub text: [u8; NAME_ROOM],
    /// [`hash`] of the characters.
    pub hash: u64,
    /// How many characters there are.
    pub length: u32,
    /// Nothing.
    pub reserved: u32,
}

/// FNV-1a of these bytes, 64 bits.
#[must_use]
pub const fn hash(bytes: &[u8]) -> u64 {
    let mut hash = HASH_START;
    let mut index = 0;
    while index < bytes.len() {
        hash = hash_step(hash, bytes[index]);
        index += 1;
    }
    hash
}

impl Name {
    /// The root's.
    pub const ROOT: Name = Name { text: [0; NAME_ROOM], hash: HASH_START, length: 0, reserved: 0 };

    /// The characters.
    #[must_use]
    pub fn characters(&self) -> &[u8] {
        self.text.get(..self.length as usize).unwrap_or_default()
    }

    #[inline(always)]
    pub(super) const fn reset(&mut self) {
        // As a whole, which the compiler copies word by word. What it knows to be zeros only, it clears by a call, byte by byte.
        *self = Self::ROOT;
    }
}

/// What a byte of a label becomes in text; zero where no policy can name it.
static FOLDED: [u8; 256] = folded();

const fn folded() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            letter @ (b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-') => letter,
            letter @ b'A'..=b'Z' => letter | 0x20,
            _ => 0,
        };
        byte += 1;
    }
    table
}

/// Bytes that one step reads. A power of two, so that each step writes to a place of its own in the text.
const CHUNK: usize = 16;
/// Steps that the longest name takes: its characters, the closing zero, and no more.
pub(super) const NAME_STEPS: u32 = ((MAX_NAME + 1).div_ceil(CHUNK)) as u32;

/// Steps are not done yet.
pub(super) const MORE: u32 = 0;
/// They are.
pub(super) const READY: u32 = 1;
/// It cannot be read.
pub(super) const BAD: u32 = 2;

/// Reads the question's name, which is the first and so never compressed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Spelling {
    /// Offset of the next byte.
    at: u32,
    /// Bytes of the label that are still to come.
    left: u32,
}

impl Spelling {
    pub(super) const NEW: Spelling = Spelling { at: 0, left: 0 };

    /// Begins behind the header. (The first length is no dot, all others are: so it is read here.)
    #[inline(always)]
    pub(super) const fn begin(&mut self, message: &Message) -> u32 {
        let first = message.byte(HEADER) as u32;
        self.at = HEADER + 1;
        self.left = first;
        match first {
            0 => READY,
            1..64 => MORE,
            _ => BAD,
        }
    }

    /// Offset behind the name, once it is ready.
    #[inline(always)]
    pub(super) const fn end(&self) -> u32 {
        self.at
    }

    #[inline(always)]
    pub(super) fn step(&mut self, name: &mut Name, message: &Message) -> u32 {
        let (start, mut left, mut hash) = (self.at, self.left, name.hash);
        let from = start as usize & (MAX_MESSAGE - 1);
        let to = start.wrapping_sub(HEADER + 1) as usize & (NAME_ROOM - CHUNK);
        for index in 0..CHUNK {
            let byte = message.bytes[from + index];
            let character;
            if left == 0 {
                if byte == 0 {
                    (name.hash, name.length) = (hash, (to + index) as u32);
                    self.at = start + index as u32 + 1;
                    return if name.length as usize > MAX_NAME { BAD } else { READY };
                }
                if byte > 63 {
                    return BAD;
                }
                (character, left) = (b'.', u32::from(byte));
            } else {
                character = FOLDED[byte as usize];
                if character == 0 {
                    return BAD;
                }
                left -= 1;
            }
            name.text[to + index] = character;
            hash = hash_step(hash, character);
        }
        (self.at, self.left, name.hash) = (start + CHUNK as u32, left, hash);
        // Whether it ran over the message's end is asked once, of the whole: bytes behind it make it longer only.
        if to + CHUNK > MAX_NAME { BAD } else { MORE }
    }
}
