//! The parameters of SVCB and HTTPS records, of which the hints for addresses count.

use super::Message;
use super::name::{BAD, MORE, READY};

const IPV4_HINT: u16 = 4;
const IPV6_HINT: u16 = 6;

/// Walks the parameters of one record: a parameter, or an address of a hint, in a step.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Parameters {
    /// Offset of the next parameter, or of the next address.
    at: u32,
    /// The least key that the next one may have: they ascend.
    floor: u32,
    /// Bytes of an address, inside a hint; else zero.
    size: u32,
    /// Offset of the hint's end.
    hint_end: u32,
    /// Offset of the address that the step found, and its bytes; zero where it found none.
    found: u32,
    found_size: u32,
}

impl Parameters {
    pub(super) const NEW: Parameters =
        Parameters { at: 0, floor: 0, size: 0, hint_end: 0, found: 0, found_size: 0 };

    #[inline(always)]
    pub(super) const fn begin(&mut self, at: u32) {
        (self.at, self.floor, self.size) = (at, 0, 0);
    }

    /// The address that the last step found, and how many bytes it has: 0 where there was none.
    #[inline(always)]
    pub(super) const fn hint(&self) -> (u32, u32) {
        (self.found, self.found_size)
    }

    /// `end` is that of the record.
    #[inline(always)]
    pub(super) fn step(&mut self, message: &Message, end: u32) -> u32 {
        self.found_size = 0;
        if self.size != 0 {
            (self.found, self.found_size) = (self.at, self.size);
            self.at += self.size;
            if self.at >= self.hint_end {
                self.size = 0;
            }
            return MORE;
        }
        let at = self.at;
        if at == end {
            return READY;
        }
        let key = message.two(at);
        let length = u32::from(message.two(at + 2));
        let value = at + 4;
        if value + length > end || u32::from(key) < self.floor {
            return BAD;
        }
        self.floor = u32::from(key) + 1;
        self.at = value + length;
        self.size = match key {
            IPV4_HINT => 4,
            IPV6_HINT => 16,
            _ => return MORE,
        };
        // A power of two: no address is cut, and there is one.
        if length == 0 || length & (self.size - 1) != 0 {
            return BAD;
        }
        (self.at, self.hint_end) = (value, value + length);
        MORE
    }
}
