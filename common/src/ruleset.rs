//! The layout of a ruleset: what a policy compiles to and what the kernel reads.
//!
//! A ruleset is a sequence of 64-bit words that never changes once written. The agent writes it into one memory-mapped
//! array, and a workload points at its first word; swapping a policy is one store of that pointer. All offsets inside
//! are relative to the first word, so equal policies give equal words wherever they stand.
//!
//! | part | words an element | content |
//! | --- | --- | --- |
//! | header | [`HEADER_WORDS`] | flags, then offset and length of each part, then the quarantine rules |
//! | IPv4 boundaries | 1 | `start << 32 \| class`, ascending; the class holds up to the next start |
//! | IPv6 boundaries | 3 | upper and lower half of the start, class |
//! | classes | 1 | nothing, refused by a rule, or a run of intervals |
//! | intervals | 4 | protocol and ports, rules, until when allowed, until when kept in quarantine |
//! | raw protocols | 1 | 64 of the protocols for which raw sockets are open, one bit each; four words, or the part is absent |
//! | names and what belongs to them | | told in [`crate::names`] |
//!
//! Flattening overlaps is the compiler's work; here a lookup is one binary search over the boundaries and one over the
//! intervals of the class found.

use crate::Address;
use crate::limits::{MAX_BOUNDARIES, MAX_QUARANTINE_RULES};

/// First word of every ruleset: the layout's version.
pub const VERSION: u64 = crate::ABI_VERSION as u64;
/// Words of the header.
pub const HEADER_WORDS: u32 = 32;
/// Index of the word with the flags.
pub const FLAGS: u32 = 1;
/// Index of the word that places the IPv4 boundaries.
pub const V4: u32 = 2;
/// Index of the word that places the IPv6 boundaries.
pub const V6: u32 = 3;
/// Index of the word that places the classes.
pub const CLASSES: u32 = 4;
/// Index of the word that places the intervals.
pub const INTERVALS: u32 = 5;
/// Index of the word with the total length in words.
pub const LENGTH: u32 = 6;
/// Index of the word that places the protocols for which raw sockets are open; zero where there are none, as in every
/// ruleset that was written before this part existed.
pub const RAW: u32 = 7;
/// Index of the first quarantine rule; each takes two words.
pub const QUARANTINE: u32 = 8;
/// Index of the word that places the table of names: its length is the number of slots, a power of two.
pub const NAMES: u32 = 16;
/// Index of the word that places the names' entries.
pub const NAME_ENTRIES: u32 = 17;
/// Index of the word that places the names' texts.
pub const NAME_TEXTS: u32 = 18;
/// Index of the word that places the names' classes.
pub const NAME_CLASSES: u32 = 19;
/// Index of the word that places the targets of the names' classes.
pub const NAME_TARGETS: u32 = 20;
/// Index of the word that places the IPv4 boundaries between addresses that names may point to.
pub const POINTS_V4: u32 = 21;
/// Index of the word that places the IPv6 ones.
pub const POINTS_V6: u32 = 22;
/// Index of the word that places the sets of those boundaries.
pub const POINT_SETS: u32 = 23;
/// Index of the word that places the query types that may be asked.
pub const QUERY_TYPES: u32 = 24;
/// Index of the word with the shortest and the longest life of a grant: `min << 32 | max`, in seconds.
pub const TTL: u32 = 25;

/// Stands in the upper half of the word with the flags, which every verdict reads.
pub const FLAGS_MARK: u64 = 0x4557_5253_0000_0000;
/// Flag: let through and count what enforce would have refused.
pub const FLAG_AUDIT: u64 = 1;
/// Flag: `loopback: allow`.
pub const FLAG_LOOPBACK_ALLOW: u64 = 2;
/// Flag: `loopback: deny`.
pub const FLAG_LOOPBACK_DENY: u64 = 4;
/// Flag: DNS is judged as DNS: the policy says something of names.
pub const FLAG_DNS: u64 = 8;
/// Flag: the workload's own resolvers, which the agent reads for each workload, may be asked.
pub const FLAG_OWN_RESOLVERS: u64 = 16;

/// Words of an IPv4 boundary.
pub const V4_WORDS: u32 = 1;
/// Words of an IPv6 boundary.
pub const V6_WORDS: u32 = 3;
/// Words of an interval.
pub const INTERVAL_WORDS: u32 = 4;
/// Words of the set of raw protocols.
pub const RAW_WORDS: u32 = 4;

/// "No deadline" of an interval; 0 means "never".
pub const FOREVER: u64 = u64::MAX;
/// "No rule": the number that stands where no rule can be named.
pub const NO_RULE: u32 = u32::MAX;

/// Class kind in the top byte: nothing covers these addresses.
pub const CLASS_NONE: u64 = 0;
/// Class kind: intervals; count in bits 32 to 55, index of the first in bits 0 to 31.
pub const CLASS_INTERVALS: u64 = 1;
/// Class kind: refused; the rule in bits 0 to 31.
pub const CLASS_DENY: u64 = 2;

/// Where words come from: the mapped array in the kernel, a slice on the host.
pub trait Words {
    /// The word at this index, `None` beyond the end.
    fn word(&self, index: u32) -> Option<u64>;

    /// May these words say something of names? The kernel's programs for one command know that they do not, and the verifier
    /// then walks nothing of it.
    fn may_name(&self) -> bool {
        true
    }

    /// Takes steps until a [`Narrow`] search is done. The kernel drives [`Narrow::step`] with `bpf_loop`, a few in each
    /// round: of a plain loop the verifier walks every round, of which there are twenty, in every program.
    fn search_narrow(&self, mut search: Narrow) -> u32 {
        while !search.step(self) {}
        search.found()
    }

    /// The same for a [`Wide`] search.
    fn search_wide(&self, mut search: Wide) -> u32 {
        while !search.step(self) {}
        search.found()
    }
}

/// What a search gives where a word cannot be read. (A number and not an `Option`: the compiler reads the absent half of one
/// before it looks which half there is.)
pub const NOT_FOUND: u32 = u32::MAX;

/// Steps of the longest search: enough for [`MAX_BOUNDARIES`] elements, the largest sorted part.
pub const MAX_STEPS: u32 = MAX_BOUNDARIES.ilog2() + 1;

/// A binary search over sorted elements whose key is the upper half of their first word: the last one whose key is not above
/// the one sought.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Narrow {
    /// Word index of the best element so far.
    position: u32,
    /// Elements from there on that may still be better.
    length: u32,
    /// Words of an element.
    stride: u32,
    key: u32,
}

impl Narrow {
    /// Over `length` elements of `stride` words from word `position` on.
    #[inline(always)]
    #[must_use]
    pub const fn new(position: u32, length: u32, stride: u32, key: u32) -> Self {
        Self { position, length, stride, key }
    }

    /// One step. True when the search is done.
    #[inline(always)]
    pub fn step<W: Words + ?Sized>(&mut self, words: &W) -> bool {
        if self.length <= 1 {
            return true;
        }
        let half = self.length / 2;
        let middle = self.position.wrapping_add(half.wrapping_mul(self.stride));
        let Some(word) = words.word(middle) else {
            (self.position, self.length) = (NOT_FOUND, 1);
            return true;
        };
        if word >> 32 <= u64::from(self.key) {
            self.position = middle;
        }
        self.length -= half;
        false
    }

    /// Word index of the element, or [`NOT_FOUND`].
    #[inline(always)]
    #[must_use]
    pub const fn found(&self) -> u32 {
        if self.length <= 1 { self.position } else { NOT_FOUND }
    }
}

/// The same over elements of [`V6_WORDS`] words, of which the first two are the key.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Wide {
    position: u32,
    length: u32,
    key: Address,
}

impl Wide {
    /// Over `length` elements from word `position` on.
    #[inline(always)]
    #[must_use]
    pub const fn new(position: u32, length: u32, key: Address) -> Self {
        Self { position, length, key }
    }

    /// One step. True when the search is done.
    #[inline(always)]
    pub fn step<W: Words + ?Sized>(&mut self, words: &W) -> bool {
        if self.length <= 1 {
            return true;
        }
        let half = self.length / 2;
        let middle = self.position.wrapping_add(half.wrapping_mul(V6_WORDS));
        let (Some(high), Some(low)) = (words.word(middle), words.word(middle.wrapping_add(1))) else {
            (self.position, self.length) = (NOT_FOUND, 1);
            return true;
        };
        if high < self.key.high || (high == self.key.high && low <= self.key.low) {
            self.position = middle;
        }
        self.length -= half;
        false
    }

    /// Word index of the element, or [`NOT_FOUND`].
    #[inline(always)]
    #[must_use]
    pub const fn found(&self) -> u32 {
        if self.length <= 1 { self.position } else { NOT_FOUND }
    }
}

impl Words for [u64] {
    fn word(&self, index: u32) -> Option<u64> {
        self.get(index as usize).copied()
    }
}

/// What covers an address, as it stands in the ruleset. (Not an enumeration of the three kinds: the compiler reads the absent
/// content of one before it looks which kind it is, and the verifier refuses that.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Class(u64);

impl Class {
    /// [`CLASS_INTERVALS`], [`CLASS_DENY`], or anything else where nothing covers it.
    #[inline(always)]
    #[must_use]
    pub const fn kind(self) -> u64 {
        self.0 >> 56
    }

    /// The rule that refuses it.
    #[inline(always)]
    #[must_use]
    pub const fn rule(self) -> u32 {
        self.0 as u32
    }

    /// The number of intervals, and which one is the first.
    #[inline(always)]
    const fn run(self) -> (u32, u32) {
        ((self.0 >> 32) as u32 & 0x00ff_ffff, self.0 as u32)
    }
}

/// What covers a protocol and port inside a class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Covering {
    /// An interval.
    Interval {
        /// The rule to name when it is allowed.
        rule: u32,
        /// Unix time in seconds up to which it is allowed, or [`FOREVER`].
        allow_until: u64,
        /// The same for a workload in quarantine; 0 when it is not kept.
        keep_until: u64,
    },
    /// Other ports of the protocol are covered, by this rule among others.
    OtherPort(u32),
    /// Other protocols are covered, by this rule among others.
    OtherProtocol(u32),
}

/// A ruleset inside a store of words.
#[derive(Debug)]
pub struct Ruleset<'a, W: Words + ?Sized> {
    pub(crate) words: &'a W,
    pub(crate) base: u32,
}

impl<'a, W: Words + ?Sized> Ruleset<'a, W> {
    /// The ruleset whose first word stands at `base`.
    #[inline(always)]
    pub const fn new(words: &'a W, base: u32) -> Self {
        Self { words, base }
    }

    #[inline(always)]
    pub(crate) fn word(&self, offset: u32) -> Option<u64> {
        self.words.word(self.base.wrapping_add(offset))
    }

    /// The flags; `None` where no ruleset stands. (Zeroed words have no mark: they must not be read as a policy.)
    #[inline(always)]
    #[must_use]
    pub fn flags(&self) -> Option<u64> {
        let word = self.word(FLAGS)?;
        if word >> 32 == FLAGS_MARK >> 32 { Some(word & u64::from(u32::MAX)) } else { None }
    }

    #[inline(always)]
    pub(crate) fn part(&self, part: u32) -> Option<(u32, u32)> {
        let word = self.word(part)?;
        Some(((word >> 32) as u32, word as u32))
    }

    /// What covers this address; `None` where the ruleset cannot be read.
    #[inline(always)]
    #[must_use]
    pub fn class(&self, address: Address) -> Option<Class> {
        let class = self.find_element(address, V4, V6)?;
        self.class_at(class)
    }

    /// The class with this number.
    #[inline(always)]
    pub(crate) fn class_at(&self, class: u32) -> Option<Class> {
        let (offset, count) = self.part(CLASSES)?;
        if class >= count {
            return None;
        }
        Some(Class(self.word(offset.wrapping_add(class))?))
    }

    /// What the boundaries of the address's family, in one of these two parts, say of it.
    #[inline(always)]
    pub(crate) fn find_element(&self, address: Address, v4: u32, v6: u32) -> Option<u32> {
        let narrow = address.as_v4();
        let (part, stride) = if narrow.is_some() { (v4, V4_WORDS) } else { (v6, V6_WORDS) };
        let (offset, length) = self.part(part)?;
        let position = self.base.wrapping_add(offset);
        let found = match narrow {
            Some(key) => self.words.search_narrow(Narrow::new(position, length, V4_WORDS, key)),
            None => self.words.search_wide(Wide::new(position, length, address)),
        };
        if found == NOT_FOUND {
            return None;
        }
        // The class stands in the element's last word.
        Some(self.words.word(found.wrapping_add(stride - 1))? as u32)
    }

    /// What covers this protocol and port among the intervals of a class; `None` where the ruleset cannot be read. `port` is
    /// the type for ICMP.
    #[inline(always)]
    #[must_use]
    pub fn covering(&self, class: Class, protocol: u8, port: u16) -> Option<Covering> {
        let (count, index) = class.run();
        let (intervals, _) = self.part(INTERVALS)?;
        let first = intervals.wrapping_add(index.wrapping_mul(INTERVAL_WORDS));
        let key = interval_key(protocol, port);
        let at = self.base.wrapping_add(first);
        let found = self.words.search_narrow(Narrow::new(at, count, INTERVAL_WORDS, key));
        if found == NOT_FOUND {
            return None;
        }
        let position = found.wrapping_sub(self.base);
        let found = self.word(position)?;
        let rule = self.word(position.wrapping_add(1))? as u32;
        let same_protocol = (found >> 48) as u8 == protocol;
        if same_protocol && (found >> 32) as u32 <= key && port <= (found >> 16) as u16 {
            return Some(Covering::Interval {
                rule,
                allow_until: self.word(position.wrapping_add(2))?,
                keep_until: self.word(position.wrapping_add(3))?,
            });
        }
        if same_protocol {
            return Some(Covering::OtherPort(rule));
        }
        // The protocol's first interval may start above the port that was asked for.
        let next = position.wrapping_add(INTERVAL_WORDS);
        if next.wrapping_sub(first) < count.wrapping_mul(INTERVAL_WORDS)
            && (self.word(next)? >> 48) as u8 == protocol
        {
            return Some(Covering::OtherPort(self.word(next.wrapping_add(1))? as u32));
        }
        Some(Covering::OtherProtocol(rule))
    }

    /// Does the policy open raw sockets of this protocol? Where it cannot be read, it does not.
    #[inline(always)]
    #[must_use]
    pub fn opens_raw(&self, protocol: u8) -> bool {
        let Some((offset, RAW_WORDS)) = self.part(RAW) else { return false };
        let Some(word) = self.word(offset.wrapping_add(u32::from(protocol) / 64)) else { return false };
        word >> (protocol % 64) & 1 != 0
    }

    /// The quarantine rule with this index: violations and nanoseconds; `None` where there is none.
    #[inline(always)]
    #[must_use]
    pub fn quarantine(&self, index: u32) -> Option<(u32, u64)> {
        if index as usize >= MAX_QUARANTINE_RULES {
            return None;
        }
        let at = QUARANTINE.wrapping_add(index.wrapping_mul(2));
        let violations = self.word(at)? as u32;
        if violations == 0 {
            return None;
        }
        Some((violations, self.word(at.wrapping_add(1))?))
    }
}

/// Sort key of an interval: the upper half of its first word.
#[inline(always)]
#[must_use]
pub const fn interval_key(protocol: u8, port: u16) -> u32 {
    (protocol as u32) << 16 | port as u32
}
