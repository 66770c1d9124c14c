//! Queries.

use egress_warden_common::dns::{MAX_MESSAGE, MAX_NAME, Message, NAME_ROOM, Problem, Query, hash};
use proptest::prelude::*;

use crate::build::{A, AAAA, ASKED, Built, HTTPS, OPT, TO_ASKED, TXT, name};

#[test]
fn a_plain_query() {
    let query = Built::query(ASKED, AAAA).walk_query();
    assert_eq!((query.id, query.kind, query.problem), (0x1234, AAAA, 0));
    assert_eq!(query.name.characters(), ASKED.as_bytes());
    assert_eq!(query.name.hash, hash(ASKED.as_bytes()));
}

#[test]
fn the_hash_is_the_published_one() {
    assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
}

#[test]
fn letters_of_either_case_are_the_same_name() {
    let (mixed, plain) = (Built::query("FiLeS.iNdEx.TEST", A), Built::query(ASKED, A));
    assert_eq!(mixed.walk_query().name, plain.walk_query().name);
}

#[test]
fn nothing_stands_behind_a_name_in_text() {
    let query = Built::query("a.b", A).walk_query();
    assert_eq!(query.name.characters(), b"a.b");
    assert!(query.name.text[3..].iter().all(|byte| *byte == 0));
}

#[test]
fn the_root_is_a_name_without_characters() {
    let query = Built::query("", A).walk_query();
    assert_eq!((query.problem, query.name.length, query.name.hash), (0, 0, hash(b"")));
    assert_eq!(query.kind, A);
}

#[test]
fn names_up_to_the_longest() {
    let label = "x".repeat(59);
    for spare in 0..=16 {
        let text = format!("{label}.{label}.{label}.{}", "y".repeat(MAX_NAME - 180 - spare));
        assert_eq!(text.len(), MAX_NAME - spare);
        let query = Built::query(&text, A).edns(0, &[]).walk_query();
        assert_eq!(query.problem, 0, "{} characters", text.len());
        assert_eq!(query.name.characters(), text.as_bytes());
        assert_eq!(query.name.hash, hash(text.as_bytes()));
    }
    for over in 1..=13 {
        let text = format!("{label}.{label}.{label}.{}.{}", "y".repeat(46 + over), "z".repeat(13));
        assert_eq!(text.len(), MAX_NAME + over);
        assert_eq!(Built::query(&text, A).query_problem(), Problem::Malformed);
    }
    // Labels of one letter: as many dots as there can be.
    let text = ["a"; 120].join(".");
    assert_eq!(Built::query(&text, A).walk_query().name.characters(), text.as_bytes());
}

#[test]
fn only_characters_that_a_policy_can_name() {
    for byte in 0..=u8::MAX {
        let query = Built::new(0x0100, &[3, b'a', byte, b'b', 0], A).walk_query();
        let allowed = byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        assert_eq!(query.problem == 0, allowed, "{byte:#04x}");
        if allowed {
            assert_eq!(query.name.characters(), [b'a', byte.to_ascii_lowercase(), b'b']);
        }
    }
}

#[test]
fn no_label_is_longer_than_63_and_none_is_a_pointer() {
    let good = Built::query(&"x".repeat(63), A);
    assert_eq!(good.query_problem(), Problem::None);
    for first in 64..=u8::MAX {
        let bytes = [vec![first], vec![b'x'; first.into()], vec![0]].concat();
        assert_eq!(Built::new(0x0100, &bytes, A).query_problem(), Problem::Malformed, "{first}");
        let bytes = [vec![1, b'a', first], vec![b'x'; first.into()], vec![0]].concat();
        assert_eq!(Built::new(0x0100, &bytes, A).query_problem(), Problem::Malformed, "{first}");
    }
}

#[test]
fn whatever_is_cut_off_is_missed() {
    let whole = Built::query(ASKED, A).edns(0x8000, &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(whole.query_problem(), Problem::None);
    for length in 0..whole.here() {
        assert_ne!(Built(whole.0[..length].to_vec()).query_problem(), Problem::None, "{length} bytes");
    }
    assert_eq!(whole.bytes(&[0]).query_problem(), Problem::Malformed);
    assert_eq!(Built::query(ASKED, A).bytes(&[0]).query_problem(), Problem::Malformed);
}

#[test]
fn messages_up_to_the_longest() {
    let filled = |length: usize| {
        let whole = Built::query(ASKED, A).bytes(&vec![0; length]);
        Built(whole.0[..length].to_vec()).query_problem()
    };
    assert_eq!(filled(MAX_MESSAGE), Problem::Malformed);
    assert_eq!(filled(MAX_MESSAGE + 1), Problem::TooLarge);
}

#[test]
fn flags_that_no_query_has() {
    // Recursion desired, authentic data, checking disabled.
    let allowed = 0x0130;
    for bit in (0..16).map(|shift| 1 << shift) {
        let problem = Built::query(ASKED, A).set(2, bit).query_problem();
        assert_eq!(problem == Problem::None, allowed & bit != 0, "{bit:#06x}");
    }
    assert_eq!(Built::query(ASKED, A).set(2, allowed).query_problem(), Problem::None);
}

#[test]
fn one_question_and_nothing_else() {
    let query = || Built::query(ASKED, A);
    for count in [0, 2, 0x0100, u16::MAX] {
        assert_eq!(query().set(4, count).query_problem(), Problem::NotOneQuestion);
    }
    let two = query().bytes(&name(ASKED)).bytes(&[0, 1, 0, 1]).set(4, 2);
    assert_eq!(two.query_problem(), Problem::NotOneQuestion);
    assert_eq!(query().record(&TO_ASKED, A, 1, &[1, 2, 3, 4]).query_problem(), Problem::NotAQuery);
    assert_eq!(query().authority(&TO_ASKED, TXT, b"\x04data").query_problem(), Problem::NotAQuery);
    assert_eq!(query().additional(&TO_ASKED, TXT, b"\x04data").query_problem(), Problem::NotAQuery);
    assert_eq!(query().edns(0, &[]).edns(0, &[]).query_problem(), Problem::NotAQuery);
}

#[test]
fn only_the_internet() {
    for class in [0, 3, 4, 254, 255, 0x0101, 0x8001] {
        let query = Built::query(ASKED, A);
        let at = query.here() - 2;
        assert_eq!(query.set(at, class).query_problem(), Problem::OtherClass, "{class}");
    }
}

#[test]
fn edns_carries_little() {
    let query = |ttl: u32, options: &[u8]| Built::query(ASKED, HTTPS).edns(ttl, options).query_problem();
    let option = |length: u16| [vec![0, 10], length.to_be_bytes().to_vec(), vec![7; length.into()]].concat();
    assert_eq!(query(0, &option(8)), Problem::None);
    assert_eq!(query(0, &option(60)), Problem::None);
    assert_eq!(query(0, &option(61)), Problem::NotAQuery);
    assert_eq!(query(0, &[option(8), option(0), option(4)].concat()), Problem::None);
    assert_eq!(query(0, &option(0).repeat(16)), Problem::None);
    // The last option claims more than there is, or has not even a length.
    assert_eq!(query(0, &option(8)[..11]), Problem::Malformed);
    assert_eq!(query(0, &[option(8), vec![0, 3, 0]].concat()), Problem::Malformed);
    // The flag for DNSSEC, and no other bit.
    assert_eq!(query(0x8000, &[]), Problem::None);
    for bit in (0..32).filter(|bit| *bit != 15) {
        assert_eq!(query(1 << bit, &[]), Problem::NotAQuery, "bit {bit}");
    }
    let of_a_name = Built::query(ASKED, A).additional(&TO_ASKED, OPT, &[]).query_problem();
    assert_eq!(of_a_name, Problem::NotAQuery);
}

#[test]
fn it_takes_few_steps() {
    let bytes = Built::query(ASKED, A).edns(0, &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    let (message, mut query) = (Message::new(&bytes.0), Query::NEW);
    let steps = (1..).find(|_| query.step(&message)).unwrap();
    assert!(steps <= 8, "{steps} steps");
}

proptest! {
    #[test]
    fn any_bytes_are_walked_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let query = Built(bytes).walk_query();
        prop_assert!((query.name.length as usize) < NAME_ROOM || query.problem != 0);
    }

    #[test]
    fn every_name_that_a_policy_can_name(
        labels in prop::collection::vec("[a-zA-Z0-9_-]{1,63}", 1..8),
        kind in any::<u16>(),
    ) {
        let text = labels.join(".");
        let query = Built::query(&text, kind).walk_query();
        let text = text.to_ascii_lowercase();
        if text.len() > MAX_NAME {
            prop_assert_eq!(query.problem, Problem::Malformed as u32);
        } else {
            prop_assert_eq!(query.problem, 0);
            prop_assert_eq!(query.kind, kind);
            prop_assert_eq!(query.name.characters(), text.as_bytes());
            prop_assert_eq!(query.name.hash, hash(text.as_bytes()));
        }
    }
}
