use std::net::{IpAddr, Ipv4Addr};

use egress_warden_common::decide::{Clock, UNSYNCHRONISED};
use egress_warden_common::limits::{MAX_CLASSES, MAX_NAMES};
use egress_warden_common::reason::IPPROTO_TCP;
use egress_warden_common::ruleset::{
    FLAG_DNS, FLAG_OWN_RESOLVERS, HEADER_WORDS, LENGTH, NAME_CLASSES, NAME_TARGETS, NAMES, RAW_WORDS,
};
use egress_warden_common::{Facts, Reason, Route, decide};
use ipnet::{IpNet, Ipv4Net};

use super::testing::{name_rule, policy, rule};
use super::*;
use crate::allowlist::{Action, Scope};
use crate::policy::{Deny, Dns, NameRule, PortRange, Quarantine, Rule};

struct NoClock;

impl Clock for NoClock {
    fn unix_seconds(&self) -> u64 {
        UNSYNCHRONISED
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn tcp_rule(cidrs: Vec<IpNet>, first: u16, last: u16) -> Rule {
    let ports = vec![PortRange { protocol: IPPROTO_TCP, first, last }];
    Rule { cidrs, ports, ..rule("internal", 12, &[], &[]) }
}

fn too_much(policy: &Policy) -> (Figure, usize) {
    match compile(policy) {
        Err(CompileError::TooLarge { figure, found, .. }) => (figure, found),
        other => panic!("{other:?}"),
    }
}

#[test]
fn neighbours_with_the_same_class_share_a_boundary() {
    let whole = compile(&policy(vec![tcp_rule(vec![net("10.0.0.0/24")], 443, 443)])).unwrap();
    let halves = vec![net("10.0.0.128/25"), net("10.0.0.0/25"), net("10.0.0.7/32")];
    let halves = compile(&policy(vec![tcp_rule(halves, 443, 443)])).unwrap();
    assert_eq!(whole.words, halves.words);
    // The same in every process and on every machine; it changes with the layout only.
    assert_eq!([whole.hash(), halves.hash()], [0xb7f8_018f_7bec_4f30; 2]);
    assert_eq!((whole.usage.v4_boundaries, whole.usage.v6_boundaries), (3, 1));
    assert_eq!((whole.usage.classes, whole.usage.intervals), (2, 1));
}

#[test]
fn an_empty_policy_refuses_both_families() {
    let compiled = compile(&policy(Vec::new())).unwrap();
    for destination in ["0.0.0.0", "255.255.255.255", "::2", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
        let facts = Facts {
            destination: destination.parse::<IpAddr>().unwrap().into(),
            protocol: IPPROTO_TCP,
            port: 443,
            route: Route::Uplink,
            host_namespace: false,
            reply: false,
            to_node: false,
            quarantined: false,
            own_resolver: false,
        };
        let verdict = decide(&compiled.ruleset(), &NoClock, &facts);
        assert_eq!((verdict.reason, verdict.rule), (Reason::NotAllowlisted, NO_RULE));
    }
}

#[test]
fn rule_numbers_can_be_told_to_a_person() {
    let mut policy = policy(vec![tcp_rule(vec![net("10.0.0.0/8")], 443, 443)]);
    policy.deny.push(Deny { origin: None, cidr: net("169.254.169.254/32"), why: "instance metadata".into() });
    let compiled = compile(&policy).unwrap();
    let allowing = compiled.rule(0).unwrap();
    assert_eq!(allowing.kind, RuleKind::Allow);
    assert_eq!(allowing.to_string(), "lists.yaml:12:5 (internal): object store");
    let refusing = compiled.rule(1).unwrap();
    assert_eq!(refusing.kind, RuleKind::Deny);
    assert_eq!(refusing.to_string(), "built-in: instance metadata");
    assert_eq!((compiled.rule(2), compiled.rule(NO_RULE)), (None, None));
}

#[test]
fn quarantine_rules_stand_in_the_header_and_are_limited() {
    let quarantine = |violations| Quarantine {
        origin: rule("x", 3, &[], &[]).origin,
        violations,
        within_ns: 60_000_000_000,
        action: Action::Isolate,
        scope: Scope::Pod,
        release: None,
    };
    let mut policy = policy(Vec::new());
    policy.quarantine = vec![quarantine(20), quarantine(256)];
    let compiled = compile(&policy).unwrap();
    let read: Vec<_> = (0..5).map(|index| compiled.ruleset().quarantine(index)).collect();
    assert_eq!(read, [Some((20, 60_000_000_000)), Some((256, 60_000_000_000)), None, None, None]);

    policy.quarantine = vec![quarantine(1); 5];
    assert_eq!(too_much(&policy), (Figure::QuarantineRules, 5));
    policy.quarantine = vec![quarantine(257)];
    assert_eq!(too_much(&policy), (Figure::Violations, 257));
}

#[test]
fn what_does_not_fit_is_refused_with_figure_limit_and_policy() {
    let many = (0..u32::from(u16::MAX)).map(|index| {
        let cidr = Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 + index * 2), 32).unwrap();
        tcp_rule(vec![cidr.into()], index as u16, index as u16)
    });
    let mut rules: Vec<Rule> = many.collect();
    let compiled = compile(&policy(rules.clone())).unwrap();
    assert_eq!(compiled.usage.classes, MAX_CLASSES as usize);
    rules.push(tcp_rule(vec![net("fd00::/8")], 1, 2));
    let error = compile(&policy(rules)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "policy.yaml:7:1: policy `training` is too large: different sets of ports: 65537 or more, the limit is 65536; \
         give the same ports to more of its entries, or put entries with equal ports into one"
    );

    let ports =
        (0..5_000).map(|index| PortRange { protocol: IPPROTO_TCP, first: index * 2, last: index * 2 });
    let rule = Rule { ports: ports.collect(), ..tcp_rule(vec![net("10.0.0.0/8")], 0, 0) };
    assert_eq!(too_much(&policy(vec![rule])), (Figure::IntervalsOfClass, 5_000));

    let every_other = (0..600_000).map(|index| Ipv4Net::new(Ipv4Addr::from(index * 2), 32).unwrap().into());
    let policy = policy(vec![tcp_rule(every_other.collect(), 1, 1)]);
    assert_eq!(too_much(&policy), (Figure::V4Boundaries, 1_200_000));
}

#[test]
fn raw_protocols_stand_in_the_words_and_cost_nothing_where_there_are_none() {
    let plain = policy(vec![rule("internal", 4, &["10.0.0.0/8"], &[443])]);
    let opening = Policy { raw: [1, 58, 64, 254].into(), ..plain.clone() };
    let (plain, opening) = (compile(&plain).unwrap(), compile(&opening).unwrap());
    assert_eq!(opening.words.len(), plain.words.len() + RAW_WORDS as usize);
    assert_eq!(opening.words[LENGTH as usize], opening.words.len() as u64);
    for protocol in 0..=u8::MAX {
        assert!(!plain.ruleset().opens_raw(protocol));
        assert_eq!(opening.ruleset().opens_raw(protocol), [1, 58, 64, 254].contains(&protocol), "{protocol}");
    }
    assert_ne!(opening.hash(), plain.hash());
}

fn named(names: Vec<NameRule>) -> Policy {
    Policy { names, dns: Dns { judged: true, ..Dns::default() }, ..policy(Vec::new()) }
}

#[test]
fn a_ruleset_without_names_has_nothing_of_them() {
    let plain = compile(&policy(vec![rule("internal", 4, &["10.0.0.0/8"], &[443])])).unwrap();
    let header = &plain.words[NAMES as usize..HEADER_WORDS as usize];
    assert!(header.iter().all(|word| *word == 0), "{header:?}");
    assert_eq!(plain.ruleset().flags(), Some(0));
    assert_eq!((plain.class_of_name("a.example"), plain.ruleset().asks(1)), (NO_CLASS, false));
    let dns = Dns { judged: true, resolvers: Some(vec![net("10.0.0.53/32")]), ..Dns::default() };
    let judged = compile(&Policy { dns, ..policy(Vec::new()) }).unwrap();
    assert_eq!(judged.ruleset().flags(), Some(FLAG_DNS));
    assert_eq!(judged.class_of_name("a.example"), NO_CLASS);
    let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
    let resolver = |text| judged.ruleset().is_resolver(address(text));
    assert_eq!([resolver("10.0.0.53"), resolver("10.0.0.54"), resolver("::")], [true, false, false]);
    assert_eq!([1, 28, 64, 65, 16].map(|kind| judged.ruleset().asks(kind)), [true, true, true, true, false]);
}

#[test]
fn rules_of_names_stand_between_those_of_addresses_and_refusals() {
    let mut policy = named(vec![name_rule("models", 20, &["a.example", "*.b.example"], &[443])]);
    policy.rules.push(rule("internal", 4, &["10.0.0.0/8"], &[443]));
    policy.deny.push(Deny { origin: None, cidr: net("192.0.2.0/24"), why: "nothing lives there".into() });
    let compiled = compile(&policy).unwrap();
    let told: Vec<String> = compiled.rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "lists.yaml:4:5 (internal): object store",
            "lists.yaml:20:5 (models): registry",
            "built-in: nothing lives there"
        ]
    );
    for name in ["a.example", "x.b.example"] {
        let class = compiled.class_of_name(name);
        assert_eq!(compiled.ruleset().query(&NoClock, class, 1, false).rule, 1, "{name}");
    }
    assert_eq!((compiled.usage.names, compiled.usage.point_sets), (2, 1));
    assert_eq!(compiled.ruleset().flags(), Some(FLAG_DNS | FLAG_OWN_RESOLVERS));
    assert_eq!([0, 60, 7200].map(|ttl| compiled.ruleset().life(ttl)), [30, 60, 3600]);
}

#[test]
fn equal_classes_of_names_are_stored_once() {
    let names: Vec<String> = (0..1000).map(|number| format!("host-{number}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let compiled = compile(&named(vec![name_rule("models", 20, &names, &[443])])).unwrap();
    assert_eq!(compiled.usage.names, 1000);
    assert_eq!(compiled.words[NAME_CLASSES as usize] as u32, 1);
    assert_eq!(compiled.words[NAME_TARGETS as usize] as u32, 1);
    assert_eq!(compiled.usage.classes, 2);
}

#[test]
fn too_many_names_are_refused_with_figure_and_limit() {
    let many =
        |count: u32| -> Vec<String> { (0..count).map(|number| format!("h{number}.example")).collect() };
    let whole = NameRule { names: many(MAX_NAMES), ..name_rule("models", 20, &[], &[443]) };
    let compiled = compile(&named(vec![whole.clone()])).unwrap();
    assert_eq!(compiled.usage.fullest(), (Figure::Names, MAX_NAMES as usize));
    assert!(compiled.class_of_name(&whole.names[65_000]) != NO_CLASS);
    let more = NameRule { names: many(MAX_NAMES + 1), ..whole };
    assert_eq!(too_much(&named(vec![more])), (Figure::Names, MAX_NAMES as usize + 1));

    let half = NameRule { names: many(MAX_NAMES / 2 + 1), ..name_rule("models", 20, &[], &[443]) };
    let mut searching = named(vec![half]);
    searching.dns.search.insert("svc.test".to_owned());
    assert_eq!(too_much(&searching), (Figure::Names, MAX_NAMES as usize + 2));

    let resolving = |count: u8, name: fn(u8) -> String| {
        let rules = (0..count).map(|number| NameRule {
            resolves_to: Some(vec![Ipv4Net::new(Ipv4Addr::new(10, number, 0, 0), 16).unwrap().into()]),
            ..name_rule("models", 20, &[&name(number)], &[443])
        });
        named(rules.collect())
    };
    assert!(compile(&resolving(8, |_| "a.example".to_owned())).is_ok());
    assert_eq!(too_much(&resolving(9, |_| "a.example".to_owned())), (Figure::NameTargets, 9));
    assert!(compile(&resolving(62, |number| format!("a{number}.example"))).is_ok());
    assert_eq!(too_much(&resolving(63, |number| format!("a{number}.example"))), (Figure::PointSets, 63));
    let mut asking = named(Vec::new());
    asking.dns.types = (1..=65).collect();
    assert_eq!(too_much(&asking), (Figure::QueryTypes, 65));
}
