//! Aliases, from the asked name on.

use egress_warden_common::dns::{MAX_HOPS, Problem};

use crate::build::{A, AAAA, ASKED, Built, CNAME, TO_ASKED, name};

/// A record by the names of its owner and of what it says: an alias, or the last byte of an address.
#[derive(Clone)]
enum Entry {
    Alias(&'static str, &'static str, u32),
    Address(&'static str, u8, u32),
}
use Entry::{Address, Alias};

fn built(entries: &[Entry]) -> Built {
    entries.iter().fold(Built::answer(A), |built, entry| match *entry {
        Alias(owner, target, ttl) => built.record(&name(owner), CNAME, ttl, &name(target)),
        Address(owner, last, ttl) => built.record(&name(owner), A, ttl, &[192, 0, 2, last]),
    })
}

/// What is found, whatever the order of the records; sorted.
fn found(entries: &[Entry]) -> Vec<(u8, u32)> {
    let sorted = |entries: &[Entry]| {
        let mut found = built(entries).found();
        found.sort_unstable();
        found
    };
    let expected = sorted(entries);
    let mut entries = entries.to_vec();
    permute(&mut entries, 0, &mut |order| assert_eq!(sorted(order), expected));
    expected
}

fn permute(entries: &mut [Entry], from: usize, check: &mut dyn FnMut(&[Entry])) {
    if from == entries.len() {
        return check(entries);
    }
    for index in from..entries.len() {
        entries.swap(from, index);
        permute(entries, from + 1, check);
        entries.swap(from, index);
    }
}

#[test]
fn an_alias_leads_to_addresses() {
    let entries = [Alias(ASKED, "cdn.test", 300), Address("cdn.test", 1, 60), Address("cdn.test", 2, 600)];
    assert_eq!(found(&entries), [(1, 60), (2, 300)]);
}

#[test]
fn several_aliases_and_the_least_time() {
    let entries = [
        Alias(ASKED, "a.test", 300),
        Alias("a.test", "b.test", 20),
        Alias("b.test", "c.test", 400),
        Address("c.test", 1, 100),
        Address("c.test", 2, 10),
        Address("other.test", 3, 10),
    ];
    assert_eq!(found(&entries), [(1, 20), (2, 10)]);
}

#[test]
fn an_alias_without_time_leaves_none() {
    assert_eq!(found(&[Alias(ASKED, "a.test", 1 << 31), Address("a.test", 1, 100)]), [(1, 0)]);
    assert_eq!(found(&[Alias(ASKED, "a.test", 0), Address("a.test", 1, 100)]), [(1, 0)]);
}

#[test]
fn aliases_of_others_lead_nowhere() {
    let entries = [
        Alias("other.test", "cdn.test", 300),
        Address("cdn.test", 1, 60),
        Address("other.test", 2, 60),
        Alias("test", ASKED, 60),
    ];
    assert_eq!(found(&entries), []);
    let entries = [Alias("other.test", "cdn.test", 300), Address(ASKED, 1, 60), Address("cdn.test", 2, 60)];
    assert_eq!(found(&entries), [(1, 60)]);
}

#[test]
fn an_alias_has_no_addresses_of_its_own() {
    assert_eq!(
        found(&[Alias(ASKED, "a.test", 60), Address(ASKED, 1, 60), Address("a.test", 2, 60)]),
        [(2, 60)]
    );
    assert_eq!(found(&[Alias(ASKED, "a.test", 60), Address(ASKED, 1, 60)]), []);
}

#[test]
fn the_first_of_two_aliases_counts() {
    let entries = [
        Alias(ASKED, "a.test", 60),
        Alias(ASKED, "b.test", 60),
        Address("b.test", 2, 60),
        Address("a.test", 1, 60),
    ];
    assert_eq!(built(&entries).found(), [(1, 60)]);
}

#[test]
fn chains_up_to_the_longest() {
    let chain = |hops: u32| {
        let text = |hop: u32| if hop == 0 { ASKED.to_owned() } else { format!("n{hop}.test") };
        let aliases = (0..hops).map(|hop| (name(&text(hop)), CNAME, name(&text(hop + 1))));
        let mut records: Vec<_> = aliases.collect();
        records.push((name(&text(hops)), A, vec![192, 0, 2, 1]));
        records
    };
    let build = |records: &[(Vec<u8>, u16, Vec<u8>)]| {
        let add =
            |built: Built, (owner, kind, data): &(Vec<u8>, u16, Vec<u8>)| built.record(owner, *kind, 9, data);
        records.iter().fold(Built::answer(A), add)
    };
    for hops in 0..=MAX_HOPS {
        let mut records = chain(hops);
        assert_eq!(build(&records).found(), [(1, 9)], "{hops} hops");
        records.reverse();
        assert_eq!(build(&records).found(), [(1, 9)], "{hops} hops, backwards");
    }
    let mut records = chain(MAX_HOPS + 1);
    assert_eq!(build(&records).answer_problem(), Problem::LongChain);
    records.reverse();
    assert_eq!(build(&records).answer_problem(), Problem::LongChain);
}

#[test]
fn aliases_in_a_circle() {
    for circle in [
        vec![Alias(ASKED, ASKED, 60)],
        vec![Alias(ASKED, "a.test", 60), Alias("a.test", ASKED, 60)],
        vec![Alias(ASKED, "a.test", 60), Alias("a.test", "b.test", 60), Alias("b.test", "a.test", 60)],
    ] {
        permute(&mut circle.clone(), 0, &mut |order| {
            assert_eq!(built(order).answer_problem(), Problem::LongChain);
            let with = [&[Address("a.test", 1, 60), Address(ASKED, 2, 60)], order].concat();
            assert_eq!(built(&with).answer_problem(), Problem::LongChain);
        });
    }
}

#[test]
fn what_an_alias_stands_for_fills_its_record() {
    let good = name("a.test");
    let alias = |data: &[u8]| Built::answer(A).record(&TO_ASKED, CNAME, 9, data).answer_problem();
    assert_eq!(alias(&good), Problem::None);
    assert_eq!(alias(&[&good[..], &[0]].concat()), Problem::Malformed);
    for length in 0..good.len() {
        assert_eq!(alias(&good[..length]), Problem::Malformed);
    }
    // It does not go on in the next record's owner.
    let over = Built::answer(A).record(&TO_ASKED, CNAME, 9, b"\x01a").record(&[0], A, 9, &[1; 4]);
    assert_eq!(over.answer_problem(), Problem::Malformed);
    let to_itself = Built::answer(A).here() + 12;
    assert_eq!(alias(&crate::build::pointer(to_itself)), Problem::Malformed);
    assert_eq!(alias(&[0x40, 0]), Problem::Malformed);
}

#[test]
fn an_alias_may_have_bytes_that_no_policy_can_name() {
    let odd = [5, b'*', 0, b' ', 0xff, b'.', 0];
    let built = Built::answer(A).record(&TO_ASKED, CNAME, 9, &odd).record(&odd, A, 9, &[192, 0, 2, 1]);
    assert_eq!(built.found(), [(1, 9)]);
}

#[test]
fn nothing_is_found_where_only_the_alias_was_asked_for() {
    let built = Built::new(0x8180, &name(ASKED), CNAME)
        .record(&TO_ASKED, CNAME, 9, &name("a.test"))
        .record(&name("a.test"), A, 9, &[1; 4])
        .record(&name("a.test"), AAAA, 9, &[1; 16]);
    assert_eq!(built.found(), []);
}

#[test]
fn no_alias_is_followed_where_the_query_failed() {
    let built = Built::new(0x8183, &name(ASKED), A).record(&TO_ASKED, CNAME, 9, &name("a.test")).record(
        &name("a.test"),
        A,
        9,
        &[1; 4],
    );
    assert_eq!(built.found(), []);
}
