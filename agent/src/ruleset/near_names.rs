//! The nearest miss of a name.

use std::cmp::Reverse;

use egress_warden_common::Reason;

use super::attempt::{NamedAttempt, PortList};
use crate::allowlist::suggest::nearest;
use crate::policy::names::covers;
use crate::policy::{NameRule, Policy};

/// What came closest to allowing a refused name, closest first, in words. `all` are the entries by name of every
/// Destinations document that was read. Empty where nothing is near, and where allowing more would not help.
#[must_use]
pub fn near_names(policy: &Policy, all: &[NameRule], attempt: &NamedAttempt, reason: Reason) -> Vec<String> {
    match reason {
        Reason::PortNotAllowed | Reason::ProtocolNotAllowed => {
            let other = policy.names.iter().filter(|rule| rule.covers(&attempt.name));
            let other = other.min_by_key(|rule| distance(rule, attempt));
            let told = other
                .map(|rule| format!("{} covers {} on {}", place(rule), attempt.name, PortList(&rule.ports)));
            told.into_iter().chain(not_in_allow(policy, all, attempt, true)).collect()
        }
        Reason::DnsName => {
            let elsewhere = not_in_allow(policy, all, attempt, true)
                .or_else(|| not_in_allow(policy, all, attempt, false));
            let found = elsewhere.or_else(|| beside(policy, &attempt.name));
            found.or_else(|| misspelt(policy, &attempt.name)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn place(rule: &NameRule) -> String {
    format!("{} ({})", rule.origin, rule.destinations)
}

/// How far the ports of an entry are from the one asked for.
fn distance(rule: &NameRule, attempt: &NamedAttempt) -> u16 {
    let port = attempt.v4.or(attempt.v6).unwrap_or_default();
    let same = rule.ports.iter().filter(|range| range.protocol == attempt.protocol);
    let apart = |first: u16, last: u16| first.saturating_sub(port).max(port.saturating_sub(last));
    same.map(|range| apart(range.first, range.last)).min().unwrap_or(u16::MAX)
}

fn not_in_allow(
    policy: &Policy,
    all: &[NameRule],
    attempt: &NamedAttempt,
    with_port: bool,
) -> Option<String> {
    let allowed = |rule: &NameRule| policy.names.iter().any(|known| known.destinations == rule.destinations);
    let rule = all.iter().find(|rule| {
        !allowed(rule) && rule.covers(&attempt.name) && (!with_port || distance(rule, attempt) == 0)
    })?;
    let ports = if with_port { String::new() } else { format!(" on {}", PortList(&rule.ports)) };
    let at = format!("{}:{}", policy.origin.file.display(), policy.origin.line);
    Some(format!(
        "{} covers it{ports}; add {} to allow of policy {} at {at}",
        place(rule),
        rule.destinations,
        policy.name
    ))
}

/// A name above or below: a wildcard is not for its own base, and an exact name not for what is below.
fn beside(policy: &Policy, name: &str) -> Option<String> {
    let patterns =
        || policy.names.iter().flat_map(|rule| rule.names.iter().map(move |pattern| (rule, pattern)));
    let base = patterns().find(|(_, pattern)| pattern.strip_prefix("*.") == Some(name));
    if let Some((rule, pattern)) = base {
        return Some(format!(
            "{pattern} of {} is for what is below {name}, not for {name} itself",
            place(rule)
        ));
    }
    let above = patterns().filter(|(_, pattern)| covers(&format!("*.{pattern}"), name));
    let (rule, pattern) = above.min_by_key(|(_, pattern)| Reverse(pattern.len()))?;
    Some(format!("{pattern} of {} is for that name alone, not for what is below it", place(rule)))
}

/// A name, or the end of a wildcard, that differs by little.
fn misspelt(policy: &Policy, name: &str) -> Option<String> {
    let patterns = policy.names.iter().flat_map(|rule| rule.names.iter().map(move |pattern| (rule, pattern)));
    let mut near = patterns.filter(|(_, pattern)| {
        let (asked, known) = match pattern.strip_prefix("*.") {
            Some(base) => (end(name, base.split('.').count()), base),
            None => (Some(name), pattern.as_str()),
        };
        asked.is_some_and(|asked| nearest(asked, [known]).is_some())
    });
    let (rule, pattern) = near.next()?;
    Some(format!("{pattern} of {} is spelt almost so", place(rule)))
}

/// The last labels of a name that has more.
fn end(name: &str, labels: usize) -> Option<&str> {
    let (dot, _) = name.rmatch_indices('.').nth(labels.checked_sub(1)?)?;
    Some(&name[dot + 1..])
}

#[cfg(test)]
mod tests {
    use egress_warden_common::reason::IPPROTO_TCP;

    use super::*;
    use crate::ruleset::testing::{name_rule, policy};

    fn told(policy: &Policy, all: &[NameRule], name: &str, port: u16, reason: Reason) -> Vec<String> {
        let attempt =
            NamedAttempt { name: name.to_owned(), protocol: IPPROTO_TCP, v4: Some(port), v6: Some(port) };
        near_names(policy, all, &attempt, reason)
    }

    #[test]
    fn the_nearest_entry_is_told_with_the_remedy() {
        let mut policy = policy(Vec::new());
        policy.names = vec![
            name_rule("models", 10, &["registry.corp.example", "*.storage.corp.example"], &[443]),
            name_rule("models", 14, &["registry.corp.example"], &[5000]),
        ];
        let others = [name_rule("mirror", 30, &["*.index.example"], &[443])];
        let near = |name, port, reason| told(&policy, &others, name, port, reason);
        for (name, port, reason, expected) in [
            (
                "registry.corp.example",
                5001,
                Reason::PortNotAllowed,
                "lists.yaml:14:5 (models) covers registry.corp.example on 5000",
            ),
            (
                "files.index.example",
                443,
                Reason::DnsName,
                "lists.yaml:30:5 (mirror) covers it; add mirror to allow of policy training at policy.yaml:7",
            ),
            (
                "files.index.example",
                80,
                Reason::DnsName,
                "lists.yaml:30:5 (mirror) covers it on 443; add mirror to allow of policy training at policy.yaml:7",
            ),
            (
                "storage.corp.example",
                443,
                Reason::DnsName,
                "*.storage.corp.example of lists.yaml:10:5 (models) is for what is below storage.corp.example, not for \
                 storage.corp.example itself",
            ),
            (
                "a.registry.corp.example",
                443,
                Reason::DnsName,
                "registry.corp.example of lists.yaml:10:5 (models) is for that name alone, not for what is below it",
            ),
            (
                "registry.crop.example",
                443,
                Reason::DnsName,
                "registry.corp.example of lists.yaml:10:5 (models) is spelt almost so",
            ),
            (
                "a.b.storag.corp.example",
                443,
                Reason::DnsName,
                "*.storage.corp.example of lists.yaml:10:5 (models) is spelt almost so",
            ),
        ] {
            assert_eq!(near(name, port, reason), [expected], "{name}");
        }
        assert_eq!(near("elsewhere.test", 443, Reason::DnsName), [""; 0]);
        assert_eq!(near("registry.corp.example", 443, Reason::Expired), [""; 0]);
    }
}
