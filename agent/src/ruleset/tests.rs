use std::net::{IpAddr, Ipv4Addr};

use egress_warden_common::decide::{Clock, UNSYNCHRONISED};
use egress_warden_common::reason::IPPROTO_TCP;
use egress_warden_common::ruleset::{LENGTH, RAW_WORDS};
use egress_warden_common::{Facts, Reason, Route, decide};
use ipnet::{IpNet, Ipv4Net};

use super::testing::{policy, rule};
use super::*;
use crate::allowlist::{Action, Scope};
use crate::policy::{Deny, PortRange, Quarantine, Rule};

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

#[test]
fn neighbours_with_the_same_class_share_a_boundary() {
    let whole = compile(&policy(vec![tcp_rule(vec![net("10.0.0.0/24")], 443, 443)])).unwrap();
    let halves = vec![net("10.0.0.128/25"), net("10.0.0.0/25"), net("10.0.0.7/32")];
    let halves = compile(&policy(vec![tcp_rule(halves, 443, 443)])).unwrap();
    assert_eq!(whole.words, halves.words);
    // The same in every process and on every machine; it changes with the layout only.
    assert_eq!([whole.hash(), halves.hash()], [0x309a_3dc2_e4e8_9eae; 2]);
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
    let error = compile(&policy).unwrap_err();
    assert_eq!((error.figure, error.found), (Figure::QuarantineRules, 5));
    policy.quarantine = vec![quarantine(257)];
    assert_eq!(compile(&policy).unwrap_err().figure, Figure::Violations);
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
    assert_eq!(error.figure, Figure::Classes);
    assert_eq!(
        error.to_string(),
        "policy.yaml:7:1: policy `training` is too large: different sets of ports: 65537 or more, the limit is 65536; \
         give the same ports to more of its entries, or put entries with equal ports into one"
    );

    let ports =
        (0..5_000).map(|index| PortRange { protocol: IPPROTO_TCP, first: index * 2, last: index * 2 });
    let rule = Rule { ports: ports.collect(), ..tcp_rule(vec![net("10.0.0.0/8")], 0, 0) };
    assert_eq!(compile(&policy(vec![rule])).unwrap_err().figure, Figure::IntervalsOfClass);

    let every_other = (0..600_000).map(|index| Ipv4Net::new(Ipv4Addr::from(index * 2), 32).unwrap().into());
    let error = compile(&policy(vec![tcp_rule(every_other.collect(), 1, 1)])).unwrap_err();
    assert_eq!((error.figure, error.found), (Figure::V4Boundaries, 1_200_000));
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
