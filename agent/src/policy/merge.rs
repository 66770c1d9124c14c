//! Several policies on one workload add up.

use std::collections::HashSet;

use ipnet::IpNet;

use super::{Dns, Loopback, Mode, Policy};

/// The one policy that several make, `None` of none.
///
/// Enforce wins over audit and `loopback: deny` over allow; what is allowed and what is denied are united; raw sockets are
/// open for the protocols that every policy opens; of `existing` the strictest counts; every quarantine rule runs, and in
/// quarantine only those Destinations stay open that every policy with such a rule keeps. Of DNS: [`Dns`] that is not judged
/// says nothing; resolvers are those of every policy that names some, the rest is united.
#[must_use]
pub fn merge(mut policies: Vec<Policy>) -> Option<Policy> {
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    let keep = kept_by_all(&policies);
    let metadata = policies.iter().any(Policy::opens_metadata);
    let mut policies = policies.into_iter();
    let mut merged = policies.next()?;
    for policy in policies {
        merged.name = format!("{}+{}", merged.name, policy.name);
        if policy.mode == Mode::Enforce {
            merged.mode = Mode::Enforce;
        }
        merged.loopback = stricter(merged.loopback, policy.loopback);
        merged.raw.retain(|protocol| policy.raw.contains(protocol));
        let known: HashSet<_> = merged.rules.iter().map(|rule| rule.origin.clone()).collect();
        // One entry that two policies allow is one rule: it was written in one place.
        merged.rules.extend(policy.rules.into_iter().filter(|rule| !known.contains(&rule.origin)));
        let known: HashSet<_> = merged.names.iter().map(|rule| rule.origin.clone()).collect();
        merged.names.extend(policy.names.into_iter().filter(|rule| !known.contains(&rule.origin)));
        merged.dns = merge_dns(merged.dns, policy.dns);
        merged.existing = merged.existing.min(policy.existing);
        merged.require_backstop |= policy.require_backstop;
        add_new(&mut merged.deny, policy.deny);
        add_new(&mut merged.quarantine, policy.quarantine);
        add_new(&mut merged.beyond_exec, policy.beyond_exec);
    }
    for rule in &mut merged.rules {
        rule.keep = keep.contains(&rule.destinations);
    }
    for rule in &mut merged.names {
        rule.keep = keep.contains(&rule.destinations);
    }
    if metadata {
        merged.deny.retain(|deny| deny.origin.is_some());
    }
    Some(merged)
}

fn kept_by_all(policies: &[Policy]) -> HashSet<String> {
    policies
        .iter()
        .filter(|policy| !policy.quarantine.is_empty())
        .map(|policy| {
            let addresses = policy.rules.iter().map(|rule| (rule.keep, &rule.destinations));
            let names = policy.names.iter().map(|rule| (rule.keep, &rule.destinations));
            addresses.chain(names).filter(|(keep, _)| *keep).map(|(_, name)| name.clone()).collect()
        })
        .reduce(|all: HashSet<String>, kept| &all & &kept)
        .unwrap_or_default()
}

fn merge_dns(one: Dns, other: Dns) -> Dns {
    match (one.judged, other.judged) {
        (_, false) => return one,
        (false, true) => return other,
        (true, true) => {}
    }
    let resolvers = match (one.resolvers, other.resolvers) {
        (Some(one), Some(other)) => Some(in_both(&one, &other)),
        (one, other) => one.or(other),
    };
    Dns {
        judged: true,
        resolvers,
        search: &one.search | &other.search,
        types: &one.types | &other.types,
        ttl: (one.ttl.0.min(other.ttl.0), one.ttl.1.max(other.ttl.1)),
    }
}

/// Two CIDRs lie in each other or apart, so what both lists hold is the smaller of each pair.
pub(crate) fn in_both(one: &[IpNet], other: &[IpNet]) -> Vec<IpNet> {
    let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (a, b)));
    let inner = pairs.filter_map(|(a, b)| if a.contains(b) { Some(*b) } else { b.contains(a).then_some(*a) });
    IpNet::aggregate(&inner.collect())
}

/// The default lies between the two: it allows only in a network namespace of the workload's own.
const fn stricter(a: Loopback, b: Loopback) -> Loopback {
    match (a, b) {
        (Loopback::Deny, _) | (_, Loopback::Deny) => Loopback::Deny,
        (Loopback::ByNamespace, _) | (_, Loopback::ByNamespace) => Loopback::ByNamespace,
        (Loopback::Allow, Loopback::Allow) => Loopback::Allow,
    }
}

fn add_new<T: PartialEq>(to: &mut Vec<T>, from: Vec<T>) {
    for item in from {
        if !to.contains(&item) {
            to.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::allowlist::{Action, Scope};
    use crate::policy::{NameRule, Quarantine};
    use crate::ruleset::testing::{name_rule, policy};

    fn nets(cidrs: &[&str]) -> Option<Vec<IpNet>> {
        Some(cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect())
    }

    fn judging(name: &str, dns: Dns) -> Policy {
        Policy { name: name.to_owned(), dns: Dns { judged: true, ..dns }, ..policy(Vec::new()) }
    }

    fn dns(one: &Dns, other: &Dns) -> Dns {
        let merged =
            |a: &Dns, b: &Dns| merge(vec![judging("a", a.clone()), judging("b", b.clone())]).unwrap().dns;
        assert_eq!(merged(one, other), merged(other, one), "in whatever order");
        merged(one, other)
    }

    #[test]
    fn resolvers_are_those_of_every_policy_that_names_some() {
        let resolvers = |one, other| {
            let of = |resolvers| Dns { resolvers, ..Dns::default() };
            dns(&of(one), &of(other)).resolvers
        };
        assert_eq!(resolvers(None, None), None);
        assert_eq!(resolvers(None, nets(&["10.0.0.53/32"])), nets(&["10.0.0.53/32"]));
        let wide = nets(&["10.96.0.0/24", "fd00::/64", "10.0.0.53/32"]);
        let narrow = nets(&["10.96.0.10/32", "10.0.0.0/24", "192.0.2.1/32"]);
        assert_eq!(resolvers(wide, narrow), nets(&["10.0.0.53/32", "10.96.0.10/32"]));
        assert_eq!(resolvers(nets(&["10.0.0.1/32"]), nets(&["10.0.0.2/32"])), nets(&[]));
    }

    #[test]
    fn the_rest_of_dns_is_united_and_what_is_not_judged_says_nothing() {
        let of = |search: &str, types: &[u16], ttl| Dns {
            judged: true,
            search: [search.to_owned()].into(),
            types: types.iter().copied().collect(),
            ttl,
            ..Dns::default()
        };
        let united = dns(&of("a.example", &[1], (10, 100)), &of("b.example", &[16], (20, 200)));
        assert_eq!(united.search, BTreeSet::from(["a.example".to_owned(), "b.example".to_owned()]));
        assert_eq!((united.types, united.ttl), (BTreeSet::from([1, 16]), (10, 200)));
        let strict = of("a.example", &[1], (60, 120));
        for order in [["a", "b"], ["b", "a"]] {
            let judged = judging(order[0], strict.clone());
            let plain = Policy { name: order[1].to_owned(), ..policy(Vec::new()) };
            assert_eq!(merge(vec![judged, plain]).unwrap().dns, strict);
        }
    }

    #[test]
    fn names_are_united_and_kept_where_every_quarantine_keeps_them() {
        let quarantine = Quarantine {
            origin: policy(Vec::new()).origin,
            violations: 5,
            within_ns: 1,
            action: Action::Isolate,
            scope: Scope::Pod,
            release: None,
        };
        let with = |name: &str, rules: &[(&str, usize, bool)]| Policy {
            names: rules
                .iter()
                .map(|(destinations, line, keep)| NameRule {
                    keep: *keep,
                    ..name_rule(destinations, *line, &["a.example"], &[443])
                })
                .collect(),
            quarantine: vec![quarantine.clone()],
            ..judging(name, Dns::default())
        };
        let first = with("first", &[("models", 3, true), ("mirror", 9, true)]);
        let second = with("second", &[("models", 3, true), ("mirror", 9, false), ("index", 14, true)]);
        let merged = merge(vec![first.clone(), second]).unwrap();
        let told: Vec<_> = merged
            .names
            .iter()
            .map(|rule| (rule.destinations.as_str(), rule.origin.line, rule.keep))
            .collect();
        assert_eq!(told, [("models", 3, true), ("mirror", 9, false), ("index", 14, false)]);
        let plain = Policy { quarantine: Vec::new(), ..with("plain", &[("index", 14, false)]) };
        let merged = merge(vec![first, plain]).unwrap();
        assert_eq!(merged.names.iter().map(|rule| rule.keep).collect::<Vec<_>>(), [true, true, false]);
    }
}
