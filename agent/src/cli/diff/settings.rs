//! What a policy says beside its destinations.

use std::collections::BTreeSet;

use super::policies::View;
use super::report::Section;
use super::words;
use crate::allowlist::{Action, Existing, Scope, Settings, type_name};
use crate::policy::{Dns, Loopback, Mode, Policy, Quarantine};
use crate::ruleset::compare::added;

/// Tells every difference, in the order of the keys.
pub(super) fn tell(section: &mut Section, old: &View<'_>, new: &View<'_>) {
    if old.select != new.select {
        let text = format!(
            "{} -> {}: workloads may lose this policy, or gain what it allows",
            old.select, new.select
        );
        section.tell_setting("select", text, true);
    }
    let mut told = |label, old: String, new: String, broadens| {
        if old != new {
            section.tell_setting(label, format!("{old} -> {new}"), broadens);
        }
    };
    told("mode", mode(old.policy).into(), mode(new.policy).into(), new.policy.mode == Mode::Audit);
    let (before, after) = (old.policy.opens_metadata(), new.policy.opens_metadata());
    told("metadata", before.to_string(), after.to_string(), after);
    let (before, after) = (old.policy.loopback, new.policy.loopback);
    told("loopback", loopback(before), loopback(after), openness(after) > openness(before));
    let (before, after) = (old.settings, new.settings);
    told("existing", existing(before), existing(after), after.existing > before.existing);
    let (before, after) = (&old.policy.dns, &new.policy.dns);
    told("dns.resolvers", resolvers(before), resolvers(after), resolvers_broaden(before, after));
    // Where one of them judges no DNS, the rest of `dns` has no meaning there.
    if before.judged && after.judged {
        let looser = after.ttl.0 > before.ttl.0 || after.ttl.1 > before.ttl.1;
        told("dns.ttl", ttl(before), ttl(after), looser);
    }
    tell_sets(section, old, new);
    tell_quarantine(section, old, new);
}

pub(super) const fn mode(policy: &Policy) -> &'static str {
    match policy.mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
    }
}

fn loopback(loopback: Loopback) -> String {
    let text = match loopback {
        Loopback::Allow => "allow",
        Loopback::ByNamespace => "allowed in an own network namespace only",
        Loopback::Deny => "deny",
    };
    text.to_owned()
}

const fn openness(loopback: Loopback) -> u8 {
    match loopback {
        Loopback::Deny => 0,
        Loopback::ByNamespace => 1,
        Loopback::Allow => 2,
    }
}

fn existing(settings: &Settings) -> String {
    let text = match settings.existing {
        Existing::Cut => "cut",
        Existing::Judge => "judge",
        Existing::Keep => "keep",
    };
    text.to_owned()
}

fn resolvers(dns: &Dns) -> String {
    match &dns.resolvers {
        _ if !dns.judged => "none: port 53 is a port as any other".to_owned(),
        Some(cidrs) => words::cidrs(&added(&[], cidrs)),
        None => "the workload's own, if private".to_owned(),
    }
}

/// Which resolvers are a workload's own is not known here, so a change from or to them may broaden. (What entries open on
/// port 53 of a policy that does not judge it is among the addresses.)
fn resolvers_broaden(old: &Dns, new: &Dns) -> bool {
    match (&old.resolvers, &new.resolvers) {
        _ if !old.judged || !new.judged => new.judged,
        (Some(old), Some(new)) => !added(old, new).is_empty(),
        _ => true,
    }
}

fn ttl(dns: &Dns) -> String {
    let [min, max] =
        [dns.ttl.0, dns.ttl.1].map(|seconds| words::duration(u64::from(seconds) * 1_000_000_000));
    format!("{min} to {max}")
}

/// Keys with a list: more of `require` is stricter, more of the others looser.
fn tell_sets(section: &mut Section, old: &View<'_>, new: &View<'_>) {
    let types = |view: &View<'_>| view.policy.dns.types.iter().copied().map(type_name).collect();
    let lists: [(_, BTreeSet<String>, BTreeSet<String>, _); 4] = [
        ("raw", old.settings.raw.clone(), new.settings.raw.clone(), false),
        ("dns.search", old.policy.dns.search.clone(), new.policy.dns.search.clone(), false),
        ("dns.types", types(old), types(new), false),
        ("require", old.settings.require.clone(), new.settings.require.clone(), true),
    ];
    let judged = old.policy.dns.judged && new.policy.dns.judged;
    for (label, old, new, stricter) in
        lists.into_iter().filter(|(label, ..)| judged || !label.starts_with("dns."))
    {
        let (more, less) = (joined(new.difference(&old)), joined(old.difference(&new)));
        let parts: Vec<String> = [("added", &more), ("removed", &less)]
            .into_iter()
            .filter(|(_, words)| !words.is_empty())
            .map(|(what, words)| format!("{what} {words}"))
            .collect();
        if !parts.is_empty() {
            let broadens = if stricter { !less.is_empty() } else { !more.is_empty() };
            section.tell_setting(label, parts.join("; "), broadens);
        }
    }
}

fn joined<'a>(words: impl Iterator<Item = &'a String>) -> String {
    words.map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn tell_quarantine(section: &mut Section, old: &View<'_>, new: &View<'_>) {
    let rule = |view: &View<'_>| view.policy.quarantine.first().cloned();
    let text =
        |view: &View<'_>| rule(view).map_or("none".to_owned(), |rule| quarantine(&rule, view.settings));
    let (before, after) = (text(old), text(new));
    if before != after {
        let broadens = match (rule(old), rule(new)) {
            (Some(before), Some(after)) => milder((&before, old.settings), (&after, new.settings)),
            (_, after) => after.is_none(),
        };
        section.tell_setting("quarantine", format!("{before} -> {after}"), broadens);
    }
}

fn quarantine(rule: &Quarantine, settings: &Settings) -> String {
    let mut text = format!("{} in {}", rule.violations, words::duration(rule.within_ns));
    match settings.action {
        Action::Isolate => {}
        Action::Freeze => text.push_str(", freeze"),
        Action::Kill => text.push_str(", kill"),
    }
    if settings.scope == Scope::Job {
        text.push_str(", whole job");
    }
    if let Some(release) = settings.release {
        text.push_str(&format!(", released after {}", words::duration(release)));
    }
    text
}

/// Does the second strike later, less hard, or for a shorter time?
fn milder(old: (&Quarantine, &Settings), new: (&Quarantine, &Settings)) -> bool {
    let forever = |settings: &Settings| settings.release.unwrap_or(u64::MAX);
    new.0.violations > old.0.violations
        || new.0.within_ns < old.0.within_ns
        || new.1.action < old.1.action
        || new.1.scope < old.1.scope
        || forever(new.1) < forever(old.1)
}
