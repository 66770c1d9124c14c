//! Messages, byte for byte, and the two walks over them.

use egress_warden_common::dns::{ANSWER_STEPS, Answer, Message, Problem, QUERY_STEPS, Query};

pub(crate) const A: u16 = 1;
pub(crate) const NS: u16 = 2;
pub(crate) const CNAME: u16 = 5;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;
pub(crate) const OPT: u16 = 41;
pub(crate) const SVCB: u16 = 64;
pub(crate) const HTTPS: u16 = 65;
pub(crate) const IN: u16 = 1;

/// The asked name of most tests.
pub(crate) const ASKED: &str = "files.index.test";

/// A pointer to the asked name, which stands behind the header.
pub(crate) const TO_ASKED: [u8; 2] = [0xc0, 12];

pub(crate) fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

pub(crate) fn pointer(place: usize) -> [u8; 2] {
    (0xc000 | u16::try_from(place).unwrap()).to_be_bytes()
}

/// A message that grows.
#[derive(Clone, Debug)]
pub(crate) struct Built(pub(crate) Vec<u8>);

impl Built {
    pub(crate) fn new(flags: u16, question: &[u8], kind: u16) -> Built {
        let mut bytes = vec![0x12, 0x34];
        bytes.extend(flags.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        bytes.extend(question);
        bytes.extend(kind.to_be_bytes());
        bytes.extend(IN.to_be_bytes());
        Built(bytes)
    }

    pub(crate) fn query(text: &str, kind: u16) -> Built {
        Built::new(0x0100, &name(text), kind)
    }

    /// A successful answer for [`ASKED`].
    pub(crate) fn answer(kind: u16) -> Built {
        Built::new(0x8180, &name(ASKED), kind)
    }

    /// Where the next byte will stand.
    pub(crate) fn here(&self) -> usize {
        self.0.len()
    }

    /// Sets two bytes.
    pub(crate) fn set(mut self, at: usize, value: u16) -> Built {
        self.0[at..at + 2].copy_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Built {
        self.0.extend(bytes);
        self
    }

    /// One more in the section whose count stands there.
    fn count(mut self, at: usize) -> Built {
        let count = u16::from_be_bytes([self.0[at], self.0[at + 1]]) + 1;
        self.0[at..at + 2].copy_from_slice(&count.to_be_bytes());
        self
    }

    fn fields(mut self, owner: &[u8], kind: u16, class: u16, ttl: u32, data: &[u8]) -> Built {
        self.0.extend(owner);
        self.0.extend(kind.to_be_bytes());
        self.0.extend(class.to_be_bytes());
        self.0.extend(ttl.to_be_bytes());
        self.0.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        self.0.extend(data);
        self
    }

    /// A record of the answer section.
    pub(crate) fn record(self, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Built {
        self.count(6).fields(owner, kind, IN, ttl, data)
    }

    /// The same, of another class.
    pub(crate) fn record_of_class(self, owner: &[u8], kind: u16, class: u16, data: &[u8]) -> Built {
        self.count(6).fields(owner, kind, class, 60, data)
    }

    pub(crate) fn authority(self, owner: &[u8], kind: u16, data: &[u8]) -> Built {
        self.count(8).fields(owner, kind, IN, 60, data)
    }

    pub(crate) fn additional(self, owner: &[u8], kind: u16, data: &[u8]) -> Built {
        self.count(10).fields(owner, kind, IN, 60, data)
    }

    /// EDNS; `ttl` holds the upper bits of the code, the version and the flags.
    pub(crate) fn edns(self, ttl: u32, options: &[u8]) -> Built {
        self.count(10).fields(&[0], OPT, 1232, ttl, options)
    }

    /// The message behind which other bytes stand, as in a buffer that was used before.
    fn message(&self) -> Message {
        let mut message = Message::new(&self.0);
        message.bytes.iter_mut().skip(self.0.len()).for_each(|byte| *byte = 0xc0);
        message
    }

    pub(crate) fn walk_answer(&self) -> Box<Answer> {
        let message = self.message();
        let mut answer = Box::new(used());
        answer.reset();
        let steps = (1..).find(|_| answer.step(&message)).unwrap();
        assert!(steps <= ANSWER_STEPS, "{steps} steps");
        assert!(answer.step(&message), "it is done, and stays so");
        answer
    }

    pub(crate) fn walk_query(&self) -> Query {
        let message = self.message();
        let mut query = Query::NEW;
        let used = Built::query("what.was.here.before", AAAA).message();
        while !query.step(&used) {}
        query.reset();
        let steps = (1..).find(|_| query.step(&message)).unwrap();
        assert!(steps <= QUERY_STEPS, "{steps} steps");
        assert!(query.step(&message), "it is done, and stays so");
        query
    }

    /// The problem that the answer's walk ends with.
    pub(crate) fn answer_problem(&self) -> Problem {
        let answer = self.walk_answer();
        let problem = Problem::from_number(answer.problem).unwrap();
        assert!(problem == Problem::None || answer.found().is_empty());
        problem
    }

    pub(crate) fn query_problem(&self) -> Problem {
        Problem::from_number(self.walk_query().problem).unwrap()
    }

    /// The IPv4 addresses that the answer's walk finds, by their last byte, and their times to live.
    pub(crate) fn found(&self) -> Vec<(u8, u32)> {
        let answer = self.walk_answer();
        assert_eq!(answer.problem, Problem::None as u32);
        answer.found().iter().map(|found| (found.address[15], found.ttl)).collect()
    }
}

/// A walk of another answer, of which nothing may be left over.
fn used() -> Answer {
    let mut answer = Answer::NEW;
    let message = Built::new(0x8383, &name("what.was.here.before"), AAAA)
        .record(&TO_ASKED, CNAME, 1, &[0xc0, 17])
        .edns(0x0100_0000, &[])
        .message();
    while !answer.step(&message) {}
    answer
}
