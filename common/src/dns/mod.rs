//! The DNS walker: what a query asks for, and which addresses an answer names for it.
//!
//! [`Query`] and [`Answer`] are driven in small bounded steps: by `bpf_loop` in the kernel, by a plain loop on the host.
//! Their state is numbers in a struct that the caller keeps, for it is too large for the kernel's stack. Every index is
//! masked, so that no step can panic and the verifier sees that it stays inside.
//!
//! What does not fit is refused whole: a walk that ends with a [`Problem`] has found nothing.

mod answer;
mod name;
mod query;
mod service;
mod wire;

pub use crate::limits::{MAX_NAME, NAME_ROOM};
use core::mem::size_of;

pub use answer::{ANSWER_STEPS, Answer, Found, MAX_HOPS};
pub use name::{Name, hash};
pub use query::{MAX_OPTIONS, QUERY_STEPS, Query};

/// Bytes of the longest message that is read.
pub const MAX_MESSAGE: usize = 4096;
/// Bytes that a message has room for: some more, so that a few bytes from any place on are inside as well.
pub const MESSAGE_ROOM: usize = MAX_MESSAGE + 32;
/// Addresses of one answer.
pub const MAX_ADDRESSES: usize = 64;

/// Query type and record type: an IPv4 address.
pub const TYPE_A: u16 = 1;
/// Record type: another name for the owner.
pub const TYPE_CNAME: u16 = 5;
/// Query type and record type: an IPv6 address.
pub const TYPE_AAAA: u16 = 28;
/// Record type: EDNS.
pub const TYPE_OPT: u16 = 41;
/// Query type and record type: where a service is.
pub const TYPE_SVCB: u16 = 64;
/// Query type and record type: where a web site is.
pub const TYPE_HTTPS: u16 = 65;

/// Bytes of the header.
const HEADER: u32 = 12;
const CLASS_IN: u16 = 1;

// The kernel and the host keep the same bytes, and none that nobody sets.
const _: () = assert!(size_of::<Message>() == MESSAGE_ROOM + 8);
const _: () = assert!(size_of::<Name>() == NAME_ROOM + 16);
const _: () = assert!(size_of::<Query>() == 32 + size_of::<Name>());
const _: () = assert!(size_of::<Found>() == 24);
const _: () = assert!(size_of::<Answer>() == 160 + size_of::<Name>() + MAX_ADDRESSES * size_of::<Found>());

/// What was found wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub enum Problem {
    /// Nothing.
    None = 0,
    /// It is not what the standards describe, or a name is one that no policy can name.
    Malformed = 1,
    /// Longer than [`MAX_MESSAGE`].
    TooLarge = 2,
    /// More than [`MAX_ADDRESSES`] addresses, or more work than any honest answer makes.
    TooMany = 3,
    /// No question, or several.
    NotOneQuestion = 4,
    /// A query was expected, and this is something else, or carries more than a question.
    NotAQuery = 5,
    /// An answer was expected, and this is something else.
    NotAnAnswer = 6,
    /// Another class than the internet's was asked for.
    OtherClass = 7,
    /// More than [`MAX_HOPS`] aliases from the asked name on, or aliases that lead in a circle.
    LongChain = 8,
}

impl Problem {
    /// Every one, in the order of their numbers.
    pub const ALL: [Problem; 9] = [
        Problem::None,
        Problem::Malformed,
        Problem::TooLarge,
        Problem::TooMany,
        Problem::NotOneQuestion,
        Problem::NotAQuery,
        Problem::NotAnAnswer,
        Problem::OtherClass,
        Problem::LongChain,
    ];

    /// The one with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Problem> {
        Self::ALL.get(number as usize).copied()
    }
}

/// The bytes of a message, as they stand behind the UDP header.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Message {
    /// The bytes; what stands behind `length` is never believed.
    pub bytes: [u8; MESSAGE_ROOM],
    /// How many there are. More than [`MAX_MESSAGE`] is refused, whatever was filled in.
    pub length: u32,
    /// Nothing.
    pub reserved: u32,
}

impl Message {
    /// A message of these bytes, as far as there is room.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut message = Self { bytes: [0; MESSAGE_ROOM], length: bytes.len() as u32, reserved: 0 };
        message.bytes.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
        message
    }

    #[inline(always)]
    const fn byte(&self, at: u32) -> u8 {
        self.bytes[at as usize & (MAX_MESSAGE - 1)]
    }

    /// A few bytes from there on: fewer than there is room for behind the longest message.
    #[inline(always)]
    fn some<const N: usize>(&self, at: u32) -> [u8; N] {
        let at = at as usize & (MAX_MESSAGE - 1);
        core::array::from_fn(|index| self.bytes[at + index])
    }

    #[inline(always)]
    fn two(&self, at: u32) -> u16 {
        u16::from_be_bytes(self.some(at))
    }

    #[inline(always)]
    fn four(&self, at: u32) -> u32 {
        u32::from_be_bytes(self.some(at))
    }
}
