//! Address hints of HTTPS and SVCB records.

use egress_warden_common::dns::{MAX_ADDRESSES, Problem};

use crate::build::{A, ASKED, Built, CNAME, HTTPS, SVCB, TO_ASKED, name};

/// A record's data: the priority, the name, the parameters.
fn service(priority: u16, target: &[u8], parameters: &[(u16, &[u8])]) -> Vec<u8> {
    let mut data = priority.to_be_bytes().to_vec();
    data.extend(target);
    for (key, value) in parameters {
        data.extend(key.to_be_bytes());
        data.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        data.extend(*value);
    }
    data
}

fn answer(data: &[u8]) -> Built {
    Built::answer(HTTPS).record(&TO_ASKED, HTTPS, 300, data)
}

const ALPN: (u16, &[u8]) = (1, b"\x02h2\x02h3");
const V4: (u16, &[u8]) = (4, &[192, 0, 2, 1, 192, 0, 2, 2]);
const V6: (u16, &[u8]) = (6, &[9; 32]);
const ITSELF: &[u8] = &[0];

#[test]
fn hints_are_found() {
    let data = service(1, ITSELF, &[ALPN, V4, V6]);
    assert_eq!(answer(&data).found(), [(1, 300), (2, 300), (9, 300), (9, 300)]);
    let answer = answer(&data).walk_answer();
    assert_eq!(answer.found()[0].address[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!(answer.found()[2].address, [9; 16]);
}

#[test]
fn both_types_and_no_other() {
    let data = service(1, ITSELF, &[V4]);
    for kind in [HTTPS, SVCB] {
        let with = |other: u16| Built::answer(kind).record(&TO_ASKED, other, 300, &data).found();
        assert_eq!(with(kind).len(), 2);
        assert_eq!(with(HTTPS + SVCB - kind), []);
    }
    assert_eq!(Built::answer(A).record(&TO_ASKED, HTTPS, 300, &data).found(), []);
}

#[test]
fn a_mapped_hint_is_told() {
    let mut mapped = [0; 16];
    (mapped[10], mapped[11]) = (0xff, 0xff);
    let answer = answer(&service(1, ITSELF, &[(6, &mapped)])).walk_answer();
    assert_eq!(answer.found()[0].mapped, 1);
}

#[test]
fn an_alias_is_not_followed() {
    assert_eq!(answer(&service(0, &name("cdn.test"), &[])).found(), []);
    assert_eq!(answer(&service(0, &name("cdn.test"), &[V4])).found(), []);
}

#[test]
fn only_of_the_name_that_counts() {
    let data = service(1, &name("other.test"), &[V4]);
    assert_eq!(answer(&data).found().len(), 2);
    assert_eq!(Built::answer(HTTPS).record(&name("other.test"), HTTPS, 300, &data).found(), []);
    let behind_an_alias = Built::answer(HTTPS).record(&TO_ASKED, CNAME, 60, &name("cdn.test")).record(
        &name("cdn.test"),
        HTTPS,
        300,
        &data,
    );
    assert_eq!(behind_an_alias.found(), [(1, 60), (2, 60)]);
}

#[test]
fn keys_ascend() {
    let problem = |parameters: &[(u16, &[u8])]| answer(&service(1, ITSELF, parameters)).answer_problem();
    assert_eq!(
        problem(&[(0, &[0, 1]), ALPN, (2, &[]), (3, &[1, 187]), V4, (5, &[7]), V6, (65535, &[])]),
        Problem::None
    );
    assert_eq!(problem(&[V4, ALPN]), Problem::Malformed);
    assert_eq!(problem(&[V4, V4]), Problem::Malformed);
    assert_eq!(problem(&[V6, V4]), Problem::Malformed);
    assert_eq!(problem(&[(65535, &[]), (65535, &[])]), Problem::Malformed);
}

#[test]
fn hints_hold_whole_addresses() {
    for (key, size) in [(4, 4), (6, 16)] {
        for length in 0..=64 {
            let problem = answer(&service(1, ITSELF, &[(key, &vec![1; length])])).answer_problem();
            let whole = length != 0 && length % size == 0;
            assert_eq!(problem == Problem::None, whole, "key {key}, {length} bytes");
        }
    }
}

#[test]
fn a_hint_does_not_reach_into_the_next_parameter() {
    // With two bytes of the next one it would be two addresses, and what is left a parameter again.
    let data = service(1, ITSELF, &[(4, &[1; 6]), (5, &[0, 6, 1, 2, 3, 4, 5, 6])]);
    assert_eq!(answer(&data).answer_problem(), Problem::Malformed);
}

#[test]
fn parameters_fill_the_record() {
    let whole = service(1, &name("cdn.test"), &[ALPN, V4]);
    assert_eq!(answer(&whole).answer_problem(), Problem::None);
    // Without any parameters it is whole as well, and so it is behind the first.
    let ends = [12, 12 + 4 + 6, whole.len()];
    for length in 0..=whole.len() {
        let problem = answer(&whole[..length]).answer_problem();
        assert_eq!(problem == Problem::None, ends.contains(&length), "{length} bytes");
        // What follows belongs to another record.
        let followed = answer(&whole[..length]).record(&TO_ASKED, A, 1, &[1; 4]).answer_problem();
        assert_eq!(followed, problem, "{length} bytes");
    }
    for extra in 1..4 {
        let data = [whole.clone(), vec![0; extra]].concat();
        assert_eq!(answer(&data).answer_problem(), Problem::Malformed);
    }
}

#[test]
fn the_name_is_not_compressed() {
    assert_eq!(answer(&service(1, &TO_ASKED, &[V4])).answer_problem(), Problem::Malformed);
    assert_eq!(answer(&service(1, b"\x01a\xc0\x0c", &[V4])).answer_problem(), Problem::Malformed);
    assert_eq!(answer(&service(1, &name(ASKED), &[V4])).answer_problem(), Problem::None);
}

#[test]
fn hints_and_records_share_the_room() {
    let hint: Vec<u8> = (0..MAX_ADDRESSES as u8).flat_map(|last| [10, 0, 0, last]).collect();
    let full = answer(&service(1, ITSELF, &[(4, &hint)]));
    assert_eq!(full.found().len(), MAX_ADDRESSES);
    assert_eq!(
        full.record(&TO_ASKED, HTTPS, 1, &service(2, ITSELF, &[V4])).answer_problem(),
        Problem::TooMany
    );
}
