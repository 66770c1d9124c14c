//! What a policy allows by name, against a reference that reads the entries one by one.

use egress_warden::policy::{Dns, NameRule, metadata};
use egress_warden_common::Verdict;
use egress_warden_common::limits::{MAX_NAME, NAME_ROOM};
use egress_warden_common::names::{Lookup, NO_CLASS, may_open};

use super::generators::{cidrs, expiry, origin, port_range};
use super::*;

// ---- The reference ----

/// Not reachable from everywhere, and what of it is after all: written down a second time, from the registries.
const NOT_GLOBAL: &str = "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 \
    192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3 ::/3 \
    2001::/23 2001:db8::/32 2002::/16 3fff::/20 4000::/2 8000::/1";
const AFTER_ALL: &str =
    "2001:1::1/128 2001:1::2/128 2001:1::3/128 2001:3::/32 2001:4:112::/48 2001:20::/28 2001:30::/28";
const NEVER: &str = "0.0.0.0/8 127.0.0.0/8 169.254.0.0/16 224.0.0.0/4 255.255.255.255/32 ::/96 ::ffff:0:0/96 \
    ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 2001::/32 2002::/16 fe80::/10 ff00::/8";

fn inside(cidrs: &str, address: IpAddr) -> bool {
    cidrs.split_whitespace().any(|cidr| cidr.parse::<IpNet>().unwrap().contains(&address))
}

fn points(rule: &NameRule, address: IpAddr) -> bool {
    let never =
        inside(NEVER, address) || metadata::networks().iter().any(|network| network.contains(&address));
    !never
        && match &rule.resolves_to {
            Some(cidrs) => cidrs.iter().any(|cidr| cidr.contains(&address)),
            None => !inside(NOT_GLOBAL, address) || inside(AFTER_ALL, address),
        }
}

fn names_it(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(base) => name.len() > base.len() + 1 && name.ends_with(&format!(".{base}")),
        None => name == pattern,
    }
}

/// The entries that cover a name, under a search suffix as well, by number.
fn covering<'a>(policy: &'a Policy, name: &str) -> Vec<(u32, &'a NameRule)> {
    let under = |pattern: &String| {
        policy.dns.search.iter().map(|suffix| format!("{pattern}.{suffix}")).any(|it| names_it(&it, name))
    };
    let covers = |rule: &NameRule| rule.names.iter().any(|pattern| names_it(pattern, name) || under(pattern));
    (policy.rules.len() as u32..).zip(&policy.names).filter(|(_, rule)| covers(rule)).collect()
}

fn until(rule: &NameRule) -> u64 {
    rule.expires.unwrap_or(FOREVER)
}

fn in_time(until: u64, now: Option<u64>) -> bool {
    until == FOREVER || now.is_some_and(|now| now < until)
}

fn query(policy: &Policy, name: &str, kind: u16, quarantined: bool, now: Option<u64>) -> (Reason, u32) {
    let covering = covering(policy, name);
    let rule = covering.first().map_or(NO_RULE, |(rule, _)| *rule);
    let usable = covering.iter().filter(|(_, rule)| !quarantined || (rule.keep && until(rule) > 0));
    let reason = match usable.map(|(_, rule)| until(rule)).max() {
        None if quarantined => Reason::Quarantined,
        None => Reason::DnsName,
        Some(until) if !in_time(until, now) => Reason::Expired,
        Some(_) if !policy.dns.types.contains(&kind) => Reason::DnsType,
        Some(_) => Reason::Allowed,
    };
    (reason, rule)
}

/// The entries that cover the name, point to the address, and open the port.
fn opening<'a>(policy: &'a Policy, name: &str, facts: &Facts) -> Vec<(u32, &'a NameRule)> {
    let opens = |rule: &NameRule| {
        rule.ports
            .iter()
            .any(|range| range.protocol == facts.protocol && (range.first..=range.last).contains(&facts.port))
    };
    let mut found = covering(policy, name);
    found.retain(|(_, rule)| points(rule, facts.destination.into()) && opens(rule));
    found
}

// ---- Random names ----

fn base() -> impl Strategy<Value = String> {
    prop::collection::vec("[abc]", 1..4).prop_map(|labels| labels.join("."))
}

fn pattern() -> impl Strategy<Value = String> {
    let long = prop_oneof![9 => Just(0usize), 1 => 225usize..235];
    (base(), any::<bool>(), long).prop_map(|(base, wildcard, long)| {
        let base = if long > 0 { format!("{}.{base}", "x".repeat(long)) } else { base };
        if wildcard { format!("*.{base}") } else { base }
    })
}

fn place() -> impl Strategy<Value = Option<Vec<IpNet>>> {
    let special = ["0.0.0.0/0", "::/0", "169.254.0.0/16", "::ffff:0:0/96", "fd00:ec2::254/128", "2001::/16"];
    let special = prop::sample::select(special.to_vec()).prop_map(|net| vec![net.parse().unwrap()]);
    prop_oneof![2 => Just(None), 3 => cidrs(1..4).prop_map(Some), 1 => special.prop_map(Some)]
}

prop_compose! {
    fn name_rule()(
        names in prop::collection::btree_set(pattern(), 1..4),
        resolves_to in place(),
        ports in prop::collection::vec(port_range(), 1..4),
        expires in expiry(),
        keep in any::<bool>(),
    ) -> NameRule {
        let (names, destinations, why) = (names.into_iter().collect(), "models".into(), "test".into());
        NameRule { origin: origin(9), destinations, why, names, resolves_to, ports, expires, keep }
    }
}

prop_compose! {
    fn dns()(
        resolvers in prop::option::of(cidrs(1..3)),
        search in prop::collection::btree_set(base(), 0..3),
        types in prop::collection::btree_set(0u16..6, 1..4),
        ttl in (1u32..100, 100u32..1000),
    ) -> Dns {
        Dns { judged: true, resolvers, search, types, ttl }
    }
}

fn named_policy() -> impl Strategy<Value = Policy> {
    (policy(), prop::collection::vec(name_rule(), 0..6), dns()).prop_map(|(policy, names, dns)| Policy {
        names,
        dns,
        ..policy
    })
}

/// A name to ask for: near a pattern, or anything.
fn asked() -> impl Strategy<Value = (prop::sample::Index, Vec<String>, Option<String>)> {
    let front = prop::collection::vec("[abc]", 0..3);
    (any::<prop::sample::Index>(), front, prop::option::weighted(0.3, base()))
}

fn ends(policy: &Policy) -> Vec<IpNet> {
    let resolvers = policy.dns.resolvers.iter().flatten();
    let places = policy.names.iter().filter_map(|rule| rule.resolves_to.as_ref()).flatten();
    let known = [NOT_GLOBAL, AFTER_ALL, NEVER].into_iter().flat_map(str::split_whitespace);
    let known = known.map(|cidr| cidr.parse::<IpNet>().unwrap());
    let metadata = metadata::networks();
    all_cidrs(policy)
        .into_iter()
        .chain(resolvers.copied())
        .chain(places.copied())
        .chain(known)
        .chain(metadata)
        .collect()
}

fn to_ask(
    policy: &Policy,
    (chosen, front, other): &(prop::sample::Index, Vec<String>, Option<String>),
) -> String {
    let patterns: Vec<&String> = policy.names.iter().flat_map(|rule| &rule.names).collect();
    let near = match other {
        None if !patterns.is_empty() => {
            let pattern = chosen.get(&patterns);
            pattern.strip_prefix("*.").unwrap_or(pattern).to_owned()
        }
        other => other.clone().unwrap_or_default(),
    };
    let suffix = policy.dns.search.iter().next().filter(|_| chosen.index(3) == 0);
    let labels = front.iter().chain(Some(&near)).chain(suffix);
    labels.map(String::as_str).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".")
}

fn class(compiled: &Compiled, name: &str) -> u32 {
    let mut room = [0; NAME_ROOM];
    let kept = name.len().min(NAME_ROOM);
    room[..kept].copy_from_slice(&name.as_bytes()[..kept]);
    let ruleset = compiled.ruleset();
    let mut lookup = Lookup::EMPTY;
    lookup.start(name.len() as u32);
    while !lookup.step(&ruleset, &room) {}
    lookup.found()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names_are_asked_for_and_opened_as_the_reference_does(
        policy in named_policy(),
        probes in prop::collection::vec((asked(), 0u16..7, probe()), 30),
    ) {
        let compiled = compile(&policy).unwrap();
        let ruleset = compiled.ruleset();
        let ends = ends(&policy);
        for (asked, kind, probe) in &probes {
            let (facts, clock) = (probe.facts(&ends), FixedClock(probe.now));
            let name = to_ask(&policy, asked);
            let class = if name.len() > MAX_NAME { NO_CLASS } else { class(&compiled, &name) };
            let verdict = ruleset.query(&clock, class, *kind, probe.quarantined);
            if name.len() <= MAX_NAME {
                let expected = query(&policy, &name, *kind, probe.quarantined, probe.now);
                prop_assert_eq!((verdict.reason, verdict.rule), expected, "{}", name);
            }

            let by_address = decide(&ruleset, &clock, &facts);
            let expected = reference(&policy, &facts, probe.now);
            prop_assert_eq!(by_address.reason, expected.reason, "{:?}", facts);
            prop_assert!(expected.rules.contains(&by_address.rule), "{:?}: {:?}", facts, by_address);
            prop_assert_eq!(by_address.until, expected.until, "{:?}", facts);

            let address = IpAddr::from(facts.destination);
            let covering = if name.len() > MAX_NAME { Vec::new() } else { covering(&policy, &name) };
            let pointing = covering.iter().any(|(_, rule)| points(rule, address));
            prop_assert_eq!(ruleset.may_point(class, facts.destination), pointing, "{} at {}", name, address);
            if !may_open(by_address.reason) {
                continue;
            }
            let verdict = ruleset.by_name(&clock, &facts, class, by_address);
            let mut nearest = by_address;
            let asked = (facts.protocol, facts.port, facts.quarantined);
            let opens = ruleset.opens(&clock, asked, ruleset.points(facts.destination), class, &mut nearest);
            if facts.route == Route::Uplink {
                prop_assert_eq!((nearest, opens), (verdict, verdict.reason == Reason::Allowed), "{:?}", facts);
            }
            let opening = if covering.is_empty() { Vec::new() } else { opening(&policy, &name, &facts) };
            let usable = |rule: &NameRule| {
                (!facts.quarantined || rule.keep) && in_time(until(rule), probe.now)
            };
            let open: Vec<u64> = opening.iter().filter(|(_, rule)| usable(rule)).map(|(_, rule)| until(rule)).collect();
            prop_assert_eq!(verdict.reason == Reason::Allowed, !open.is_empty(), "{}: {:?}: {:?}", name, facts, verdict);
            if !open.is_empty() {
                prop_assert!(opening.iter().any(|(number, _)| *number == verdict.rule), "{}: {:?}", name, verdict);
                prop_assert!(open.contains(&verdict.until), "{}: {:?}", name, verdict);
            } else if !opening.is_empty() && by_address.reason == Reason::NotAllowlisted {
                prop_assert_ne!(verdict.reason, Reason::NotAllowlisted, "{}: {:?}", name, facts);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_layout_of_names_is_canonical(policy in named_policy()) {
        let compiled = compile(&policy).unwrap();
        let mut other = policy.clone();
        for rule in &mut other.names {
            rule.names.reverse();
            rule.ports.reverse();
            if let Some(cidrs) = &mut rule.resolves_to {
                let halves: Vec<IpNet> = cidrs.iter().flat_map(|cidr| halves(*cidr)).collect();
                *cidrs = halves.into_iter().rev().chain(cidrs.first().copied()).collect();
            }
        }
        if let Some(resolvers) = &mut other.dns.resolvers {
            resolvers.reverse();
        }
        prop_assert_eq!(&compiled.words, &compile(&other).unwrap().words);
        prop_assert_eq!(compiled.words[LENGTH as usize], compiled.words.len() as u64);
    }

    #[test]
    fn names_cut_short_never_allow_what_they_did_not_allow(
        policy in named_policy(),
        probes in prop::collection::vec((asked(), probe()), 10),
        cut in any::<prop::sample::Index>(),
    ) {
        let compiled = compile(&policy).unwrap();
        let mut less = compiled.clone();
        less.words.truncate(cut.index(compiled.words.len()));
        let ends = ends(&policy);
        for (asked, probe) in &probes {
            let name = to_ask(&policy, asked);
            let opens = |compiled: &Compiled| {
                let class = if name.len() > MAX_NAME { NO_CLASS } else { class(compiled, &name) };
                let (ruleset, clock) = (compiled.ruleset(), FixedClock(probe.now));
                let facts = probe.facts(&ends);
                let otherwise = Verdict { reason: Reason::NotAllowlisted, rule: NO_RULE, until: FOREVER };
                [
                    ruleset.query(&clock, class, 1, probe.quarantined).reason.allows(),
                    ruleset.may_point(class, facts.destination),
                    ruleset.by_name(&clock, &facts, class, otherwise).reason.allows(),
                    ruleset.is_resolver(facts.destination),
                ]
            };
            for (less, whole) in opens(&less).into_iter().zip(opens(&compiled)) {
                prop_assert!(!less || whole, "{}", name);
            }
        }
    }
}

/// The two halves of a CIDR, or itself where it cannot be halved.
fn halves(cidr: IpNet) -> Vec<IpNet> {
    match cidr.subnets(cidr.prefix_len() + 1) {
        Ok(halves) => halves.collect(),
        Err(_) => vec![cidr],
    }
}
