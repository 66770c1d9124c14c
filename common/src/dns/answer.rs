//! Which addresses an answer names for what was asked.

mod records;

use super::name::{BAD, MORE, READY, Spelling};
use super::service::Parameters;
use super::wire::{Comparison, Known, Walk};
use super::{CLASS_IN, HEADER, MAX_ADDRESSES, MAX_MESSAGE, Message, Name, Problem};

/// Aliases from the asked name on.
pub const MAX_HOPS: u32 = 8;
/// Steps that any answer takes at most: what would take more is refused. An alias and four addresses take about a dozen.
pub const ANSWER_STEPS: u32 = 4096;

/// An address that was found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(C)]
pub struct Found {
    /// In network order, IPv4 mapped.
    pub address: [u8; 16],
    /// For how many seconds: the least of its record and of the aliases that led there.
    pub ttl: u32,
    /// 1 where an IPv6 record spelled a mapped IPv4 address, which no honest one does, else 0.
    pub mapped: u32,
}

impl Found {
    const MAPPED: Found =
        Found { address: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], ttl: 0, mapped: 0 };
}

/// Walks an answer: one question, then the records of all sections, of which those in the answer section count whose
/// owner is the asked name or an alias of it.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Answer {
    /// The number of the query that it answers.
    pub id: u16,
    /// The type that was asked for.
    pub kind: u16,
    /// What became of the query, with EDNS' part of it; no addresses where that is anything but success.
    pub code: u16,
    /// 1 where the message says that there is more, else 0.
    pub truncated: u16,
    /// Records that the answer section claims.
    pub answers: u32,
    /// Addresses found.
    pub count: u32,
    /// Number of the [`Problem`].
    pub problem: u32,
    phase: u32,
    steps: u32,
    /// Which record is looked at, over all sections.
    record: u32,
    /// How many there are.
    records: u32,
    /// The first of the additional section.
    additional: u32,
    /// EDNS records so far.
    edns: u32,
    /// Offset of the first record.
    first: u32,
    /// The name whose records count.
    target: Known,
    /// Aliases so far.
    hops: u32,
    /// Nothing.
    reserved: u32,
    /// The least time to live of them.
    chain_ttl: u32,
    /// Offset of the record.
    at: u32,
    record_kind: u32,
    ttl: u32,
    /// Offset of its data.
    data: u32,
    /// Offset of the next record.
    next: u32,
    spelling: Spelling,
    walk: Walk,
    comparison: Comparison,
    parameters: Parameters,
    /// The name that was asked for.
    pub name: Name,
    /// The addresses; the first `count` of them are set.
    pub addresses: [Found; MAX_ADDRESSES],
}

/// Nothing more to do: what memory of zeros says that nobody has prepared.
const DONE: u32 = 0;
const BEGIN: u32 = 1;
const QUESTION: u32 = 2;
/// At the beginning of a record, or behind the last.
const RECORD: u32 = 3;
/// Inside a record's owner.
const OWNER: u32 = 4;
/// Is the owner the target?
const COMPARE: u32 = 5;
/// It is.
const TAKE: u32 = 6;
/// Inside the name that an alias stands for.
const ALIAS: u32 = 7;
/// Inside the name of a service.
const SERVICE: u32 = 8;
/// Inside the parameters of a service.
const PARAMETERS: u32 = 9;

impl Answer {
    /// Nothing was walked.
    pub const NEW: Answer = Answer {
        id: 0,
        kind: 0,
        code: 0,
        truncated: 0,
        answers: 0,
        count: 0,
        problem: 0,
        phase: BEGIN,
        steps: 0,
        record: 0,
        records: 0,
        additional: 0,
        edns: 0,
        first: 0,
        target: Known::NEW,
        hops: 0,
        reserved: 0,
        chain_ttl: 0,
        at: 0,
        record_kind: 0,
        ttl: 0,
        data: 0,
        next: 0,
        spelling: Spelling::NEW,
        walk: Walk::NEW,
        comparison: Comparison::NEW,
        parameters: Parameters::NEW,
        name: Name::ROOT,
        addresses: [Found::MAPPED; MAX_ADDRESSES],
    };

    /// As new, for the next message.
    #[inline(always)]
    pub const fn reset(&mut self) {
        self.phase = BEGIN;
        self.steps = 0;
        self.name.reset();
    }

    /// The addresses that were found.
    #[must_use]
    pub fn found(&self) -> &[Found] {
        self.addresses.get(..self.count as usize).unwrap_or_default()
    }

    /// One step. True when the walk is done, after [`ANSWER_STEPS`] at the latest.
    #[inline(always)]
    pub fn step(&mut self, message: &Message) -> bool {
        self.steps += 1;
        if self.steps >= ANSWER_STEPS && self.phase != DONE {
            self.fail(Problem::TooMany);
        }
        // What follows in most messages comes behind in this order, so that a record takes one step.
        if self.phase == BEGIN {
            self.begin(message);
        }
        if self.phase == QUESTION {
            self.question(message);
        }
        if self.phase == RECORD {
            self.record(message);
        }
        if self.phase == OWNER || self.phase == ALIAS || self.phase == SERVICE {
            self.walk(message);
        }
        if self.phase == COMPARE {
            self.compare(message);
        }
        if self.phase == TAKE {
            self.take(message);
        }
        if self.phase == PARAMETERS {
            self.parameter(message);
        }
        self.phase == DONE
    }

    #[inline(always)]
    const fn fail(&mut self, problem: Problem) {
        self.problem = problem as u32;
        self.count = 0;
        self.phase = DONE;
    }

    #[inline(always)]
    fn begin(&mut self, message: &Message) {
        (self.kind, self.count, self.problem) = (0, 0, 0);
        if message.length > MAX_MESSAGE as u32 || message.length < HEADER {
            (self.id, self.code, self.truncated, self.answers) = (0, 0, 0, 0);
            let is_short = message.length < HEADER;
            return self.fail(if is_short { Problem::Malformed } else { Problem::TooLarge });
        }
        let flags = message.two(2);
        self.id = message.two(0);
        self.code = flags & 0x000f;
        self.truncated = flags >> 9 & 1;
        self.answers = u32::from(message.two(6));
        self.additional = self.answers + u32::from(message.two(8));
        self.records = self.additional + u32::from(message.two(10));
        if flags & 0xf800 != 0x8000 {
            return self.fail(Problem::NotAnAnswer);
        }
        if message.two(4) != 1 {
            return self.fail(Problem::NotOneQuestion);
        }
        match self.spelling.begin(message) {
            READY => self.asked(message),
            MORE => self.phase = QUESTION,
            _ => self.fail(Problem::Malformed),
        }
    }

    #[inline(always)]
    fn question(&mut self, message: &Message) {
        match self.spelling.step(&mut self.name, message) {
            READY => self.asked(message),
            BAD => self.fail(Problem::Malformed),
            _ => {}
        }
    }

    /// Type and class, behind the name.
    #[inline(always)]
    fn asked(&mut self, message: &Message) {
        let at = self.spelling.end();
        self.kind = message.two(at);
        if at + 4 > message.length {
            return self.fail(Problem::Malformed);
        }
        if message.two(at + 2) != CLASS_IN {
            return self.fail(Problem::OtherClass);
        }
        self.target = Known { at: HEADER, end: at, length: at - HEADER };
        (self.hops, self.chain_ttl) = (0, u32::MAX);
        self.first = at + 4;
        self.rewind();
    }

    /// To the first record.
    #[inline(always)]
    const fn rewind(&mut self) {
        (self.record, self.edns, self.at) = (0, 0, self.first);
        self.phase = RECORD;
    }

    #[inline(always)]
    const fn record(&mut self, message: &Message) {
        let ends_early = self.truncated != 0 && self.at == message.length;
        if self.record != self.records && !ends_early {
            self.walk.begin(self.at, message);
            self.phase = OWNER;
        } else if self.at == message.length {
            self.phase = DONE;
        } else {
            self.fail(Problem::Malformed);
        }
    }

    /// To the next record.
    #[inline(always)]
    const fn pass(&mut self) {
        self.record += 1;
        self.at = self.next;
        self.phase = RECORD;
    }

    /// Goes on in the name that is looked at; what is behind it depends on whose it is.
    #[inline(always)]
    fn walk(&mut self, message: &Message) {
        match self.walk.step(message, self.target) {
            MORE => {}
            READY if self.phase == OWNER => self.fixed(message),
            READY if self.phase == ALIAS => self.follow(),
            READY => self.serve(),
            _ => self.fail(Problem::Malformed),
        }
    }
}
