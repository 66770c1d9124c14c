//! The ruleset compiler against a reference that scans the rules one by one, through the `decide()` that the kernel
//! runs.

mod generators;
#[path = "ruleset_properties/names.rs"]
mod names;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use egress_warden::policy::{Loopback, Mode, Policy, PortRange, Rule, own_host};
use egress_warden::ruleset::{Compiled, compile};
use egress_warden_common::limits::MAX_QUARANTINE_RULES;
use egress_warden_common::ruleset::{FLAG_AUDIT, FOREVER, HEADER_WORDS, LENGTH, NO_RULE, Ruleset, VERSION};
use egress_warden_common::{Address, Facts, Reason, Route, decide};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;

use generators::{
    FixedClock, ICMP, ICMPV6, TCP, UDP, all_cidrs, bare_policy, beside, policy, port, protocol, tcp_rule,
    v4_cidr, v6_cidr,
};

// ---- The reference ----

#[derive(Debug)]
struct Expected {
    reason: Reason,
    /// Any of these may be named.
    rules: Vec<u32>,
    until: u64,
}

impl Expected {
    fn new(reason: Reason, rules: Vec<u32>) -> Self {
        Self { reason, rules, until: FOREVER }
    }
}

fn loopback_is_open(policy: &Policy, facts: &Facts) -> bool {
    match policy.loopback {
        Loopback::Allow => true,
        Loopback::Deny => false,
        Loopback::ByNamespace => !facts.host_namespace,
    }
}

/// Is it a resolver that the policy, or the workload's own configuration, names?
fn is_resolver(policy: &Policy, facts: &Facts) -> bool {
    let address = IpAddr::from(facts.destination);
    facts.own_resolver || policy.dns.resolvers.iter().flatten().any(|cidr| cidr.contains(&address))
}

fn dns(policy: &Policy, facts: &Facts) -> Expected {
    let reason = match facts.protocol {
        TCP => Reason::DnsTcp,
        _ if is_resolver(policy, facts) => Reason::Allowed,
        _ => Reason::DnsServer,
    };
    Expected::new(reason, vec![NO_RULE])
}

fn reference(policy: &Policy, facts: &Facts, now: Option<u64>) -> Expected {
    let address = IpAddr::from(facts.destination);
    let looped = facts.route == Route::Loopback;
    let asks = policy.dns.judged && facts.port == 53 && [TCP, UDP].contains(&facts.protocol);
    if looped && asks && is_resolver(policy, facts) {
        return dns(policy, facts);
    }
    if looped && loopback_is_open(policy, facts) {
        return Expected::new(Reason::Loopback, vec![NO_RULE]);
    }
    let own_host = facts.destination.is_loopback() || facts.destination.is_unspecified();
    if looped && !own_host {
        let reason = if facts.quarantined { Reason::Quarantined } else { Reason::LoopbackDenied };
        return Expected::new(reason, vec![NO_RULE]);
    }
    if !looped && facts.reply && (facts.to_node || !facts.quarantined) {
        return Expected::new(Reason::Reply, vec![NO_RULE]);
    }
    if let Some(index) = policy.deny.iter().position(|deny| deny.cidr.contains(&address)) {
        let first = policy.rules.len() + policy.names.len();
        return Expected::new(Reason::Denied, vec![(first + index) as u32]);
    }
    if asks {
        return dns(policy, facts);
    }
    let exists = |range: &&PortRange| range.protocol != if address.is_ipv4() { ICMPV6 } else { ICMP };
    let numbered = |wanted: &dyn Fn(&Rule) -> bool| -> Vec<u32> {
        let rules = policy.rules.iter().enumerate();
        rules.filter(|(_, rule)| wanted(rule)).map(|(index, _)| index as u32).collect()
    };
    let covers = |rule: &Rule| {
        rule.cidrs
            .iter()
            .any(|cidr| cidr.contains(&address) && (!own_host::holds(address) || own_host::is_named_by(cidr)))
            && !rule.except.iter().any(|cidr| cidr.contains(&address))
            && rule.ports.iter().any(|range| exists(&range))
    };
    let speaks = |rule: &Rule| rule.ports.iter().filter(exists).any(|range| range.protocol == facts.protocol);
    let opens = |rule: &Rule| {
        rule.ports
            .iter()
            .filter(exists)
            .any(|range| range.protocol == facts.protocol && (range.first..=range.last).contains(&facts.port))
    };
    let refused =
        |reason, rules| Expected::new(if facts.quarantined { Reason::Quarantined } else { reason }, rules);

    let covering = numbered(&covers);
    if covering.is_empty() {
        let reason = if looped { Reason::LoopbackDenied } else { Reason::NotAllowlisted };
        return refused(reason, vec![NO_RULE]);
    }
    let speaking = numbered(&|rule| covers(rule) && speaks(rule));
    if speaking.is_empty() {
        return refused(Reason::ProtocolNotAllowed, covering);
    }
    let matching = numbered(&|rule| covers(rule) && opens(rule));
    if matching.is_empty() {
        return refused(Reason::PortNotAllowed, speaking);
    }
    let until = |number: &u32| policy.rules[*number as usize].expires.unwrap_or(FOREVER);
    let longest = matching.iter().map(until).max().unwrap();
    let named = vec![*matching.iter().find(|number| until(number) == longest).unwrap()];
    let usable = matching.iter().filter(|number| !facts.quarantined || policy.rules[**number as usize].keep);
    match usable.map(until).max() {
        Some(until) if until == FOREVER || now.is_some_and(|now| now < until) => {
            Expected { reason: Reason::Allowed, rules: named, until }
        }
        _ => refused(Reason::Expired, named),
    }
}

// ---- Random probes ----

/// Where to probe: at or beside an end of one of the policy's CIDRs, or anywhere near.
#[derive(Clone, Debug)]
struct Probe {
    near: prop::sample::Index,
    step: i8,
    at_end: bool,
    anywhere: Option<IpNet>,
    protocol: u8,
    port: u16,
    looped: bool,
    host_namespace: bool,
    reply: bool,
    to_node: bool,
    quarantined: bool,
    own_resolver: bool,
    now: Option<u64>,
}

prop_compose! {
    fn probe()(
        (near, step, at_end) in (any::<prop::sample::Index>(), -1i8..=1, any::<bool>()),
        anywhere in prop::option::weighted(0.2, prop_oneof![v4_cidr(), v6_cidr()]),
        protocol in prop_oneof![9 => protocol(), 1 => any::<u8>()],
        port in port(),
        looped in prop::bool::weighted(0.15),
        host_namespace in any::<bool>(),
        reply in prop::bool::weighted(0.1),
        to_node in any::<bool>(),
        (quarantined, own_resolver) in (prop::bool::weighted(0.3), prop::bool::weighted(0.1)),
        now in prop::option::weighted(0.8, 0u64..7),
    ) -> Probe {
        Probe {
            near, step, at_end, anywhere, protocol, port, looped, host_namespace, reply, to_node, quarantined,
            own_resolver, now,
        }
    }
}

impl Probe {
    fn facts(&self, ends: &[IpNet]) -> Facts {
        let chosen = match (&self.anywhere, ends) {
            (Some(anywhere), _) => *anywhere,
            (None, []) => IpNet::from(IpAddr::from(Ipv4Addr::LOCALHOST)),
            (None, ends) => *self.near.get(ends),
        };
        let end = if self.at_end { chosen.broadcast() } else { chosen.network() };
        Facts {
            destination: Address::from(beside(end, self.step)),
            protocol: self.protocol,
            port: self.port,
            route: if self.looped { Route::Loopback } else { Route::Uplink },
            host_namespace: self.host_namespace,
            reply: self.reply,
            to_node: self.to_node,
            quarantined: self.quarantined,
            own_resolver: self.own_resolver,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_ruleset_answers_as_the_reference_does(
        policy in policy(),
        probes in prop::collection::vec(probe(), 50),
    ) {
        let compiled = compile(&policy).unwrap();
        let ends = all_cidrs(&policy);
        for probe in &probes {
            let facts = probe.facts(&ends);
            let verdict = decide(&compiled.ruleset(), &FixedClock(probe.now), &facts);
            let expected = reference(&policy, &facts, probe.now);
            prop_assert_eq!(verdict.reason, expected.reason, "{:?}: {:?}, {:?}", facts, verdict, expected);
            prop_assert!(expected.rules.contains(&verdict.rule), "{:?}: {:?}, {:?}", facts, verdict, expected);
            prop_assert_eq!(verdict.until, expected.until, "{:?}", facts);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_layout_is_canonical(policy in policy()) {
        let compiled = compile(&policy).unwrap();
        let again = compile(&policy.clone()).unwrap();
        prop_assert_eq!(&compiled, &again);
        prop_assert_eq!(compiled.hash(), again.hash());
        prop_assert_eq!(compiled.words[0], VERSION);
        prop_assert_eq!(compiled.words[LENGTH as usize], compiled.words.len() as u64);
        prop_assert_eq!(compiled.words[1] & FLAG_AUDIT != 0, policy.mode == Mode::Audit);
        let v4 = &compiled.words[HEADER_WORDS as usize..][..compiled.usage.v4_boundaries];
        prop_assert_eq!(v4[0] >> 32, 0);
        for pair in v4.windows(2) {
            prop_assert!(pair[0] >> 32 < pair[1] >> 32);
            prop_assert_ne!(pair[0] as u32, pair[1] as u32);
        }
    }

    #[test]
    fn corrupted_words_are_refused_or_read_but_never_out_of_range(
        policy in policy(),
        probes in prop::collection::vec(probe(), 20),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 0u32..64, any::<bool>()), 0..4),
        in_header in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut words = compile(&policy).unwrap().words;
        for (at, value, bit, flip) in changes {
            let index = at.index(if in_header { HEADER_WORDS as usize } else { words.len() });
            words[index] = if flip { words[index] ^ 1 << bit } else { value };
        }
        words.truncate(cut.map_or(words.len(), |cut| cut.index(words.len())));
        let ends = all_cidrs(&policy);
        for probe in &probes {
            for base in [0, 1, words.len() as u32, u32::MAX] {
                let ruleset = Ruleset::new(words.as_slice(), base);
                decide(&ruleset, &FixedClock(probe.now), &probe.facts(&ends));
                let rules = (0..8).filter_map(|index| ruleset.quarantine(index)).count();
                prop_assert!(rules <= MAX_QUARANTINE_RULES);
            }
        }
    }
}

// ---- A hundred thousand prefixes ----

/// A generator of numbers that look random and are the same in every run.
fn numbers() -> impl FnMut() -> u64 {
    let mut state = 0u64;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ mixed >> 29
    }
}

fn compile_measured(what: &str, policy: &Policy) -> Compiled {
    let start = Instant::now();
    let compiled = compile(policy).unwrap();
    println!("{what}: {:?}, {} words, {:?}", start.elapsed(), compiled.words.len(), compiled.usage);
    compiled
}

fn agrees(policy: &Policy, compiled: &Compiled, destinations: impl Iterator<Item = IpAddr>) {
    for (port, destination) in (0..12).cycle().zip(destinations) {
        let facts = Facts {
            destination: Address::from(destination),
            protocol: TCP,
            port,
            route: Route::Uplink,
            host_namespace: false,
            reply: false,
            to_node: false,
            quarantined: false,
            own_resolver: false,
        };
        let verdict = decide(&compiled.ruleset(), &FixedClock(None), &facts);
        let expected = reference(policy, &facts, None);
        assert_eq!(verdict.reason, expected.reason, "{facts:?}");
        assert!(expected.rules.contains(&verdict.rule), "{facts:?}");
    }
}

#[test]
fn a_hundred_thousand_disjoint_prefixes() {
    let cidrs = (0..100_000).map(|index| Ipv4Net::new(Ipv4Addr::from((index * 2) << 8), 24).unwrap().into());
    let policy = bare_policy(vec![tcp_rule(cidrs.collect(), 0, 5)]);
    let compiled = compile_measured("disjoint /24", &policy);
    // The first starts at 0, where the leading boundary stands, and leaves out 0.0.0.0, which means the own host.
    assert_eq!(compiled.usage.v4_boundaries, 200_001);
    let probes = [0, 255, 256, 511, 512, (99_999 << 9) + 255, u32::MAX];
    agrees(&policy, &compiled, probes.into_iter().map(|bits| Ipv4Addr::from(bits).into()));
}

#[test]
fn a_hundred_thousand_disjoint_prefixes_of_ipv6() {
    let base = 0xfd00 << 112;
    let prefix = |index: u128| Ipv6Net::new(Ipv6Addr::from(base + (index << 65)), 64).unwrap().into();
    let policy = bare_policy(vec![tcp_rule((0..100_000).map(prefix).collect(), 0, 5)]);
    let compiled = compile_measured("disjoint /64", &policy);
    assert_eq!(compiled.usage.v6_boundaries, 200_001);
    let probes =
        [0, base - 1, base, base + (1 << 64) - 1, base + (1 << 64), base + (99_999 << 65), u128::MAX];
    agrees(&policy, &compiled, probes.into_iter().map(|bits| Ipv6Addr::from(bits).into()));
}

#[test]
fn a_hundred_thousand_overlapping_prefixes_in_ten_rules() {
    let mut next = numbers();
    let mut cidr = |shortest: u64| {
        let length = (shortest + next() % (33 - shortest)) as u8;
        IpNet::from(Ipv4Net::new(Ipv4Addr::from(next() as u32), length).unwrap().trunc())
    };
    let rules = (0..10).map(|index| {
        let cidrs = (0..9_900).map(|_| cidr(12)).collect();
        let except = (0..100).map(|_| cidr(16)).collect();
        Rule { except, ..tcp_rule(cidrs, index, index + 2) }
    });
    let policy = bare_policy(rules.collect());
    let compiled = compile_measured("mixed lengths with overlaps", &policy);
    assert_eq!(compiled.usage.prefixes, 100_000);
    agrees(&policy, &compiled, (0..20).map(|_| Ipv4Addr::from(next() as u32).into()));
}
