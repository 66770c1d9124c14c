//! Names in a ruleset: which may be asked for, where their answers may point, and what they open there.
//!
//! | part | words an element | content |
//! | --- | --- | --- |
//! | table | 2 | hash of a name, number of its entry plus 1; a slot with 0 is empty. A power of two slots, linear probing |
//! | entries | 2 | place and length of the text; class plus 1 of the name itself, and `<< 32` that of what is below it (`*.`) |
//! | texts | 1 | eight characters of a name, read backwards, the first in the lowest byte, zeros behind the last |
//! | classes | 4 | `count << 32 \| first target`; Unix seconds until it may be asked; the same in quarantine; a rule |
//! | targets | 1 | `set << 32 \| class` of intervals: what is open at the addresses of that set |
//! | boundaries | 1 and 3 | as those of addresses: from here on, the sets with this number hold |
//! | sets | 1 | one bit for each set that these addresses are in; the highest: they are resolvers |
//! | query types | 1 | `type << 32`, ascending |
//!
//! Where several entries cover a name, the compiler has put all of them into the classes of the longest one, so that a lookup
//! ends with one class. Names that may be asked for under a search suffix are names of their own.

use crate::Address;
use crate::decide::{Asked, Clock, Facts, Verdict, by_class};
use crate::limits::{MAX_NAME, MAX_NAME_TARGETS, NAME_PROBES, NAME_ROOM};
use crate::reason::Reason;
use crate::ruleset::{
    FOREVER, NAME_CLASSES, NAME_ENTRIES, NAME_TARGETS, NAME_TEXTS, NAMES, NO_RULE, NOT_FOUND, Narrow,
    POINT_SETS, POINTS_V4, POINTS_V6, QUERY_TYPES, Ruleset, TTL, Words,
};

/// Words of a slot of the table.
pub const SLOT_WORDS: u32 = 2;
/// Words of an entry.
pub const ENTRY_WORDS: u32 = 2;
/// Words of a class.
pub const CLASS_WORDS: u32 = 4;
/// The bit of a set of boundaries that says "these are resolvers".
pub const RESOLVER_SET: u32 = 63;
/// "No class": what a lookup gives for a name that nothing covers. Classes are numbered from 1.
pub const NO_CLASS: u32 = 0;

/// What a hash begins with.
pub(crate) const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Takes one more character into a hash (FNV-1a). Names are read backwards: the hash of a name is on the way to the hash of
/// every name below it.
#[inline(always)]
#[must_use]
pub const fn hash_step(hash: u64, character: u8) -> u64 {
    (hash ^ character as u64).wrapping_mul(0x0100_0000_01b3)
}

/// The hash under which a name stands in the table.
#[must_use]
pub fn hash(name: &str) -> u64 {
    name.bytes().rev().fold(HASH_START, hash_step)
}

/// The first slot that is looked at.
#[inline(always)]
#[must_use]
pub const fn slot(hash: u64, slots: u32) -> u32 {
    (hash ^ hash >> 32) as u32 & slots.wrapping_sub(1)
}

/// Characters that one step reads at most. A round of `bpf_loop` costs about as much as three of them.
const CHUNK: u32 = 16;
/// Steps of the longest lookup, each of which reads one character at least.
pub const LOOKUP_STEPS: u32 = MAX_NAME as u32 + 1;

/// The search for the longest name in the table that is the one asked for, or above it. One [`Lookup::step`] reads one
/// label, or a part of it; the kernel drives it with `bpf_loop`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Lookup {
    /// What was read, as it stands in the texts.
    read: [u64; NAME_ROOM / 8],
    hash: u64,
    /// Characters in all.
    length: u32,
    /// Characters not read yet.
    left: u32,
    /// Class of the longest name above, or [`NO_CLASS`].
    below: u32,
    /// Class that was found, or [`NO_CLASS`].
    found: u32,
}

impl Lookup {
    /// Of nothing.
    pub const EMPTY: Self = Self {
        read: [0; NAME_ROOM / 8],
        hash: HASH_START,
        length: 0,
        left: 0,
        below: NO_CLASS,
        found: NO_CLASS,
    };

    /// Begins with the first `length` characters of a name.
    #[inline(always)]
    pub fn start(&mut self, length: u32) {
        let length = if length as usize > MAX_NAME { 0 } else { length };
        (self.hash, self.length, self.left) = (HASH_START, length, length);
        (self.below, self.found) = (NO_CLASS, NO_CLASS);
    }

    /// Reads what follows of the name that `text` holds, up to the next dot. True when the lookup is done.
    #[inline(always)]
    pub fn step<W: Words + ?Sized>(&mut self, ruleset: &Ruleset<'_, W>, text: &[u8; NAME_ROOM]) -> bool {
        if self.next(text) == b'.' {
            let classes = self.entry(ruleset);
            if self.left == 0 {
                let own = classes as u32;
                self.found = if own == NO_CLASS { self.below } else { own };
                return true;
            }
            if classes >> 32 != 0 {
                self.below = (classes >> 32) as u32;
            }
        }
        for _ in 0..CHUNK {
            let character = self.next(text);
            let at = self.length.wrapping_sub(self.left);
            let word = &mut self.read[at as usize / 8 % (NAME_ROOM / 8)];
            // Each word is begun anew: to clear them all beforehand takes longer than most lookups.
            let before = if at.is_multiple_of(8) { 0 } else { *word };
            *word = before | u64::from(character) << (at % 8 * 8);
            self.hash = hash_step(self.hash, character);
            self.left = self.left.wrapping_sub(1);
            if self.next(text) == b'.' {
                break;
            }
        }
        false
    }

    /// The character that is read next; a dot in front of the first.
    #[inline(always)]
    const fn next(&self, text: &[u8; NAME_ROOM]) -> u8 {
        if self.left == 0 { b'.' } else { text[self.left.wrapping_sub(1) as usize % NAME_ROOM] }
    }

    /// The class, or [`NO_CLASS`]; of a lookup that is done.
    #[inline(always)]
    #[must_use]
    pub const fn found(&self) -> u32 {
        self.found
    }

    /// The classes of what was read, 0 where it is no name of the table.
    #[inline(always)]
    fn entry<W: Words + ?Sized>(&self, ruleset: &Ruleset<'_, W>) -> u64 {
        self.find(ruleset).unwrap_or(0)
    }

    #[inline(always)]
    fn find<W: Words + ?Sized>(&self, ruleset: &Ruleset<'_, W>) -> Option<u64> {
        let (table, slots) = ruleset.part(NAMES)?;
        if slots == 0 {
            return None;
        }
        let mut at = slot(self.hash, slots);
        for _ in 0..NAME_PROBES {
            let place = table.wrapping_add(at.wrapping_mul(SLOT_WORDS));
            let number = ruleset.word(place.wrapping_add(1))? as u32;
            if number == 0 {
                return None;
            }
            if ruleset.word(place)? == self.hash {
                return self.classes(ruleset, number.wrapping_sub(1));
            }
            at = at.wrapping_add(1) & slots.wrapping_sub(1);
        }
        None
    }

    /// The classes of an entry, if its text is what was read: a hash is no proof.
    #[inline(always)]
    fn classes<W: Words + ?Sized>(&self, ruleset: &Ruleset<'_, W>, number: u32) -> Option<u64> {
        let (entries, _) = ruleset.part(NAME_ENTRIES)?;
        let (texts, _) = ruleset.part(NAME_TEXTS)?;
        let entry = entries.wrapping_add(number.wrapping_mul(ENTRY_WORDS));
        let text = ruleset.word(entry)?;
        if text as u32 != self.length.wrapping_sub(self.left) {
            return None;
        }
        let first = texts.wrapping_add((text >> 32) as u32);
        for index in 0..NAME_ROOM as u32 / 8 {
            if index * 8 >= text as u32 {
                break;
            }
            if ruleset.word(first.wrapping_add(index))? != self.read[index as usize] {
                return None;
            }
        }
        ruleset.word(entry.wrapping_add(1))
    }
}

impl<W: Words + ?Sized> Ruleset<'_, W> {
    /// The sets of addresses that this one is in, one bit each.
    #[inline(always)]
    #[must_use]
    pub fn points(&self, address: Address) -> u64 {
        let Some(number) = self.find_element(address, POINTS_V4, POINTS_V6) else { return 0 };
        let Some((offset, count)) = self.part(POINT_SETS) else { return 0 };
        if number >= count {
            return 0;
        }
        self.word(offset.wrapping_add(number)).unwrap_or(0)
    }

    /// Does the policy name this address as a resolver?
    #[inline(always)]
    #[must_use]
    pub fn is_resolver(&self, address: Address) -> bool {
        self.points(address) >> RESOLVER_SET & 1 != 0
    }

    /// May this type of query be asked?
    #[inline(always)]
    #[must_use]
    pub fn asks(&self, kind: u16) -> bool {
        let Some((offset, count)) = self.part(QUERY_TYPES) else { return false };
        let at = self.base.wrapping_add(offset);
        if count == 0 {
            return false;
        }
        let found = self.words.search_narrow(Narrow::new(at, count, 1, u32::from(kind)));
        if found == NOT_FOUND {
            return false;
        }
        match self.words.word(found) {
            Some(word) => word >> 32 == u64::from(kind),
            None => false,
        }
    }

    /// The life of a grant, for which the answer says `ttl`: seconds.
    #[inline(always)]
    #[must_use]
    pub fn life(&self, ttl: u32) -> u32 {
        let bounds = self.word(TTL).unwrap_or(0);
        let (min, max) = ((bounds >> 32) as u32, bounds as u32);
        if ttl < min {
            min
        } else if ttl > max {
            max
        } else {
            ttl
        }
    }

    #[inline(always)]
    fn name_class(&self, class: u32) -> Option<u32> {
        let (offset, count) = self.part(NAME_CLASSES)?;
        if class == NO_CLASS || class > count {
            return None;
        }
        Some(offset.wrapping_add(class.wrapping_sub(1).wrapping_mul(CLASS_WORDS)))
    }

    /// May the name with this class be asked for, and with this type of query? The server was allowed before.
    #[inline(always)]
    #[must_use]
    pub fn query<C: Clock + ?Sized>(&self, clock: &C, class: u32, kind: u16, quarantined: bool) -> Verdict {
        let Some(at) = self.name_class(class) else {
            let reason = if quarantined { Reason::Quarantined } else { Reason::DnsName };
            return Verdict::new(reason, NO_RULE);
        };
        let until = self.word(at.wrapping_add(if quarantined { 2 } else { 1 })).unwrap_or(0);
        let rule = self.word(at.wrapping_add(3)).unwrap_or(0) as u32;
        if quarantined && until == 0 {
            return Verdict::new(Reason::Quarantined, rule);
        }
        if until != FOREVER && clock.unix_seconds() >= until {
            return Verdict::new(Reason::Expired, rule);
        }
        let reason = if self.asks(kind) { Reason::Allowed } else { Reason::DnsType };
        Verdict::new(reason, rule)
    }

    /// Does an answer for a name of this class open anything at this address?
    #[inline(always)]
    #[must_use]
    pub fn may_point(&self, class: u32, address: Address) -> bool {
        let sets = self.points(address);
        let Some(at) = self.name_class(class) else { return false };
        let targets = self.word(at).unwrap_or(0);
        for index in 0..MAX_NAME_TARGETS {
            if self.target(targets, index, sets) != NOT_FOUND {
                return true;
            }
        }
        false
    }

    /// The class of intervals that a target opens at an address in these sets, or [`NOT_FOUND`].
    #[inline(always)]
    fn target(&self, targets: u64, index: u32, sets: u64) -> u32 {
        let (first, count) = (targets as u32, (targets >> 32) as u32);
        if index >= count {
            return NOT_FOUND;
        }
        let Some((offset, _)) = self.part(NAME_TARGETS) else { return NOT_FOUND };
        let Some(target) = self.word(offset.wrapping_add(first).wrapping_add(index)) else {
            return NOT_FOUND;
        };
        if sets >> ((target >> 32) as u32 % 64) & 1 == 0 {
            return NOT_FOUND;
        }
        target as u32
    }

    /// Is it allowed at an address that an answer for a name of this class pointed to? `otherwise` is what addresses alone
    /// came to, and stands where the name opens nothing nearer.
    #[must_use]
    pub fn by_name<C: Clock + ?Sized>(
        &self,
        clock: &C,
        facts: &Facts,
        class: u32,
        otherwise: Verdict,
    ) -> Verdict {
        let mut verdict = otherwise;
        self.open(clock, facts.asked(), self.points(facts.destination), class, &mut verdict);
        verdict
    }

    /// Is protocol and port open, for a name of this class, at an address in these sets? True where it is; `nearest` becomes
    /// the verdict, or a refusal that tells more than the one it holds.
    #[inline(always)]
    pub fn opens<C: Clock + ?Sized>(
        &self,
        clock: &C,
        (protocol, port, quarantined): (u8, u16, bool),
        sets: u64,
        class: u32,
        nearest: &mut Verdict,
    ) -> bool {
        let asked = Asked { protocol, port, quarantined, on_loopback: false };
        self.open(clock, asked, sets, class, nearest)
    }

    #[inline(always)]
    fn open<C: Clock + ?Sized>(
        &self,
        clock: &C,
        asked: Asked,
        sets: u64,
        class: u32,
        nearest: &mut Verdict,
    ) -> bool {
        let Some(at) = self.name_class(class) else { return false };
        let targets = self.word(at).unwrap_or(0);
        for index in 0..MAX_NAME_TARGETS {
            let number = self.target(targets, index, sets);
            if number == NOT_FOUND {
                continue;
            }
            let Some(class) = self.class_at(number) else { continue };
            let verdict = by_class(self, clock, asked, class);
            let allowed = matches!(verdict.reason, Reason::Allowed);
            if allowed || matches!(nearest.reason, Reason::NotAllowlisted) {
                *nearest = verdict;
            }
            if allowed {
                return true;
            }
        }
        false
    }
}

/// May a name have the last word on what addresses alone came to? What is denied is denied, and a query is judged as a query.
#[inline(always)]
#[must_use]
pub const fn may_open(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NotAllowlisted
            | Reason::PortNotAllowed
            | Reason::ProtocolNotAllowed
            | Reason::Expired
            | Reason::Quarantined
    )
}
