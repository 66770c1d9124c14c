//! Policy by policy, by name: added, removed, changed.

use std::collections::BTreeSet;

use egress_warden_common::ruleset::FOREVER;

use super::report::{Addresses, Section};
use super::{Side, names, settings, words};
use crate::allowlist::{Existing, Select, Settings};
use crate::policy::{Dns, Loopback, Policy, metadata};
use crate::ruleset::compare::{self, Change, Difference, Effect, Refusal, Standing};
use crate::ruleset::{Compiled, RuleInfo, compile};

/// All that one side says of a policy.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) policy: &'a Policy,
    pub(super) compiled: &'a Compiled,
    pub(super) settings: &'a Settings,
    pub(super) select: &'a Select,
}

impl<'a> View<'a> {
    fn of(side: &'a Side, name: &str) -> Option<Self> {
        let (policy, compiled) = side.policy(name)?;
        let (settings, select) = (side.set.settings(name)?, side.set.select(name)?);
        Some(Self { policy, compiled, settings, select })
    }
}

/// What is told of each policy with a difference, by name.
pub(super) fn compare(old: &Side, new: &Side) -> Vec<Section> {
    let names: BTreeSet<&str> =
        old.policies.iter().chain(&new.policies).map(|(policy, _)| policy.name.as_str()).collect();
    let sections = names.into_iter().filter_map(|name| match (View::of(old, name), View::of(new, name)) {
        (Some(before), Some(after)) => Some(changed(&before, &after)),
        (Some(before), None) => Some(removed(&before)),
        (None, Some(after)) => Some(added(old, &after)),
        (None, None) => None,
    });
    sections.filter(|section| !section.is_empty()).collect()
}

fn changed(old: &View<'_>, new: &View<'_>) -> Section {
    let mut section = Section::new(&new.policy.name, settings::mode(new.policy));
    tell_differences(&mut section, old, new);
    section
}

fn removed(old: &View<'_>) -> Section {
    let mut section = Section::new(&old.policy.name, settings::mode(old.policy));
    let text = format!("what it selected ({}) may run without a policy", old.select);
    section.tell_setting("removed", text, true);
    section
}

/// A new policy is compared with one that allows nothing, to say what it allows.
fn added(old: &Side, new: &View<'_>) -> Section {
    let mut section = Section::of_new_policy(&new.policy.name, settings::mode(new.policy));
    section.tell("added", format!("for {}", new.select), false);
    let nothing = nothing(new.policy);
    let compiled = compile(&nothing).expect("a policy that allows nothing fits");
    let settings = Settings::default();
    let before = View { policy: &nothing, compiled: &compiled, settings: &settings, select: new.select };
    tell_differences(&mut section, &before, new);
    let names = old.policies.iter().map(|(policy, _)| policy.name.as_str());
    let same: Vec<&str> = names
        .filter(|name| old.set.select(name).is_some_and(|select| certainly_overlap(select, new.select)))
        .collect();
    if opens(new) && !same.is_empty() {
        section.adds_to_old_policies();
        let text = format!("to what {} allows: some workloads have both", same.join(", "));
        section.tell_setting("adds", text, true);
    }
    section
}

/// What else overlaps only the agent knows, who sees workloads.
fn certainly_overlap(one: &Select, other: &Select) -> bool {
    one == other || one.all || other.all
}

/// Does it add something to other policies on the same workload? (What merges by intersection, or where the stricter
/// wins, does not.)
fn opens(new: &View<'_>) -> bool {
    let Dns { search, types, ttl, .. } = Dns::default();
    let dns = &new.policy.dns;
    !new.policy.rules.is_empty()
        || !new.policy.names.is_empty()
        || new.policy.opens_metadata()
        || (&dns.search, &dns.types, &dns.ttl) != (&search, &types, &ttl)
}

fn nothing(policy: &Policy) -> Policy {
    Policy {
        name: policy.name.clone(),
        origin: policy.origin.clone(),
        mode: policy.mode,
        rules: Vec::new(),
        names: Vec::new(),
        // Whether port 53 is judged is said by the new policy's names; here only what differs beside.
        dns: Dns { judged: policy.dns.judged, ..Dns::default() },
        deny: metadata::denies().collect(),
        loopback: Loopback::default(),
        raw: BTreeSet::new(),
        quarantine: Vec::new(),
        existing: Existing::default(),
        require_backstop: false,
        beyond_exec: Vec::new(),
    }
}

fn tell_differences(section: &mut Section, old: &View<'_>, new: &View<'_>) {
    let difference = compare::compare(old.compiled, new.compiled);
    // Without a quarantine rule on both sides `keep` has no meaning on one of them.
    let quarantine = !old.policy.quarantine.is_empty() && !new.policy.quarantine.is_empty();
    for change in difference.changes.iter().filter(|change| quarantine || !change.quarantined) {
        tell_change(section, old, new, change);
    }
    names::tell(section, old, new, quarantine);
    tell_refusals(section, old, new, &difference);
    settings::tell(section, old, new);
}

fn tell_change(section: &mut Section, old: &View<'_>, new: &View<'_>, change: &Change) {
    let effect = change.effect();
    let label = match (change.quarantined, effect) {
        (false, Effect::Opened) if section.is_of_new_policy() => "allows",
        (false, Effect::Opened) => "newly allowed",
        (false, Effect::Lengthened) => "allowed longer",
        (false, Effect::Shortened) => "allowed shorter",
        (false, Effect::Closed) => "newly refused",
        (true, Effect::Opened) => "newly kept",
        (true, Effect::Lengthened) => "kept longer",
        (true, Effect::Shortened) => "kept shorter",
        (true, Effect::Closed) => "no longer kept",
    };
    let why = match (change.quarantined, effect) {
        (true, _) => format!("open in quarantine{}", kept_until(change)),
        (false, Effect::Closed) => closed(old, new, change),
        (false, _) => opened(old, new, change),
    };
    let (cidrs, ports) = (change.cidrs.clone(), words::ports(&change.ports));
    section.tell_addresses(label, Addresses { cidrs, ports, why }, effect.broadens());
}

fn kept_until(change: &Change) -> String {
    let (before, after) = (change.before.until(), change.after.until());
    match change.effect() {
        Effect::Closed => " before".to_owned(),
        Effect::Opened if after == FOREVER => String::new(),
        Effect::Opened => format!(" {}", words::deadline(after)),
        Effect::Lengthened | Effect::Shortened => {
            format!(" {} -> {}", words::deadline(before), words::deadline(after))
        }
    }
}

fn opened(old: &View<'_>, new: &View<'_>, change: &Change) -> String {
    let by = rule(new, change.after).map(|rule| format!("by {rule}")).unwrap_or_default();
    let (before, after) = (change.before.until(), change.after.until());
    let deadline = match (before, after) {
        (0, FOREVER) => String::new(),
        (0, after) => format!("{}, ", words::deadline(after)),
        (before, after) => format!("{} -> {}, ", words::deadline(before), words::deadline(after)),
    };
    let denied = match change.before {
        Standing::Denied { .. } => rule(old, change.before).map(|rule| format!("; was denied by {rule}")),
        _ => None,
    };
    format!("{deadline}{by}{}", denied.unwrap_or_default())
}

fn closed(old: &View<'_>, new: &View<'_>, change: &Change) -> String {
    let was = rule(old, change.before).map(place).unwrap_or_default();
    let denied = match change.after {
        Standing::Denied { .. } => rule(new, change.after).map(|rule| format!("; now denied by {rule}")),
        _ => None,
    };
    format!("was {was}{}", denied.unwrap_or_default())
}

fn rule<'a>(view: &View<'a>, standing: Standing) -> Option<&'a RuleInfo> {
    match standing {
        Standing::Open { rule, .. } | Standing::Denied { rule } => view.compiled.rule(rule),
        Standing::Closed => None,
    }
}

/// A rule without its `why`, which is in the old file and of no more use.
fn place(rule: &RuleInfo) -> String {
    match (&rule.origin, &rule.destinations) {
        (Some(origin), Some(destinations)) => format!("{origin} ({destinations})"),
        _ => rule.to_string(),
    }
}

/// `deny` also beats grants and what other policies of a workload allow, so less of it broadens even where this policy
/// allows nothing behind it. The built-in refusals come and go with `metadata`, which is told by itself.
fn tell_refusals(section: &mut Section, old: &View<'_>, new: &View<'_>, difference: &Difference) {
    let sides = [
        ("deny removed", "was", old, &difference.no_longer_denied, true),
        ("deny added", "by", new, &difference.newly_denied, false),
    ];
    for (label, word, view, refusals, broadens) in sides {
        for Refusal { rule, cidrs } in refusals {
            let Some(rule) = view.compiled.rule(*rule).filter(|rule| rule.origin.is_some()) else { continue };
            let (ports, why) = ("every protocol".to_owned(), format!("{word} {rule}"));
            section.tell_addresses(label, Addresses { cidrs: cidrs.clone(), ports, why }, broadens);
        }
    }
}
