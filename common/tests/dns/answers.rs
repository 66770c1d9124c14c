//! Answers: header, question, and which records count.

use egress_warden_common::dns::{Answer, MAX_ADDRESSES, MAX_MESSAGE, Message, Problem};
use proptest::prelude::*;

use crate::build::{A, AAAA, ASKED, Built, CNAME, HTTPS, IN, NS, OPT, SVCB, TO_ASKED, TXT, name, pointer};

const ADDRESS: [u8; 4] = [192, 0, 2, 1];

/// With one address.
fn plain() -> Built {
    Built::answer(A).record(&TO_ASKED, A, 300, &ADDRESS)
}

#[test]
fn one_address() {
    let answer = plain().walk_answer();
    assert_eq!((answer.id, answer.kind, answer.code, answer.truncated), (0x1234, A, 0, 0));
    assert_eq!((answer.answers, answer.count, answer.problem), (1, 1, 0));
    assert_eq!(answer.name.characters(), ASKED.as_bytes());
    let [found] = answer.found() else { panic!("{:?}", answer.found()) };
    assert_eq!(found.address, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
    assert_eq!((found.ttl, found.mapped), (300, 0));
}

#[test]
fn ipv6_addresses() {
    let mut global = [0; 16];
    (global[0], global[1], global[15]) = (0x20, 0x01, 7);
    let mut mapped = [0; 16];
    (mapped[10], mapped[11], mapped[15]) = (0xff, 0xff, 7);
    let built = Built::answer(AAAA).record(&TO_ASKED, AAAA, 5, &global).record(&TO_ASKED, AAAA, 6, &mapped);
    let answer = built.walk_answer();
    let found: Vec<_> = answer.found().iter().map(|found| (found.address, found.mapped)).collect();
    assert_eq!(found, [(global, 0), (mapped, 1)]);
}

#[test]
fn only_addresses_of_the_kind_that_was_asked_for() {
    let both = |kind| {
        Built::answer(kind).record(&TO_ASKED, A, 1, &ADDRESS).record(&TO_ASKED, AAAA, 1, &[9; 16]).found()
    };
    assert_eq!(both(A), [(1, 1)]);
    assert_eq!(both(AAAA), [(9, 1)]);
    for kind in [0, NS, CNAME, TXT, OPT, SVCB, HTTPS, 255, 256] {
        assert_eq!(both(kind), [], "type {kind}");
    }
}

#[test]
fn an_address_has_the_size_of_its_kind() {
    for (kind, size) in [(A, 4), (AAAA, 16)] {
        for length in 0..24 {
            let built = Built::answer(kind).record(&TO_ASKED, kind, 1, &vec![1; length]);
            assert_eq!(
                built.answer_problem() == Problem::None,
                length == size,
                "type {kind}, {length} bytes"
            );
        }
    }
}

#[test]
fn only_records_of_the_internet() {
    for class in [0, 3, 4, 254, 255, 0x0101, 0x8001] {
        assert_eq!(Built::answer(A).record_of_class(&TO_ASKED, A, class, &ADDRESS).found(), [], "{class}");
        let question = Built::answer(A);
        let at = question.here() - 2;
        assert_eq!(question.set(at, class).answer_problem(), Problem::OtherClass, "{class}");
    }
    assert_eq!(Built::answer(A).record_of_class(&TO_ASKED, A, IN, &ADDRESS).found(), [(1, 60)]);
}

#[test]
fn only_the_answer_section() {
    let other = Built::answer(A).authority(&TO_ASKED, A, &ADDRESS).additional(&TO_ASKED, A, &ADDRESS);
    assert_eq!(other.found(), []);
    assert_eq!(
        plain().authority(&TO_ASKED, A, &[9; 4]).additional(&TO_ASKED, A, &[9; 4]).found(),
        [(1, 300)]
    );
    let alias = Built::answer(A).record(&name("cdn.test"), A, 1, &ADDRESS).additional(
        &TO_ASKED,
        CNAME,
        &name("cdn.test"),
    );
    assert_eq!(alias.found(), []);
}

#[test]
fn the_top_bit_of_a_time_to_live_makes_it_none() {
    for (ttl, counts) in [(0, 0), (0x7fff_ffff, 0x7fff_ffff), (0x8000_0000, 0), (u32::MAX, 0)] {
        assert_eq!(Built::answer(A).record(&TO_ASKED, A, ttl, &ADDRESS).found(), [(1, counts)]);
    }
}

#[test]
fn no_address_where_the_query_failed() {
    for code in 1..16 {
        let answer = plain().set(2, 0x8180 | code).walk_answer();
        assert_eq!((answer.code, answer.count, answer.problem), (code, 0, 0));
    }
    // EDNS has eight bits more of it.
    let answer = plain().edns(0x0100_0000, &[]).walk_answer();
    assert_eq!((answer.code, answer.count, answer.problem), (16, 0, 0));
    let answer = plain().set(2, 0x8183).edns(0x0100_0000, &[]).walk_answer();
    assert_eq!((answer.code, answer.count), (19, 0));
    assert_eq!(plain().edns(0x00ff_ffff, &[0, 10, 0, 2, 1, 2]).found(), [(1, 300)]);
}

#[test]
fn edns_of_the_root_and_once() {
    assert_eq!(plain().edns(0, &[]).edns(0, &[]).answer_problem(), Problem::Malformed);
    assert_eq!(plain().additional(&TO_ASKED, OPT, &[]).answer_problem(), Problem::Malformed);
    // Behind an alias all records are looked at again, and it is still one.
    let alias = Built::answer(A).record(&TO_ASKED, CNAME, 1, &name("cdn.test")).edns(0, &[]);
    assert_eq!(alias.answer_problem(), Problem::None);
}

#[test]
fn an_answer_is_an_answer() {
    let allowed = 0x07ff;
    for bit in (0..16).map(|shift| 1 << shift) {
        let problem = plain().set(2, 0x8000 ^ bit).answer_problem();
        let expected = if allowed & bit != 0 { Problem::None } else { Problem::NotAnAnswer };
        assert_eq!(problem, expected, "{bit:#06x}");
    }
    for count in [0, 2, 0x0100, u16::MAX] {
        assert_eq!(plain().set(4, count).answer_problem(), Problem::NotOneQuestion);
    }
}

#[test]
fn whatever_is_cut_off_is_missed() {
    let whole = plain()
        .authority(&TO_ASKED, NS, &name("ns.test"))
        .additional(&name("ns.test"), A, &[9; 4])
        .edns(0, &[0, 10, 0, 2, 1, 2]);
    assert_eq!(whole.found(), [(1, 300)]);
    for length in 0..whole.here() {
        let cut = Built(whole.0[..length].to_vec());
        assert_eq!(cut.answer_problem(), Problem::Malformed, "{length} bytes");
    }
    assert_eq!(whole.bytes(&[0]).answer_problem(), Problem::Malformed);
    assert_eq!(plain().set(6, 2).answer_problem(), Problem::Malformed);
    assert_eq!(plain().set(6, 0).answer_problem(), Problem::Malformed);
    assert_eq!(plain().set(10, u16::MAX).answer_problem(), Problem::Malformed);
}

#[test]
fn what_says_that_it_is_cut_off_may_end_behind_a_record() {
    let truncated = plain().set(2, 0x8380);
    let behind_one = truncated.here();
    let whole =
        truncated.record(&TO_ASKED, A, 300, &[192, 0, 2, 2]).authority(&TO_ASKED, NS, &name("ns.test"));
    for length in 0..whole.here() {
        let cut = Built(whole.0[..length].to_vec());
        let answer = cut.walk_answer();
        let addresses = match length {
            33.. if length == behind_one - 16 => 0,
            _ if length == behind_one => 1,
            _ if length == behind_one + 16 => 2,
            _ => {
                assert_eq!(answer.problem, Problem::Malformed as u32, "{length} bytes");
                continue;
            }
        };
        assert_eq!((answer.problem, answer.count, answer.truncated), (0, addresses, 1), "{length} bytes");
    }
    assert_eq!(whole.bytes(&[0]).answer_problem(), Problem::Malformed);
}

#[test]
fn as_many_addresses_as_there_is_room_for() {
    let with = |count: usize| {
        (0..count)
            .fold(Built::answer(A), |built, index| built.record(&TO_ASKED, A, 1, &[10, 0, 0, index as u8]))
    };
    let all: Vec<(u8, u32)> = (0..MAX_ADDRESSES).map(|index| (index as u8, 1)).collect();
    assert_eq!(with(MAX_ADDRESSES).found(), all);
    assert_eq!(with(MAX_ADDRESSES + 1).answer_problem(), Problem::TooMany);
}

#[test]
fn messages_up_to_the_longest() {
    let filled = |length: usize| {
        let rest = length - plain().here() - 12;
        let built = plain().additional(&TO_ASKED, TXT, &vec![7; rest]);
        assert_eq!(built.here(), length);
        built
    };
    assert_eq!(filled(MAX_MESSAGE).found(), [(1, 300)]);
    assert_eq!(filled(MAX_MESSAGE + 1).answer_problem(), Problem::TooLarge);
}

#[test]
fn an_alias_and_four_addresses_take_few_steps() {
    let mut built = Built::answer(A);
    let alias = built.here() + 12;
    built = built.record(&TO_ASKED, CNAME, 300, &name("cdn.files.index-cdn.test"));
    for last in 1..=4 {
        built = built.record(&pointer(alias), A, 60, &[192, 0, 2, last]);
    }
    let (message, mut answer) = (Message::new(&built.edns(0, &[]).0), Box::new(Answer::NEW));
    let steps = (1..).find(|_| answer.step(&message)).unwrap();
    assert_eq!(answer.count, 4);
    assert!(steps <= 12, "{steps} steps");
}

#[test]
fn what_would_take_too_long_is_refused() {
    // Every owner differs from the asked name in its last label only, which each comparison gets to.
    let label = "x".repeat(60);
    let long = |end: &str| name(&format!("{label}.{label}.{label}.{end}"));
    let mut built = Built::new(0x8180, &long("aaaa"), A);
    let decoy = built.here();
    built = built.record(&long("aaab"), A, 1, &ADDRESS);
    while built.here() + 16 <= MAX_MESSAGE {
        built = built.record(&pointer(decoy), A, 1, &ADDRESS);
    }
    assert_eq!(built.answer_problem(), Problem::TooMany);
}

proptest! {
    #[test]
    fn any_bytes_are_walked_to_an_end(mut bytes in prop::collection::vec(any::<u8>(), 12..400)) {
        bytes[2] &= 0x87;
        bytes[2] |= 0x80;
        (bytes[4], bytes[5]) = (0, 1);
        Built(bytes).answer_problem();
    }

    #[test]
    fn a_message_that_was_changed_anywhere_is_walked_to_an_end(
        at in 0_usize..120,
        byte in any::<u8>(),
    ) {
        let mut built = Built::answer(A)
            .record(&TO_ASKED, CNAME, 9, &[&b"\x03cdn"[..], &pointer(18)].concat())
            .record(&pointer(46), A, 9, &ADDRESS)
            .edns(0, &[]);
        let at = at % built.here();
        built.0[at] = byte;
        built.answer_problem();
    }
}
