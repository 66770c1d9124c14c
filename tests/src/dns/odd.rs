//! Answers of every shape to one question: unusual ones that are right, and ones that are wrong in a single way.

use std::net::Ipv4Addr;

/// The question that they answer, as [`question`] asks it.
pub const NAME: &str = "files.index.test";
/// Its number.
pub const ID: u16 = 0x0dd0;

const A: u16 = 1;
const CNAME: u16 = 5;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const IN: u16 = 1;
const CHAOS: u16 = 3;
/// A response to a standard query, recursion desired and available.
const RESPONSE: u16 = 0x8180;
/// A pointer to the name of the question, which follows the header.
const ASKED: &[u8] = &[0xc0, 12];
/// A pointer to `index.test` in it.
const INDEX_TEST: &[u8] = &[0xc0, 12 + 6];
/// Where the first record begins.
const FIRST: u8 = 12 + 18 + 4;

/// One answer.
#[derive(Clone, Debug)]
pub struct Odd {
    /// What is odd about it.
    pub what: &'static str,
    /// The address in it, which is in no other.
    pub address: Ipv4Addr,
    /// The message.
    pub bytes: Vec<u8>,
    /// Whether a client may rely on it, so that the address must be reachable.
    pub right: bool,
}

/// The question, with the letters of its name in both cases.
#[must_use]
pub fn question() -> Vec<u8> {
    let mut bytes = header(0x0100, [1, 0, 0, 0]);
    bytes.extend(entry(&name("FiLeS.iNdEx.TeSt"), A, IN));
    bytes
}

/// Every answer.
#[must_use]
pub fn answers() -> Vec<Odd> {
    let address = |number: usize| Ipv4Addr::new(11, 77, 10, u8::try_from(number).unwrap_or(u8::MAX));
    let make = |(number, (what, right, build)): (usize, &(&'static str, bool, Build))| {
        let address = address(number);
        Odd { what, address, bytes: build(address.octets()), right: *right }
    };
    RIGHT.iter().chain(NAMES).chain(RECORDS).chain(HEADERS).enumerate().map(make).collect()
}

type Build = fn([u8; 4]) -> Vec<u8>;

/// Unusual and right.
const RIGHT: &[(&str, bool, Build)] = &[
    ("a pointer to the question", true, |to| answer(&[&record(ASKED, A, IN, &to)])),
    ("the name written out", true, |to| answer(&[&record(&name(NAME), A, IN, &to)])),
    ("the name in other letters", true, |to| answer(&[&record(&name("fILES.INDEX.tEST"), A, IN, &to)])),
    ("the name half a pointer", true, |to| {
        answer(&[&record(&[&label("files"), INDEX_TEST].concat(), A, IN, &to)])
    }),
    ("a pointer to a pointer", true, |to| {
        answer(&[&record(ASKED, TXT, IN, b"\x01x"), &record(&[0xc0, FIRST], A, IN, &to)])
    }),
    ("a chain of two aliases with compressed targets", true, |to| {
        let first = record(ASKED, CNAME, IN, &[&label("one"), INDEX_TEST].concat());
        // The target of the first record begins after its fixed part.
        let one = [0xc0, FIRST + 12];
        let second = record(&one, CNAME, IN, &name("two.cdn.test"));
        answer(&[&first, &second, &record(&name("two.cdn.test"), A, IN, &to)])
    }),
    ("another kind of record first", true, |to| {
        answer(&[&record(ASKED, TXT, IN, b"\x04text"), &record(ASKED, A, IN, &to)])
    }),
    ("the question in small letters", true, |to| {
        let mut bytes = header(RESPONSE, [1, 1, 0, 0]);
        bytes.extend(entry(&name(NAME), A, IN));
        bytes.extend(record(ASKED, A, IN, &to));
        bytes
    }),
];

/// Names that lead nowhere, or to somebody else.
const NAMES: &[(&str, bool, Build)] = &[
    ("a pointer to itself", false, |to| answer(&[&record(&[0xc0, FIRST], A, IN, &to)])),
    ("a pointer forward", false, |to| answer(&[&record(&[0xc0, FIRST + 20], A, IN, &to)])),
    ("a pointer out of the message", false, |to| answer(&[&record(&[0xff, 0xff], A, IN, &to)])),
    ("a pointer into the header", false, |to| answer(&[&record(&[0xc0, 0], A, IN, &to)])),
    ("two pointers in a circle", false, |to| {
        let owner = [0xc0, FIRST + 12];
        answer(&[&record(&owner, CNAME, IN, &[0xc0, FIRST]), &record(&owner, A, IN, &to)])
    }),
    ("a label of a reserved kind", false, |to| answer(&[&record(&[0x41, b'x', 0], A, IN, &to)])),
    ("a label longer than the message", false, |to| answer(&[&record(&[63, b'x', 0], A, IN, &to)])),
    ("a name of more than 255 bytes", false, |to| {
        let long: Vec<u8> = (0..5).flat_map(|_| label(&"x".repeat(63))).chain([0]).collect();
        answer(&[&record(&long, A, IN, &to)])
    }),
    ("another name", false, |to| answer(&[&record(&name("refused.test"), A, IN, &to)])),
    ("a name below", false, |to| answer(&[&record(&[&label("x"), ASKED].concat(), A, IN, &to)])),
    ("the name above", false, |to| answer(&[&record(INDEX_TEST, A, IN, &to)])),
    ("the root", false, |to| answer(&[&record(&[0], A, IN, &to)])),
    ("an alias of another name", false, |to| {
        let alias = record(&name("refused.test"), CNAME, IN, &name("two.cdn.test"));
        answer(&[&alias, &record(&name("two.cdn.test"), A, IN, &to)])
    }),
    ("an alias of itself, then another name", false, |to| {
        answer(&[&record(ASKED, CNAME, IN, ASKED), &record(&name("two.cdn.test"), A, IN, &to)])
    }),
];

/// Records that are not what they say.
const RECORDS: &[(&str, bool, Build)] = &[
    ("a record of another class", false, |to| answer(&[&record(ASKED, A, CHAOS, &to)])),
    ("an address one byte short", false, |to| answer(&[&record(ASKED, A, IN, &to[..3])])),
    ("an address one byte long", false, |to| answer(&[&record(ASKED, A, IN, &[&to[..], &[0]].concat())])),
    ("an IPv4 address as an IPv6 one", false, |to| answer(&[&record(ASKED, AAAA, IN, &to)])),
    ("a record cut off before its data", false, |to| {
        let whole = answer(&[&record(ASKED, A, IN, &to)]);
        whole[..whole.len() - 4].to_vec()
    }),
    ("data longer than the message", false, |to| {
        let mut bytes = answer(&[&record(ASKED, A, IN, &to)]);
        let length = bytes.len();
        bytes[length - 6..length - 4].copy_from_slice(&[0xff, 0xff]);
        bytes
    }),
    ("an address in the authority section", false, |to| sections([1, 0, 1, 0], &to)),
    ("an address in the additional section", false, |to| sections([1, 0, 0, 1], &to)),
];

/// Messages that answer something else, or nothing.
const HEADERS: &[(&str, bool, Build)] = &[
    ("a question instead of an answer", false, |to| flagged(0x0100, &to)),
    ("an answer to another kind of operation", false, |to| flagged(RESPONSE | 5 << 11, &to)),
    ("no question", false, |to| {
        let mut bytes = header(RESPONSE, [0, 1, 0, 0]);
        bytes.extend(record(&name(NAME), A, IN, &to));
        bytes
    }),
    ("two questions", false, |to| {
        let mut bytes = header(RESPONSE, [2, 1, 0, 0]);
        bytes.extend(entry(&name(NAME), A, IN));
        bytes.extend(entry(&name("refused.test"), A, IN));
        bytes.extend(record(ASKED, A, IN, &to));
        bytes
    }),
    ("another name in the question", false, |to| asked(&name("refused.test"), A, IN, &to)),
    ("another class in the question", false, |to| asked(&name(NAME), A, CHAOS, &to)),
    ("another number", false, |to| {
        let mut bytes = answer(&[&record(ASKED, A, IN, &to)]);
        bytes[1] ^= 1;
        bytes
    }),
    ("only a header", false, |_| header(RESPONSE, [1, 1, 0, 0])),
    ("half a header", false, |_| header(RESPONSE, [1, 1, 0, 0])[..6].to_vec()),
];

fn answer(records: &[&[u8]]) -> Vec<u8> {
    let count = u16::try_from(records.len()).unwrap_or(u16::MAX);
    let mut bytes = header(RESPONSE, [1, count, 0, 0]);
    bytes.extend(entry(&name("FiLeS.iNdEx.TeSt"), A, IN));
    bytes.extend(records.concat());
    bytes
}

fn sections(counts: [u16; 4], to: &[u8]) -> Vec<u8> {
    let mut bytes = answer(&[&record(ASKED, A, IN, to)]);
    bytes[..12].copy_from_slice(&header(RESPONSE, counts));
    bytes
}

fn flagged(flags: u16, to: &[u8]) -> Vec<u8> {
    let mut bytes = answer(&[&record(ASKED, A, IN, to)]);
    bytes[..12].copy_from_slice(&header(flags, [1, 1, 0, 0]));
    bytes
}

fn asked(of: &[u8], kind: u16, class: u16, to: &[u8]) -> Vec<u8> {
    let mut bytes = header(RESPONSE, [1, 1, 0, 0]);
    bytes.extend(entry(of, kind, class));
    bytes.extend(record(&name(NAME), A, IN, to));
    bytes
}

fn header(flags: u16, counts: [u16; 4]) -> Vec<u8> {
    let [questions, answers, authorities, additionals] = counts;
    [ID, flags, questions, answers, authorities, additionals].map(u16::to_be_bytes).concat()
}

fn entry(owner: &[u8], kind: u16, class: u16) -> Vec<u8> {
    [owner, &kind.to_be_bytes(), &class.to_be_bytes()].concat()
}

/// A record that is good for five minutes.
fn record(owner: &[u8], kind: u16, class: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    [&entry(owner, kind, class)[..], &300_u32.to_be_bytes(), &length.to_be_bytes(), data].concat()
}

fn name(text: &str) -> Vec<u8> {
    text.split('.').flat_map(label).chain([0]).collect()
}

fn label(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap_or(u8::MAX)], text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use hickory_proto::op::Message;

    use super::*;
    use crate::dns::message::addresses_in;

    #[test]
    fn the_right_ones_are_right_and_lead_to_their_address() {
        for odd in answers().iter().filter(|odd| odd.right) {
            let read = Message::from_vec(&odd.bytes).unwrap_or_else(|error| panic!("{}: {error}", odd.what));
            assert_eq!(addresses_in(&read), [IpAddr::V4(odd.address)], "{}", odd.what);
            assert_eq!(read.metadata.id, ID);
        }
    }

    #[test]
    fn the_pointers_lead_where_they_say() {
        let message = answer(&[&record(&name("x"), A, IN, &[0; 4])]);
        assert_eq!(message[usize::from(INDEX_TEST[1])], 5, "the label `index`");
        assert_eq!(message[usize::from(FIRST)..][..2], [1, b'x']);
    }
}
