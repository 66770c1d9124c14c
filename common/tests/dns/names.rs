//! Names in records: compressed, compared, and not what they should be.

use egress_warden_common::dns::Problem;

use crate::build::{A, ASKED, Built, CNAME, NS, TO_ASKED, TXT, name, pointer};

const ADDRESS: [u8; 4] = [192, 0, 2, 1];
const FOUND: [(u8, u32); 1] = [(1, 300)];

/// An answer with a name in the data of a record of another kind, for others to point to, and an address of this owner.
fn answer_with(planted: &[u8], owner: impl Fn(usize) -> Vec<u8>) -> Built {
    let built = Built::answer(A);
    let at = built.here() + 12;
    built.record(&TO_ASKED, TXT, 1, planted).record(&owner(at), A, 300, &ADDRESS)
}

#[test]
fn every_way_to_write_the_asked_name() {
    let suffix = |text: &str, place: usize| [name(text).split_last().unwrap().1, &pointer(place)].concat();
    let same = [
        name(ASKED),
        name("FILES.Index.tEST"),
        TO_ASKED.to_vec(),
        suffix("files", 18),
        suffix("FILES", 18),
        suffix("files.index", 24),
        suffix("files.index.test", 29),
        suffix("Files.Index.Test", 29),
    ];
    for owner in same {
        assert_eq!(Built::answer(A).record(&owner, A, 300, &ADDRESS).found(), FOUND, "{owner:?}");
    }
    // By way of another record's data, with one pointer more.
    assert_eq!(answer_with(&TO_ASKED, |at| pointer(at).to_vec()).found(), FOUND);
    assert_eq!(answer_with(&name("index.TEST"), |at| suffix("fiLes", at)).found(), FOUND);
    assert_eq!(answer_with(&suffix("files.index", 24), |at| pointer(at).to_vec()).found(), FOUND);
    assert_eq!(answer_with(&suffix("index", 24), |at| suffix("files", at)).found(), FOUND);
}

#[test]
fn names_that_only_look_like_the_asked_one() {
    let label = |bytes: &[u8]| [&[bytes.len() as u8], bytes].concat();
    let other = [
        name("index.test"),
        name("file.index.test"),
        name("filet.index.test"),
        name("files.index.tes"),
        name("files.index.tess"),
        name("files.index.test.test"),
        name("x.files.index.test"),
        name("files.indexes.test"),
        name("iles.index.test"),
        name("files.index"),
        name(""),
        pointer(18).to_vec(),
        pointer(29).to_vec(),
        // A dot inside a label.
        [label(b"files.index"), name("test")].concat(),
        label(b"files.index.test").into_iter().chain([0]).collect(),
        // A zero inside a label.
        [label(b"files\0"), name("index.test")].concat(),
    ];
    for owner in other {
        assert_eq!(Built::answer(A).record(&owner, A, 300, &ADDRESS).found(), [], "{owner:?}");
    }
}

#[test]
fn only_ascii_letters_have_two_cases() {
    // The asked name has none of the bytes in question, so an alias does.
    for byte in 0..=u8::MAX {
        let alias = [2, b'a', byte, 0];
        for changed in [byte ^ 0x20, byte ^ 0x80, byte ^ 0x01, byte] {
            let found = Built::answer(A)
                .record(&TO_ASKED, CNAME, 300, &alias)
                .record(&[2, b'A', changed, 0], A, 300, &ADDRESS)
                .found();
            assert_eq!(found == FOUND, byte.eq_ignore_ascii_case(&changed), "{byte:#04x} {changed:#04x}");
        }
    }
}

#[test]
fn labels_of_every_length_are_compared_to_the_last_byte() {
    for length in 1..=63_usize {
        let label = "x".repeat(length);
        for last in ["x", "X", "y"] {
            let owner = name(&format!("{}{last}.test", &label[1..]));
            let built =
                Built::new(0x8180, &name(&format!("{label}.test")), A).record(&owner, A, 300, &ADDRESS);
            let expected: &[(u8, u32)] = if last == "y" { &[] } else { &FOUND };
            assert_eq!(built.found(), expected, "{length} {last}");
        }
    }
}

#[test]
fn pointers_that_lead_nowhere() {
    let bad = |owner: &[u8]| {
        let problem = Built::answer(A).record(owner, A, 300, &ADDRESS).answer_problem();
        assert_eq!(problem, Problem::Malformed, "{owner:?}");
    };
    let here = Built::answer(A).here();
    // To itself, forward, behind the end, and into the header.
    for place in [here, here + 1, here + 2, here + 12, 200, 0x3fff] {
        bad(&pointer(place));
    }
    (0..12).for_each(|place| bad(&pointer(place)));
    // Behind a label: to the label, and to the pointer itself.
    bad(&[&b"\x05files"[..], &pointer(here)].concat());
    bad(&[&b"\x05files"[..], &pointer(here + 6)].concat());
    bad(&[&b"\x05files"[..], &pointer(here + 1)].concat());
    // One that is no pointer and no label.
    for first in [0x40, 0x7f, 0x80, 0xbf] {
        bad(&[first, 12, 0]);
        bad(&[1, b'a', first, 12, 0]);
    }
}

#[test]
fn pointers_in_a_circle() {
    let circle = |planted: &dyn Fn(usize) -> Vec<u8>| {
        let at = Built::answer(A).here() + 12;
        answer_with(&planted(at), |at| pointer(at).to_vec()).answer_problem()
    };
    assert_eq!(circle(&|at| pointer(at).to_vec()), Problem::Malformed);
    assert_eq!(circle(&|at| [pointer(at + 2), pointer(at)].concat()), Problem::Malformed);
    assert_eq!(circle(&|at| [&b"\x01a"[..], &pointer(at)].concat()), Problem::Malformed);
    // What a pointer leads to ends before the labels that it stood behind.
    assert_eq!(circle(&|_| vec![20; 1]), Problem::Malformed);
    assert_eq!(circle(&|_| vec![2, b'a', b'b']), Problem::Malformed);
    assert_eq!(circle(&|_| vec![2, b'a', b'b', 0]), Problem::None);
}

#[test]
fn labels_may_not_lead_back_to_what_they_are_part_of() {
    // Read as a length, the asked name's first character leads 48 bytes on, to a pointer to the asked name.
    let mut built = Built::new(0x8180, &name("0.test"), A);
    let planted = 13 + 1 + 48 - (built.here() + 12);
    built = built.record(&TO_ASKED, TXT, 1, &[vec![b'x'; planted], TO_ASKED.to_vec()].concat());
    assert_eq!(built.clone().record(&pointer(62), A, 300, &ADDRESS).found(), FOUND);
    assert_eq!(built.record(&pointer(13), A, 300, &ADDRESS).answer_problem(), Problem::Malformed);
}

#[test]
fn names_up_to_the_longest() {
    // 255 bytes with the lengths and the closing zero: four labels in front of the asked name's 18 bytes.
    let long = |last: usize| {
        let labels = ["x".repeat(63), "x".repeat(63), "x".repeat(63), "y".repeat(last)].join(".");
        [name(&labels).split_last().unwrap().1, &TO_ASKED].concat()
    };
    assert_eq!(answer_with(&[], |_| long(44)).found(), []);
    assert_eq!(answer_with(&[], |_| long(45)).answer_problem(), Problem::Malformed);
    let plain =
        |last: usize| name(&["x".repeat(63), "x".repeat(63), "x".repeat(63), "y".repeat(last)].join("."));
    assert_eq!(answer_with(&[], |_| plain(61)).found(), []);
    assert_eq!(answer_with(&[], |_| plain(62)).answer_problem(), Problem::Malformed);
    assert_eq!(answer_with(&plain(61), |at| pointer(at).to_vec()).found(), []);
    assert_eq!(answer_with(&plain(62), |at| pointer(at).to_vec()).answer_problem(), Problem::Malformed);
    // One letter a label: as many labels as there can be.
    let narrow = ["a"; 127].join(".");
    assert_eq!(answer_with(&[], |_| name(&narrow)).found(), []);
    assert_eq!(answer_with(&[], |_| name(&format!("{narrow}.a"))).answer_problem(), Problem::Malformed);
}

#[test]
fn many_pointers_are_followed() {
    let mut built = Built::answer(A);
    let mut place = 12;
    for _ in 0..100 {
        let owner = pointer(place);
        place = built.here();
        built = built.record(&owner, NS, 1, &name("ns.test"));
    }
    assert_eq!(built.record(&pointer(place), A, 300, &ADDRESS).found(), FOUND);
}

#[test]
fn names_of_all_sections_are_checked() {
    let good = || Built::answer(A).record(&TO_ASKED, A, 300, &ADDRESS);
    let here = good().here();
    assert_eq!(good().authority(&pointer(here), NS, &name("ns.test")).answer_problem(), Problem::Malformed);
    assert_eq!(good().additional(&pointer(here), A, &ADDRESS).answer_problem(), Problem::Malformed);
    assert_eq!(good().additional(&[0x80, 0], A, &ADDRESS).answer_problem(), Problem::Malformed);
}

#[test]
fn the_question_is_not_compressed() {
    assert_eq!(Built::new(0x8180, &[0xc0, 4], A).answer_problem(), Problem::Malformed);
    assert_eq!(Built::new(0x8180, &[1, b'a', 0xc0, 12], A).answer_problem(), Problem::Malformed);
    assert_eq!(Built::new(0x8180, b"\x03a.b\x00", A).answer_problem(), Problem::Malformed);
}

#[test]
fn the_root_may_be_asked_for() {
    let built = Built::new(0x8180, &[0], A).record(&[0], A, 300, &ADDRESS).record(&TO_ASKED, A, 7, &[2; 4]);
    assert_eq!(built.found(), [(1, 300), (2, 7)]);
}
