//! Records of names: queries that wait for their answer, and the addresses that answers opened.

use crate::limits::{GRANT_NAMES, NAME_ROOM, PENDING_NS, PENDING_SETS, PENDING_WAYS, REFUSED_NAMES};

/// A query on its way.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Pending {
    /// Boot time in nanoseconds when it was asked; 0 when the place is free, [`PENDING_BUSY`] while it is being written.
    pub asked: u64,
    /// Cookie of the socket that asked.
    pub cookie: u64,
    /// Hash of the name that was asked for.
    pub name: u64,
    /// The query's identification.
    pub id: u16,
    /// The query's type.
    pub kind: u16,
    /// Zero.
    pub reserved: u32,
}

/// Stands for the time of a query that a processor is writing.
pub const PENDING_BUSY: u64 = u64::MAX;

/// Does a query still wait, that was asked at `asked`? Both are boot times in nanoseconds.
#[inline(always)]
#[must_use]
pub const fn is_pending(asked: u64, now: u64) -> bool {
    asked != 0 && asked != PENDING_BUSY && now.saturating_sub(asked) < PENDING_NS
}

/// The queries of one workload. A table of its own, so that no workload can push out another's queries.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Pendings {
    /// [`crate::state::Binding::serial`] of the slot that it belongs to.
    pub serial: u32,
    /// Zero.
    pub reserved: u32,
    /// Names that were refused less than a minute ago, as [`refused_mark`] writes them, each at a place of its own.
    pub refused: [u64; REFUSED_NAMES],
    /// Sets of ways; the set is chosen by socket and identification.
    pub sets: [[Pending; PENDING_WAYS]; PENDING_SETS],
}

/// What stands for a refused name: which, and in which minute. An application asks again and again; that is one violation a
/// minute to the threshold of a quarantine.
#[inline(always)]
#[must_use]
pub const fn refused_mark(name: u64, now: u64) -> u64 {
    (name & !0x00ff_ffff) | (now / 60_000_000_000) & 0x00ff_ffff
}

/// The place of a refused name.
#[inline(always)]
#[must_use]
pub const fn refused_place(name: u64) -> usize {
    (name ^ name >> 32) as usize % REFUSED_NAMES
}

/// The set in which a query stands.
#[inline(always)]
#[must_use]
pub const fn pending_set(cookie: u64, id: u16) -> usize {
    let mixed = (cookie ^ (id as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 48) as usize % PENDING_SETS
}

/// Key of an address that answers opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct GrantKey {
    /// The address, in network byte order.
    pub address: [u8; 16],
    /// Slot of the workload.
    pub slot: u32,
    /// [`crate::state::Binding::serial`] of the slot: a grant is not the next workload's.
    pub serial: u32,
}

/// For which names an address is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Grant {
    /// 1 while a processor writes, else 0.
    pub turn: u64,
    /// The names.
    pub names: [Granted; GRANT_NAMES],
}

/// One of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Granted {
    /// Hash of the name, by which its text is found; 0 when the place is free.
    pub name: u64,
    /// Boot time in nanoseconds when it was opened first.
    pub since: u64,
    /// Boot time in nanoseconds up to which it is open.
    pub until: u64,
    /// The class of the name, in the ruleset of this generation. In another one the name has to be looked up again. Both are
    /// one aligned word, which is written in one store. [`crate::names::NO_CLASS`]: it opens nothing, under any ruleset, and is
    /// remembered so that records can say which name led there.
    pub class: u32,
    /// [`crate::state::Binding::generation`] of that ruleset.
    pub generation: u32,
}

/// Key of a name that an answer opened addresses for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct NameKey {
    /// Hash of the name.
    pub hash: u64,
    /// Slot of the workload.
    pub slot: u32,
    /// [`crate::state::Binding::serial`] of the slot.
    pub serial: u32,
}

/// Its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GrantedName {
    /// Boot time in nanoseconds up to which some address may be open for it.
    pub until: u64,
    /// Boot time in nanoseconds of the last answer.
    pub heard: u64,
    /// Characters of the text.
    pub length: u32,
    /// Zero.
    pub reserved: u32,
    /// Lower case, without a closing dot; zeros behind it.
    pub text: [u8; NAME_ROOM],
}

/// What was counted of DNS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DnsCounts {
    /// Queries that were let through.
    pub allowed: u64,
    /// Queries for an allowed name under a search suffix, refused: nobody's violation.
    pub search: u64,
    /// Answers that were cut short by their server.
    pub truncated: u64,
    /// Addresses that were opened, those that were only remembered until then left out.
    pub grants: u64,
    /// Answers, and addresses of answers, that opened nothing, by [`Rejection`].
    pub rejected: [u64; Rejection::SLOTS],
}

impl DnsCounts {
    /// Of a workload that asked nothing.
    pub const EMPTY: Self =
        Self { allowed: 0, search: 0, truncated: 0, grants: 0, rejected: [0; Rejection::SLOTS] };
}

/// Why an answer, or an address in it, opened nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum Rejection {
    /// Nobody waits for it: wrong socket, identification, name or type, too late, or a second time.
    Unsolicited = 0,
    /// It did not come by the way on which the resolver is reached.
    Way = 1,
    /// It cannot be read to the end.
    Malformed = 2,
    /// More bytes, names or addresses than are read.
    TooLarge = 3,
    /// Several datagrams in one piece.
    Merged = 4,
    /// The address is not where this name may point.
    Address = 5,
    /// No room: the workload's quota or the table is full, or too many names share an address.
    Quota = 6,
}

impl Rejection {
    /// Room for the counters.
    pub const SLOTS: usize = 8;

    /// Every one, in the order of its number.
    pub const ALL: &'static [Self] = &[
        Self::Unsolicited,
        Self::Way,
        Self::Malformed,
        Self::TooLarge,
        Self::Merged,
        Self::Address,
        Self::Quota,
    ];

    /// The name used in metrics and documentation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unsolicited => "unsolicited",
            Self::Way => "way",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Merged => "merged",
            Self::Address => "address",
            Self::Quota => "quota",
        }
    }
}

const _: () = {
    assert!(size_of::<Pending>() == 32);
    assert!(size_of::<GrantKey>() == 24);
    assert!(size_of::<Granted>() == 32);
    assert!(size_of::<Grant>() == 8 + 32 * GRANT_NAMES);
    assert!(size_of::<NameKey>() == 16);
    assert!(size_of::<GrantedName>() == 24 + NAME_ROOM);
    assert!(size_of::<DnsCounts>() == 96);
    assert!(
        PENDING_SETS.is_power_of_two() && PENDING_WAYS.is_power_of_two() && GRANT_NAMES.is_power_of_two()
    );
    assert!(crate::ABI_VERSION == 6);
};
