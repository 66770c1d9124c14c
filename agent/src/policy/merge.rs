//! Several policies on one workload add up.

use std::collections::HashSet;

use super::{Loopback, Mode, Policy, Rule};

/// The one policy that several make, `None` of none.
///
/// Enforce wins over audit and `loopback: deny` over allow; what is allowed and what is denied are united; raw sockets are
/// open for the protocols that every policy opens; of `existing` the strictest counts; every quarantine rule runs, and in quarantine only those Destinations stay open that every policy with such a rule keeps.
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
        merged.existing = merged.existing.min(policy.existing);
        merged.require_backstop |= policy.require_backstop;
        add_new(&mut merged.deny, policy.deny);
        add_new(&mut merged.quarantine, policy.quarantine);
        add_new(&mut merged.beyond_exec, policy.beyond_exec);
    }
    for rule in &mut merged.rules {
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
            policy
                .rules
                .iter()
                .filter(|rule| rule.keep)
                .map(|rule: &Rule| rule.destinations.clone())
                .collect()
        })
        .reduce(|all: HashSet<String>, kept| &all & &kept)
        .unwrap_or_default()
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
