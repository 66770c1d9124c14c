//! The reader of rulesets and the verdict, on words written by hand. The compiler's own tests are in the agent.

use std::net::IpAddr;

use egress_warden_common::decide::{Clock, UNSYNCHRONISED};
use egress_warden_common::ruleset::{
    CLASS_DENY, CLASS_INTERVALS, CLASSES, Covering, FLAG_LOOPBACK_ALLOW, FLAG_LOOPBACK_DENY, FLAGS,
    FLAGS_MARK, FOREVER, HEADER_WORDS, INTERVALS, NO_RULE, QUARANTINE, Ruleset, V4, V6, VERSION,
    interval_key,
};
use egress_warden_common::{Address, Facts, Reason, Route, decide};
use proptest::prelude::*;

const TCP: u8 = 6;
const UDP: u8 = 17;
const GRE: u8 = 47;

struct FixedClock(Option<u64>);

impl Clock for FixedClock {
    fn unix_seconds(&self) -> u64 {
        self.0.unwrap_or(UNSYNCHRONISED)
    }
}

/// A clock that must not be asked.
struct NoClock;

impl Clock for NoClock {
    fn unix_seconds(&self) -> u64 {
        panic!("nothing has a deadline here")
    }
}

fn interval(protocol: u8, first: u16, last: u16, rule: u64, allow_until: u64, keep_until: u64) -> [u64; 4] {
    let ports = u64::from(interval_key(protocol, first)) << 32 | u64::from(last) << 16;
    [ports, rule, allow_until, keep_until]
}

/// 10.0.0.0/8 and fd00::/8: TCP 443 for ever and kept, TCP 8080 to 8090 until second 100, UDP 53 until second 0;
/// 10.9.0.0/16 and fdff::/16 are refused by rule 9.
fn words(flags: u64) -> Vec<u64> {
    let intervals = [
        interval(TCP, 443, 443, 1, FOREVER, FOREVER),
        interval(TCP, 8080, 8090, 2, 100, 50),
        interval(UDP, 53, 53, 3, 0, 0),
    ];
    let v4 = [(0, 0), (0x0a00_0000, 1), (0x0a09_0000, 2), (0x0a0a_0000, 1), (0x0b00_0000, 0)];
    let v6 = [(0, 0), (0xfd00, 1), (0xfdff, 2), (0xfe00, 0)];
    let classes = [0, CLASS_INTERVALS << 56 | (intervals.len() as u64) << 32, CLASS_DENY << 56 | 9];

    let mut words = vec![0; HEADER_WORDS as usize];
    words[0] = VERSION;
    words[FLAGS as usize] = FLAGS_MARK | flags;
    let mut part = |index: u32, count: usize, content: Vec<u64>| {
        words[index as usize] = (words.len() as u64) << 32 | count as u64;
        words.extend(content);
    };
    part(V4, v4.len(), v4.iter().map(|(start, class)| start << 32 | class).collect());
    part(V6, v6.len(), v6.iter().flat_map(|(start, class)| [start << 48, 0, *class]).collect());
    part(CLASSES, classes.len(), classes.to_vec());
    part(INTERVALS, intervals.len(), intervals.concat());
    words
}

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn facts(to: &str, protocol: u8, port: u16) -> Facts {
    Facts {
        destination: address(to),
        protocol,
        port,
        route: Route::Uplink,
        host_namespace: false,
        reply: false,
        to_node: false,
        quarantined: false,
        own_resolver: false,
    }
}

fn verdict(flags: u64, clock: &impl Clock, facts: &Facts) -> (Reason, u32) {
    let words = words(flags);
    let verdict = decide(&Ruleset::new(words.as_slice(), 0), clock, facts);
    (verdict.reason, verdict.rule)
}

#[test]
fn each_address_has_the_class_that_began_last() {
    let words = words(0);
    let ruleset = Ruleset::new(words.as_slice(), 0);
    let class = |to| ruleset.class(address(to)).expect("the ruleset is whole");
    let denied = |to| (class(to).kind() == CLASS_DENY).then(|| class(to).rule());
    for (to, covered) in [
        ("0.0.0.0", false),
        ("9.255.255.255", false),
        ("10.0.0.0", true),
        ("10.255.255.255", true),
        ("11.0.0.0", false),
        ("255.255.255.255", false),
        ("::", false),
        ("fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false),
        ("fd00::", true),
        ("fdfe:ffff::1", true),
        ("fe00::", false),
        ("ffff::", false),
    ] {
        assert_eq!(class(to).kind() == CLASS_INTERVALS, covered, "{to}");
    }
    assert_eq!(denied("10.9.255.255"), Some(9));
    assert_eq!(denied("::ffff:10.9.0.0"), Some(9));
    assert_eq!(denied("fdff::"), Some(9));
}

#[test]
fn ports_beside_an_interval_name_the_protocol_that_misses() {
    let words = words(0);
    let ruleset = Ruleset::new(words.as_slice(), 0);
    let Some(class) = ruleset.class(address("10.0.0.1")) else { panic!() };
    let covering = |protocol, port| ruleset.covering(class, protocol, port);
    assert!(matches!(covering(TCP, 443), Some(Covering::Interval { rule: 1, .. })));
    assert!(matches!(covering(TCP, 8090), Some(Covering::Interval { rule: 2, .. })));
    for (port, rule) in [(0, 1), (442, 1), (444, 1), (8079, 1), (8091, 2), (65535, 2)] {
        assert_eq!(covering(TCP, port), Some(Covering::OtherPort(rule)), "{port}");
    }
    assert_eq!(covering(UDP, 52), Some(Covering::OtherPort(3)));
    assert_eq!(covering(UDP, 65535), Some(Covering::OtherPort(3)));
    for protocol in [0, 1, GRE, 255] {
        assert!(matches!(covering(protocol, 0), Some(Covering::OtherProtocol(_))), "{protocol}");
    }
}

#[test]
fn deadlines_close_on_their_second_and_without_a_clock() {
    let limited = facts("10.0.0.1", TCP, 8080);
    assert_eq!(verdict(0, &FixedClock(Some(99)), &limited), (Reason::Allowed, 2));
    assert_eq!(verdict(0, &FixedClock(Some(100)), &limited), (Reason::Expired, 2));
    assert_eq!(verdict(0, &FixedClock(None), &limited), (Reason::Expired, 2));
    // A deadline of 0 has passed; it is no quarantine.
    assert_eq!(verdict(0, &FixedClock(Some(0)), &facts("10.0.0.1", UDP, 53)), (Reason::Expired, 3));
    assert_eq!(verdict(0, &NoClock, &facts("10.0.0.1", TCP, 443)), (Reason::Allowed, 1));
}

#[test]
fn quarantine_leaves_what_is_kept_and_says_so_of_the_rest() {
    let quarantined = |to, protocol, port| Facts { quarantined: true, ..facts(to, protocol, port) };
    assert_eq!(verdict(0, &NoClock, &quarantined("10.0.0.1", TCP, 443)), (Reason::Allowed, 1));
    let kept_for_a_while = quarantined("10.0.0.1", TCP, 8080);
    assert_eq!(verdict(0, &FixedClock(Some(49)), &kept_for_a_while), (Reason::Allowed, 2));
    assert_eq!(verdict(0, &FixedClock(Some(50)), &kept_for_a_while), (Reason::Quarantined, 2));
    assert_eq!(verdict(0, &NoClock, &quarantined("10.0.0.1", UDP, 53)), (Reason::Quarantined, 3));
    assert_eq!(verdict(0, &NoClock, &quarantined("10.0.0.1", TCP, 80)), (Reason::Quarantined, 1));
    assert_eq!(verdict(0, &NoClock, &quarantined("11.0.0.1", TCP, 80)), (Reason::Quarantined, NO_RULE));
    assert_eq!(verdict(0, &NoClock, &quarantined("10.9.0.1", TCP, 443)), (Reason::Denied, 9));
    let reply = Facts { reply: true, ..quarantined("11.0.0.1", TCP, 80) };
    assert_eq!(verdict(0, &NoClock, &reply), (Reason::Quarantined, NO_RULE));
    let to_node = Facts { to_node: true, ..reply };
    assert_eq!(verdict(0, &NoClock, &to_node), (Reason::Reply, NO_RULE));
    let no_reply = Facts { reply: false, ..to_node };
    assert_eq!(verdict(0, &NoClock, &no_reply), (Reason::Quarantined, NO_RULE));
}

#[test]
fn replies_are_let_out_by_the_uplink_only() {
    let reply = Facts { reply: true, ..facts("11.0.0.1", TCP, 80) };
    assert_eq!(verdict(0, &NoClock, &reply), (Reason::Reply, NO_RULE));
    let looped = Facts { route: Route::Loopback, ..reply };
    assert_eq!(verdict(FLAG_LOOPBACK_DENY, &NoClock, &looped), (Reason::LoopbackDenied, NO_RULE));
}

#[test]
fn loopback_is_open_by_policy_and_namespace() {
    let looped = |host_namespace, quarantined| Facts {
        route: Route::Loopback,
        host_namespace,
        quarantined,
        ..facts("127.0.0.1", TCP, 80)
    };
    let open = (Reason::Loopback, NO_RULE);
    let shut = (Reason::LoopbackDenied, NO_RULE);
    for (flags, host_namespace, expected) in [
        (0, false, open),
        (0, true, shut),
        (FLAG_LOOPBACK_ALLOW, false, open),
        (FLAG_LOOPBACK_ALLOW, true, open),
        (FLAG_LOOPBACK_DENY, false, shut),
        (FLAG_LOOPBACK_DENY, true, shut),
    ] {
        assert_eq!(
            verdict(flags, &NoClock, &looped(host_namespace, false)),
            expected,
            "{flags} {host_namespace}"
        );
    }
    assert_eq!(verdict(0, &NoClock, &looped(false, true)), open);
    // The host's own other address, which a wide entry covers.
    let covered = Facts { destination: address("10.0.0.1"), port: 443, ..looped(true, false) };
    assert_eq!(verdict(0, &NoClock, &covered), shut);
    assert_eq!(verdict(0, &NoClock, &Facts { quarantined: true, ..covered }), (Reason::Quarantined, NO_RULE));
    let uplink = Facts { route: Route::Uplink, ..covered };
    assert_eq!(verdict(0, &NoClock, &uplink), (Reason::Allowed, 1));
}

#[test]
fn where_no_ruleset_stands_nothing_is_allowed() {
    let empty: &[u64] = &[];
    for base in [0, 1, u32::MAX] {
        let verdict = decide(&Ruleset::new(empty, base), &NoClock, &facts("10.0.0.1", TCP, 443));
        assert_eq!(verdict.reason, Reason::NoRuleset);
    }
    let zeros = [0u64; 64];
    let verdict = decide(&Ruleset::new(zeros.as_slice(), 0), &NoClock, &facts("10.0.0.1", TCP, 443));
    assert_eq!(verdict.reason, Reason::NoRuleset);
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let destination = prop_oneof![
        any::<u32>().prop_map(Address::v4),
        (0u32..1 << 25).prop_map(|low| Address::v4(0x0a00_0000 + low)),
        (any::<u64>(), any::<u64>()).prop_map(|(high, low)| Address { high, low }),
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (destination, any::<u8>(), any::<u16>(), flags).prop_map(
        |(destination, protocol, port, (looped, host_namespace, reply, to_node, quarantined))| Facts {
            destination,
            protocol,
            port,
            route: if looped { Route::Loopback } else { Route::Uplink },
            host_namespace,
            reply,
            to_node,
            quarantined,
            own_resolver: false,
        },
    )
}

/// Anything, and what may pass for a small number or for a part's place.
fn any_word() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0u64..64, (0u64..64, 0u64..64).prop_map(|(offset, count)| offset << 32 | count)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_words_make_the_reader_panic(
        words in prop::collection::vec(any_word(), 0..64),
        base in prop_oneof![0u32..64, any::<u32>()],
        facts in any_facts(),
        index in any::<u32>(),
    ) {
        let ruleset = Ruleset::new(words.as_slice(), base);
        decide(&ruleset, &FixedClock(Some(7)), &facts);
        prop_assert!(ruleset.quarantine(index).is_none_or(|(violations, _)| violations > 0));
    }

    #[test]
    fn a_ruleset_cut_short_never_allows_what_it_did_not_allow(
        facts in any_facts(),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = words(0);
        let short = &whole[..cut.index(whole.len())];
        let before = decide(&Ruleset::new(whole.as_slice(), 0), &FixedClock(None), &facts);
        let after = decide(&Ruleset::new(short, 0), &FixedClock(None), &facts);
        prop_assert!(after == before || after.reason == Reason::NoRuleset, "{before:?} {after:?}");
    }
}

#[test]
fn quarantine_rules_end_with_the_first_without_violations() {
    let mut words = words(0);
    words[QUARANTINE as usize] = 20;
    words[QUARANTINE as usize + 1] = 60;
    let ruleset = Ruleset::new(words.as_slice(), 0);
    assert_eq!((ruleset.quarantine(0), ruleset.quarantine(1)), (Some((20, 60)), None));
    assert_eq!((ruleset.quarantine(4), ruleset.quarantine(u32::MAX)), (None, None));
}
