//! What the kernel programs have to make of a message, from the same parts that they are made of.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, anyhow, ensure};
use egress_warden::allowlist;
use egress_warden::ruleset::{Compiled, compile};
use egress_warden_common::decide::Clock;
use egress_warden_common::dns::{Answer, MAX_MESSAGE, Message, Name, Problem, Query};
use egress_warden_common::grant::{DnsCounts, Rejection};
use egress_warden_common::limits::NAME_ROOM;
use egress_warden_common::names::{Lookup, NO_CLASS};
use egress_warden_common::{Address, Reason};

/// Names of four kinds, and where answers for them may point.
const LISTS: &str = r#"
apiVersion: egress-warden.dev/v1
kind: EgressPolicy
metadata: {name: test}
spec:
  select: {all: true}
  mode: enforce
  allow: [names]
  dns: {resolvers: [10.77.2.2/32, "fd77:2::2/128"], ttl: {min: 10s, max: 10m}}
---
apiVersion: egress-warden.dev/v1
kind: Destinations
metadata: {name: names}
spec:
  to:
    - {domains: ["*.any.test"], ports: [443], why: wherever it points}
    - {domains: ["*.some.test"], resolvesTo: [128.0.0.0/2, "8000::/2"], ports: [443], why: there only}
    - {domains: ["*.over.test"], ports: [443], expires: 2020-01-01T00:00:00Z, why: over}
"#;

/// Where names are asked for: three that the policy speaks of, and one that it does not.
pub(crate) const ZONES: [[&str; 2]; 4] =
    [["any", "test"], ["some", "test"], ["over", "test"], ["other", "test"]];

/// A point in time behind the deadline.
pub(crate) struct Today;

pub(crate) const TODAY: u64 = 2_000_000_000;

impl Clock for Today {
    fn unix_seconds(&self) -> u64 {
        TODAY
    }
}

/// Labels of a suffix that may be a resolver library's.
const SEARCH_LABELS: usize = 6;
const SECOND: u64 = 1_000_000_000;

/// A query that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    id: u16,
    kind: u16,
    name: u64,
}

/// What a message comes to.
#[derive(Debug)]
pub(crate) struct Expected {
    /// The application, or the resolver, gets it.
    pub(crate) passes: bool,
    /// Of a query.
    pub(crate) reason: Option<Reason>,
    pub(crate) waiting: Option<Waiting>,
    pub(crate) counts: DnsCounts,
    /// Addresses that become open, and for how many nanoseconds.
    pub(crate) grants: BTreeMap<[u8; 16], u64>,
    /// The name's class, where there are any.
    pub(crate) class: u32,
}

impl Expected {
    fn new(passes: bool) -> Expected {
        let (waiting, counts) = (None, DnsCounts::EMPTY);
        Expected { passes, reason: None, waiting, counts, grants: BTreeMap::new(), class: NO_CLASS }
    }

    fn dropped(rejection: Rejection) -> Expected {
        let mut expected = Expected::new(false);
        expected.counts.rejected[rejection as usize] = 1;
        expected
    }
}

/// The walks, whose memory is used again for every message as in the kernel.
pub(crate) struct Host {
    compiled: Compiled,
    message: Message,
    pub(crate) query: Query,
    pub(crate) answer: Box<Answer>,
}

impl Host {
    pub(crate) fn new() -> Result<Host> {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("lists.yaml"), LISTS)?;
        let set = allowlist::load(&[directory.path().to_owned()]).map_err(|errors| anyhow!("{errors:?}"))?;
        let compiled = compile(&set.policy("test").context("no policy `test`")?)?;
        Ok(Host { compiled, message: Message::new(&[]), query: Query::NEW, answer: Box::new(Answer::NEW) })
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.compiled.words
    }

    /// Begins with what the kernel has: of memory that no message touches the two have the same.
    pub(crate) fn begin_with(&mut self, message: Message, query: Query, answer: Box<Answer>) {
        (self.message, self.query, self.answer) = (message, query, answer);
    }

    /// False where the programs do not read it at all.
    fn fill(&mut self, bytes: &[u8]) -> bool {
        // What stands behind the message is left from the one before.
        self.message.length = bytes.len() as u32;
        let is_read = !bytes.is_empty() && bytes.len() <= MAX_MESSAGE;
        if is_read {
            self.message.bytes[..bytes.len()].copy_from_slice(bytes);
        }
        is_read
    }

    pub(crate) fn query(&mut self, bytes: &[u8]) -> Expected {
        self.query.reset();
        let is_read = self.fill(bytes);
        while is_read && !self.query.step(&self.message) {}
        let reason = if is_read && self.query.problem == 0 { self.judge() } else { Reason::DnsMalformed };
        let mut expected = Expected::new(reason.allows());
        expected.reason = Some(reason);
        expected.counts.allowed = reason.allows().into();
        expected.counts.search = (reason == Reason::DnsSearch).into();
        let Query { id, kind, name, .. } = self.query;
        expected.waiting = reason.allows().then_some(Waiting { id, kind, name: name.hash });
        expected
    }

    fn judge(&self) -> Reason {
        let class = self.class(&self.query.name.text, self.query.name.length as usize);
        let verdict = self.compiled.ruleset().query(&Today, class, self.query.kind, false);
        if verdict.reason == Reason::DnsName && self.is_search() { Reason::DnsSearch } else { verdict.reason }
    }

    fn is_search(&self) -> bool {
        let name = &self.query.name;
        let dots = name.characters().iter().enumerate().rev().filter(|(_, character)| **character == b'.');
        dots.take(SEARCH_LABELS).any(|(length, _)| self.class(&name.text, length) != NO_CLASS)
    }

    fn class(&self, text: &[u8; NAME_ROOM], length: usize) -> u32 {
        let mut lookup = Lookup::EMPTY;
        lookup.start(length as u32);
        while !lookup.step(&self.compiled.ruleset(), text) {}
        lookup.found()
    }

    /// An answer to the one who asked this.
    pub(crate) fn answer(&mut self, bytes: &[u8], waiting: Option<Waiting>) -> Result<Expected> {
        if !self.fill(bytes) {
            return Ok(Expected::dropped(Rejection::TooLarge));
        }
        self.answer.reset();
        while !self.answer.step(&self.message) {}
        let problem = Problem::from_number(self.answer.problem).context("no such problem")?;
        ensure!(problem == Problem::None || self.answer.count == 0, "{problem:?}, and still addresses");
        match problem {
            Problem::None => {}
            Problem::TooLarge | Problem::TooMany => return Ok(Expected::dropped(Rejection::TooLarge)),
            _ => return Ok(Expected::dropped(Rejection::Malformed)),
        }
        let Answer { id, kind, name: Name { hash, .. }, .. } = *self.answer;
        if waiting != Some(Waiting { id, kind, name: hash }) {
            let names_nothing = self.answer.answers == 0;
            return Ok(if names_nothing {
                Expected::new(true)
            } else {
                Expected::dropped(Rejection::Unsolicited)
            });
        }
        let mut expected = Expected::new(true);
        expected.counts.truncated = (self.answer.truncated != 0).into();
        expected.class = self.class(&self.answer.name.text, self.answer.name.length as usize);
        if expected.class != NO_CLASS {
            self.open(&mut expected);
        }
        Ok(expected)
    }

    fn open(&self, expected: &mut Expected) {
        let ruleset = self.compiled.ruleset();
        for found in self.answer.found() {
            if found.mapped != 0 || !ruleset.may_point(expected.class, Address::from_bytes(found.address)) {
                expected.counts.rejected[Rejection::Address as usize] += 1;
                continue;
            }
            let life = u64::from(ruleset.life(found.ttl)) * SECOND;
            let longest = expected.grants.entry(found.address).or_default();
            *longest = life.max(*longest);
        }
        expected.counts.grants = expected.grants.len() as u64;
    }
}
