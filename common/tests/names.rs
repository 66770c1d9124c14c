//! Names in a ruleset: the lookup against a matcher that reads every pattern, over words written here by hand.

use std::collections::BTreeMap;

use egress_warden_common::decide::{Clock, UNSYNCHRONISED};
use egress_warden_common::limits::{MAX_NAME, NAME_PROBES, NAME_ROOM};
use egress_warden_common::names::{LOOKUP_STEPS, Lookup, NO_CLASS, hash, slot};
use egress_warden_common::ruleset::{
    CLASS_INTERVALS, CLASSES, FLAG_DNS, FLAGS, FLAGS_MARK, FOREVER, HEADER_WORDS, INTERVALS, NAME_CLASSES,
    NAME_ENTRIES, NAME_TARGETS, NAME_TEXTS, NAMES, NO_RULE, POINT_SETS, POINTS_V4, POINTS_V6, QUERY_TYPES,
    Ruleset, TTL, VERSION,
};
use egress_warden_common::{Address, Facts, Reason, Route, Verdict};
use proptest::prelude::*;

const TCP: u8 = 6;
/// A and AAAA.
const TYPES: [u16; 2] = [1, 28];

struct At(u64);

impl Clock for At {
    fn unix_seconds(&self) -> u64 {
        self.0
    }
}

/// Classes by pattern: numbers from 1.
type Patterns = BTreeMap<String, u32>;

// ---- Words ----

/// What stands at a name: the class of itself, and of what is below it.
fn entries(patterns: &Patterns) -> BTreeMap<&str, (u32, u32)> {
    let mut entries: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for (pattern, class) in patterns {
        match pattern.strip_prefix("*.") {
            Some(base) => entries.entry(base).or_default().1 = *class,
            None => entries.entry(pattern).or_default().0 = *class,
        }
    }
    entries
}

fn add(words: &mut Vec<u64>, part: u32, count: usize, content: impl IntoIterator<Item = u64>) {
    words[part as usize] = (words.len() as u64) << 32 | count as u64;
    words.extend(content);
}

fn text(name: &str) -> Vec<u64> {
    let mut backwards: Vec<u8> = name.bytes().rev().collect();
    backwards.resize(backwards.len().next_multiple_of(8), 0);
    backwards.chunks(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())).collect()
}

fn table(texts: &[&str], slots: usize) -> Vec<u64> {
    let mut table = vec![0; slots * 2];
    for (number, text) in texts.iter().enumerate() {
        let mut at = slot(hash(text), slots as u32) as usize;
        while table[at * 2 + 1] != 0 {
            at = (at + 1) % slots;
        }
        (table[at * 2], table[at * 2 + 1]) = (hash(text), number as u64 + 1);
    }
    table
}

/// The class number N opens TCP port N at 198.51.100.0 and above (set 0, rule N) until second 100 * N, and is kept in
/// quarantine where N is even.
fn ruleset(patterns: &Patterns) -> Vec<u64> {
    let mut words = vec![0; HEADER_WORDS as usize];
    (words[0], words[FLAGS as usize]) = (VERSION, FLAGS_MARK | FLAG_DNS);
    let entries = entries(patterns);
    let texts: Vec<&str> = entries.keys().copied().collect();
    let slots = (texts.len() * 4).next_power_of_two();
    add(&mut words, NAMES, slots, table(&texts, slots));
    let mut first = 0;
    let placed: Vec<u64> = entries
        .iter()
        .flat_map(|(name, (own, below))| {
            let place = first << 32 | name.len() as u64;
            first += name.len().div_ceil(8) as u64;
            [place, u64::from(*below) << 32 | u64::from(*own)]
        })
        .collect();
    add(&mut words, NAME_ENTRIES, texts.len(), placed);
    add(&mut words, NAME_TEXTS, first as usize, texts.iter().flat_map(|name| text(name)));
    let last = patterns.values().max().copied().unwrap_or(0);
    let until = |class: u32| u64::from(class) * 100;
    let kept = |class: u32| if class.is_multiple_of(2) { until(class) } else { 0 };
    let numbers = || 1..=last;
    let classes = numbers().flat_map(|n| [1 << 32 | u64::from(n - 1), until(n), kept(n), u64::from(n)]);
    add(&mut words, NAME_CLASSES, last as usize, classes.collect::<Vec<_>>());
    add(&mut words, NAME_TARGETS, last as usize, numbers().map(|n| u64::from(n - 1)).collect::<Vec<_>>());
    add(&mut words, POINTS_V4, 2, [0, 0xc633_6400 << 32 | 1]);
    add(&mut words, POINTS_V6, 1, [0, 0, 0]);
    add(&mut words, POINT_SETS, 2, [0, 1]);
    add(&mut words, QUERY_TYPES, TYPES.len(), TYPES.map(|kind| u64::from(kind) << 32));
    words[TTL as usize] = 30 << 32 | 3600;
    let runs = numbers().map(|n| CLASS_INTERVALS << 56 | 1 << 32 | u64::from(n - 1));
    add(&mut words, CLASSES, last as usize, runs.collect::<Vec<_>>());
    let intervals = numbers().flat_map(|n| {
        let port = u64::from(TCP) << 48 | u64::from(n) << 32 | u64::from(n) << 16;
        [port, u64::from(n), until(n), kept(n)]
    });
    add(&mut words, INTERVALS, last as usize, intervals.collect::<Vec<_>>());
    words
}

/// The class that the lookup ends with. One record of it is used again and again, as a processor's is in the kernel.
fn find(words: &[u64], lookup: &mut Lookup, name: &str) -> u32 {
    let mut room = [b'x'; NAME_ROOM];
    let kept = name.len().min(NAME_ROOM);
    room[..kept].copy_from_slice(&name.as_bytes()[..kept]);
    let ruleset = Ruleset::new(words, 0);
    lookup.start(name.len() as u32);
    let steps = (1..=LOOKUP_STEPS).find(|_| lookup.step(&ruleset, &room));
    assert!(steps.is_some(), "the lookup of {name} does not end");
    lookup.found()
}

fn found(words: &[u64], name: &str) -> u32 {
    find(words, &mut { Lookup::EMPTY }, name)
}

// ---- The matcher ----

/// The exact pattern, else the longest wildcard whose base the name lies below.
fn expected(patterns: &Patterns, name: &str) -> u32 {
    let below = |pattern: &str| {
        let base = pattern.strip_prefix("*.")?;
        name.strip_suffix(base)?.ends_with('.').then_some(base.len())
    };
    if name.len() > MAX_NAME {
        return NO_CLASS;
    }
    if let Some(class) = patterns.get(name).filter(|_| !name.starts_with("*.")) {
        return *class;
    }
    let wildcards = patterns.iter().filter_map(|(pattern, class)| Some((below(pattern)?, *class)));
    wildcards.max().map_or(NO_CLASS, |(_, class)| class)
}

fn label() -> impl Strategy<Value = String> {
    prop_oneof![8 => "[ab]{1,2}", 2 => "[a-z0-9_-]{1,9}", 1 => "[ab]{60,63}"]
}

fn base() -> impl Strategy<Value = String> {
    prop::collection::vec(label(), 1..5).prop_map(|labels| {
        let mut name = labels.join(".");
        while name.len() > MAX_NAME - 2 {
            name.pop();
        }
        name
    })
}

fn patterns() -> impl Strategy<Value = Patterns> {
    let pattern = (base(), any::<bool>());
    prop::collection::vec((pattern, 1u32..9), 1..40).prop_map(|all| {
        let wild = |(base, wildcard): (String, bool)| if wildcard { format!("*.{base}") } else { base };
        all.into_iter().map(|(pattern, class)| (wild(pattern), class)).collect()
    })
}

/// What is asked: a pattern's base, something above, below or beside it, or anything.
fn asked() -> impl Strategy<Value = (prop::sample::Index, usize, Vec<String>, String)> {
    let front = prop::collection::vec(prop_oneof![6 => label(), 1 => Just(String::new())], 0..3);
    (any::<prop::sample::Index>(), 0usize..3, front, prop_oneof![9 => Just(String::new()), 1 => "[ab.]{0,6}"])
}

fn name(patterns: &Patterns, asked: &(prop::sample::Index, usize, Vec<String>, String)) -> String {
    let (chosen, cut, front, other) = asked;
    if !other.is_empty() {
        return other.clone();
    }
    let patterns: Vec<&String> = patterns.keys().collect();
    let pattern = chosen.get(&patterns);
    let labels: Vec<&str> = pattern.strip_prefix("*.").unwrap_or(pattern).split('.').skip(*cut).collect();
    front.iter().map(String::as_str).chain(labels).collect::<Vec<_>>().join(".")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 700, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_longest_name_wins(patterns in patterns(), asked in prop::collection::vec(asked(), 30)) {
        let words = ruleset(&patterns);
        let mut lookup = Lookup::EMPTY;
        for asked in &asked {
            let name = name(&patterns, asked);
            let class = find(&words, &mut lookup, &name);
            prop_assert_eq!(class, expected(&patterns, &name), "{}", name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_ruleset_cut_short_never_allows_what_it_did_not_allow(
        patterns in patterns(),
        asked in prop::collection::vec(asked(), 10),
        cut in any::<prop::sample::Index>(),
        quarantined in any::<bool>(),
        now in 0u64..1000,
    ) {
        let words = ruleset(&patterns);
        let less = &words[..cut.index(words.len())];
        for asked in &asked {
            let name = name(&patterns, asked);
            let (whole, class) = (found(&words, &name), found(less, &name));
            let query = |words: &[u64], class| {
                Ruleset::new(words, 0).query(&At(now), class, 28, quarantined).reason.allows()
            };
            prop_assert!(!query(less, class) || query(&words, whole), "{} at {}", name, less.len());
            for port in 0..9 {
                let opens = |words: &[u64], class| by_name(words, class, port, quarantined, now).reason.allows();
                prop_assert!(!opens(less, class) || opens(&words, whole), "{}:{} at {}", name, port, less.len());
            }
        }
    }

    #[test]
    fn no_words_make_the_reader_panic(
        words in prop::collection::vec(prop_oneof![any::<u64>(), 0u64..64, (0u64..64, 0u64..64).prop_map(|(high, low)| high << 32 | low)], 0..200),
        name in "[a-b.]{0,20}",
        class in any::<u32>(),
    ) {
        for base in [0, 1, u32::MAX] {
            let ruleset = Ruleset::new(words.as_slice(), base);
            for class in [found(&words, &name), class, 1] {
                let _ = ruleset.query(&At(5), class, 1, false);
                let _ = ruleset.may_point(class, Address::v4(0x0a00_0001));
                by_name(&words, class, 443, false, 5);
            }
            let _ = ruleset.is_resolver(Address { high: 5, low: 5 });
            let _ = ruleset.life(60);
        }
    }
}

fn by_name(words: &[u64], class: u32, port: u16, quarantined: bool, now: u64) -> Verdict {
    let facts = Facts {
        destination: Address::v4(0xc633_6401),
        protocol: TCP,
        port,
        route: Route::Uplink,
        host_namespace: false,
        reply: false,
        to_node: false,
        quarantined,
        own_resolver: false,
    };
    let otherwise = Verdict { reason: Reason::NotAllowlisted, rule: NO_RULE, until: FOREVER };
    Ruleset::new(words, 0).by_name(&At(now), &facts, class, otherwise)
}

// ---- Single cases ----

fn of(patterns: &[(&str, u32)]) -> Vec<u64> {
    ruleset(&patterns.iter().map(|(pattern, class)| ((*pattern).to_owned(), *class)).collect())
}

#[test]
fn a_wildcard_is_for_what_is_below_it() {
    let words = of(&[("*.b.c", 1), ("b.c", 2), ("*.c", 3), ("x.b.c", 4)]);
    for (name, class) in [
        ("a.b.c", 1),
        ("z.a.b.c", 1),
        ("b.c", 2),
        ("ab.c", 3),
        ("x.b.c", 4),
        ("y.x.b.c", 1),
        ("c", NO_CLASS),
        ("", NO_CLASS),
        (".", NO_CLASS),
        ("b.c.", NO_CLASS),
        ("b.cc", NO_CLASS),
    ] {
        assert_eq!(found(&words, name), class, "{name}");
    }
}

#[test]
fn names_of_every_length_are_found_and_longer_ones_are_not() {
    let long = |length: usize| "abcdefg.".repeat(40)[..length].replace('.', "-");
    for length in (1..=MAX_NAME).step_by(7).chain([8, 16, 64, 239, MAX_NAME]) {
        let name = long(length);
        let words = of(&[(&name, 5)]);
        assert_eq!(found(&words, &name), 5, "{length}");
        assert_eq!(found(&words, &format!("x{}", &name[1..])), NO_CLASS, "{length}");
        assert_eq!(found(&words, &name[1..]), NO_CLASS, "{length}");
    }
    let words = of(&[("*.a", 1)]);
    let below = |length: usize| format!("{}.a", "b".repeat(length - 2));
    assert_eq!(found(&words, &below(MAX_NAME)), 1);
    assert_eq!(found(&words, &below(MAX_NAME + 1)), NO_CLASS);
    assert_eq!(found(&words, &below(NAME_ROOM + 1)), NO_CLASS);
}

#[test]
fn a_hash_is_no_proof() {
    // Two texts with one 64-bit FNV-1a hash, written backwards as names are read.
    let alike = ["kqPwB-4jIlHYKCYi0ny8", "QK3Vzy9gfqMw4MrULeRG"];
    assert_eq!(hash(alike[0]), hash(alike[1]));
    let words = of(&[("a.example", 1), (alike[1], 2)]);
    assert_eq!((found(&words, alike[1]), found(&words, alike[0])), (2, NO_CLASS));
}

#[test]
fn the_search_goes_on_beside_a_taken_slot_and_ends_somewhere() {
    let names: Vec<String> = (0..NAME_PROBES + 1).map(|number| format!("host-{number}")).collect();
    let mut words = of(&[("host-0", 3)]);
    // A table in which every slot but the right one is taken by somebody else.
    for steps in 0..=NAME_PROBES {
        let slots = 64;
        let mut table = vec![0; slots * 2];
        let first = slot(hash(&names[0]), slots as u32) as usize;
        for step in 0..steps as usize {
            table[(first + step) % slots * 2 + 1] = 1;
            table[(first + step) % slots * 2] = 7;
        }
        let place = (first + steps as usize) % slots * 2;
        (table[place], table[place + 1]) = (hash(&names[0]), 1);
        add(&mut words, NAMES, slots, table);
        let reached = if steps < NAME_PROBES { 3 } else { NO_CLASS };
        assert_eq!(found(&words, "host-0"), reached, "{steps}");
    }
}

#[test]
fn a_query_needs_name_type_time_and_in_quarantine_to_be_kept() {
    let words = of(&[("a.example", 1), ("b.example", 2)]);
    let query = |name: &str, kind, quarantined, now| {
        let verdict =
            Ruleset::new(words.as_slice(), 0).query(&At(now), found(&words, name), kind, quarantined);
        (verdict.reason, verdict.rule)
    };
    assert_eq!(query("a.example", 28, false, 99), (Reason::Allowed, 1));
    assert_eq!(query("a.example", 28, false, 100), (Reason::Expired, 1));
    assert_eq!(query("a.example", 28, false, UNSYNCHRONISED), (Reason::Expired, 1));
    for kind in [0, 2, 27, 29, 65, u16::MAX] {
        assert_eq!(query("a.example", kind, false, 99), (Reason::DnsType, 1), "{kind}");
    }
    assert_eq!(query("c.example", 28, false, 99), (Reason::DnsName, NO_RULE));
    assert_eq!(query("a.example", 28, true, 99), (Reason::Quarantined, 1));
    assert_eq!(query("b.example", 1, true, 199), (Reason::Allowed, 2));
    assert_eq!(query("c.example", 28, true, 99), (Reason::Quarantined, NO_RULE));
}

#[test]
fn what_a_name_opens_is_named_by_its_rule() {
    let words = of(&[("a.example", 1), ("b.example", 2)]);
    let verdict = |class, port, quarantined, now| {
        let verdict = by_name(&words, class, port, quarantined, now);
        (verdict.reason, verdict.rule)
    };
    assert_eq!(verdict(1, 1, false, 99), (Reason::Allowed, 1));
    assert_eq!(verdict(1, 2, false, 99), (Reason::PortNotAllowed, 1));
    assert_eq!(verdict(1, 1, false, 100), (Reason::Expired, 1));
    assert_eq!(verdict(1, 1, true, 99), (Reason::Quarantined, 1));
    assert_eq!(verdict(2, 2, true, 199), (Reason::Allowed, 2));
    assert_eq!(verdict(NO_CLASS, 1, false, 99), (Reason::NotAllowlisted, NO_RULE));
    let may = |class, address| Ruleset::new(words.as_slice(), 0).may_point(class, Address::v4(address));
    assert_eq!([may(1, 0xc633_6400), may(1, 0xc633_63ff), may(3, 0xc633_6400)], [true, false, false]);
}

#[test]
fn the_life_of_what_an_answer_opens_stays_within_its_bounds() {
    let words = of(&[("a.example", 1)]);
    let life = |ttl| Ruleset::new(words.as_slice(), 0).life(ttl);
    assert_eq!([0, 29, 30, 60, 3600, 3601, u32::MAX].map(life), [30, 30, 30, 60, 3600, 3600, 3600]);
}
