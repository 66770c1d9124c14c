//! What a query asks for.

use super::name::{BAD, MORE, NAME_STEPS, READY, Spelling};
use super::{CLASS_IN, HEADER, MAX_MESSAGE, Message, Name, Problem, TYPE_OPT};

/// Bytes of EDNS options that a query may carry: room for a cookie, a client's subnet, and little else.
pub const MAX_OPTIONS: u16 = 64;
/// Bytes of an option without content.
const OPTION: u32 = 4;
/// Steps that any query takes at most: the header and the name, the record behind it, and its options.
pub const QUERY_STEPS: u32 = 1 + NAME_STEPS + 1 + MAX_OPTIONS as u32 / OPTION + 1;

/// Flags that a query may have: recursion desired, authentic data, checking disabled.
const FLAGS: u16 = 0x0130;

/// Walks a query: one question, nothing before its name, and behind it at most an EDNS record.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Query {
    /// The query's number.
    pub id: u16,
    /// The type that it asks for.
    pub kind: u16,
    /// Number of the [`Problem`].
    pub problem: u32,
    phase: u32,
    /// Additional records: none, or one.
    additional: u32,
    /// Offset of what comes next.
    at: u32,
    /// Offset of the message's end.
    end: u32,
    spelling: Spelling,
    /// The name that it asks for.
    pub name: Name,
}

/// Nothing more to do: what memory of zeros says that nobody has prepared.
const DONE: u32 = 0;
const BEGIN: u32 = 1;
const QUESTION: u32 = 2;
const ADDITIONAL: u32 = 3;
const OPTIONS: u32 = 4;

impl Query {
    /// Nothing was walked.
    pub const NEW: Query = Query {
        id: 0,
        kind: 0,
        problem: 0,
        phase: BEGIN,
        additional: 0,
        at: 0,
        end: 0,
        spelling: Spelling::NEW,
        name: Name::ROOT,
    };

    /// As new, for the next message.
    #[inline(always)]
    pub const fn reset(&mut self) {
        self.phase = BEGIN;
        self.name.reset();
    }

    /// One step. True when the walk is done, after [`QUERY_STEPS`] at the latest.
    #[inline(always)]
    pub fn step(&mut self, message: &Message) -> bool {
        match self.phase {
            BEGIN => self.begin(message),
            QUESTION => self.question(message),
            ADDITIONAL => self.additional(message),
            OPTIONS => self.option(message),
            _ => {}
        }
        self.phase == DONE
    }

    #[inline(always)]
    const fn fail(&mut self, problem: Problem) {
        self.problem = problem as u32;
        self.phase = DONE;
    }

    #[inline(always)]
    fn begin(&mut self, message: &Message) {
        (self.kind, self.problem) = (0, 0);
        if message.length > MAX_MESSAGE as u32 || message.length < HEADER {
            self.id = 0;
            let is_short = message.length < HEADER;
            return self.fail(if is_short { Problem::Malformed } else { Problem::TooLarge });
        }
        self.id = message.two(0);
        self.end = message.length;
        self.additional = u32::from(message.two(10));
        if message.two(2) & !FLAGS != 0 || message.four(6) != 0 || self.additional > 1 {
            return self.fail(Problem::NotAQuery);
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
        self.at = at + 4;
        if self.at > self.end {
            return self.fail(Problem::Malformed);
        }
        if message.two(at + 2) != CLASS_IN {
            return self.fail(Problem::OtherClass);
        }
        self.phase = ADDITIONAL;
    }

    /// The one record behind the question: EDNS, of version 0, with the flag for DNSSEC or none.
    #[inline(always)]
    fn additional(&mut self, message: &Message) {
        if self.additional == 0 {
            return if self.at == self.end { self.phase = DONE } else { self.fail(Problem::Malformed) };
        }
        let (at, end) = (self.at, self.end);
        if at + 11 > end || message.byte(at) != 0 || message.two(at + 1) != TYPE_OPT {
            return self.fail(Problem::NotAQuery);
        }
        let options = message.two(at + 9);
        if message.four(at + 5) & !0x8000 != 0 || options > MAX_OPTIONS {
            return self.fail(Problem::NotAQuery);
        }
        self.at = at + 11;
        if self.at + u32::from(options) != end {
            return self.fail(Problem::Malformed);
        }
        self.phase = OPTIONS;
    }

    #[inline(always)]
    fn option(&mut self, message: &Message) {
        let (at, end) = (self.at, self.end);
        if at == end {
            self.phase = DONE;
            return;
        }
        let next = at + OPTION + u32::from(message.two(at + 2));
        if next > end {
            return self.fail(Problem::Malformed);
        }
        self.at = next;
    }
}
