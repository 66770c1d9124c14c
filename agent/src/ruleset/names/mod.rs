//! What a policy allows by name, in the form of [`egress_warden_common::names`].
//!
//! A lookup ends at the longest name of the table that is the one asked for, or above it. So what stands there has to hold
//! what every pattern says that covers it: the wildcards above are flattened into it here.

mod encode;
mod points;
mod table;

use std::collections::{BTreeMap, HashMap};

use egress_warden_common::limits::MAX_NAME;
use egress_warden_common::names::NO_CLASS;

use super::sweep::Classes;
use super::{Excess, Figure, Unfit};
use crate::policy::{Dns, Policy};
use points::Points;
use table::Slot;

/// The parts of a ruleset that belong to names, within their limits.
#[derive(Debug)]
pub(super) struct Names {
    /// Empty where only `dns` is written.
    table: Vec<Slot>,
    entries: Vec<Entry>,
    classes: Vec<Class>,
    points: Points,
}

/// A name of the table, with the classes of what it stands for: numbers from 1, or [`NO_CLASS`].
#[derive(Debug)]
struct Entry {
    text: String,
    own: u32,
    below: u32,
}

/// What is said of a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Class {
    /// Number of a set of addresses, and the class of intervals that is open there; ascending.
    targets: Vec<(u32, u32)>,
    allow_until: u64,
    keep_until: u64,
    rule: u32,
}

impl Names {
    /// Of a policy, whose rules' intervals become classes among those of addresses.
    pub(super) fn of(policy: &Policy, classes: &mut Classes<'_>) -> Result<Self, Unfit> {
        Excess::check(Figure::QueryTypes, policy.dns.types.len())?;
        let points = Points::of(policy)?;
        let written = written(policy)?;
        let mut numbers = ClassNumbers::new(policy.rules.len() as u32, &points, classes);
        let mut entries = Vec::with_capacity(written.len());
        for (text, rules) in &written {
            entries.push(Entry {
                text: text.clone(),
                own: numbers.of(&rules.own, text, &written)?,
                below: numbers.of(&rules.below, text, &written)?,
            });
        }
        let classes = numbers.finish();
        let texts: Vec<&str> = entries.iter().map(|entry| entry.text.as_str()).collect();
        let table = table::of(&texts)?;
        Ok(Self { table, entries, classes, points })
    }

    /// Names in the table.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Different places that they may point to.
    pub(super) fn point_sets(&self) -> usize {
        self.points.places()
    }
}

/// The rules whose patterns name a text: exactly, and with `*.` in front.
#[derive(Debug, Default)]
struct Written {
    own: Vec<u32>,
    below: Vec<u32>,
}

/// What is written, by text: under each search suffix as well, because resolver libraries ask so.
fn written(policy: &Policy) -> Result<BTreeMap<String, Written>, Excess> {
    let mut written: BTreeMap<String, Written> = BTreeMap::new();
    for (rule, entry) in (policy.rules.len() as u32..).zip(&policy.names) {
        for name in &entry.names {
            for pattern in std::iter::once(name.clone()).chain(searched(name, &policy.dns)) {
                match pattern.strip_prefix("*.") {
                    Some(base) => written.entry(base.to_owned()).or_default().below.push(rule),
                    None => written.entry(pattern).or_default().own.push(rule),
                }
            }
            Excess::check(Figure::Names, written.len())
                .map_err(|excess| Excess { at_least: true, ..excess })?;
        }
    }
    Ok(written)
}

/// A name under the search suffixes of a policy. What would be too long cannot be asked for; `check` has told so.
fn searched<'a>(name: &'a str, dns: &'a Dns) -> impl Iterator<Item = String> + 'a {
    dns.search
        .iter()
        .filter(move |suffix| name.len() + 1 + suffix.len() <= MAX_NAME)
        .map(move |suffix| format!("{name}.{suffix}"))
}

/// Gives equal classes one number.
#[derive(Debug)]
struct ClassNumbers<'a, 'p> {
    first_rule: u32,
    points: &'a Points,
    intervals: &'a mut Classes<'p>,
    of_rules: HashMap<Vec<u32>, u32>,
    of_class: HashMap<Class, u32>,
    classes: Vec<Class>,
}

impl<'a, 'p> ClassNumbers<'a, 'p> {
    fn new(first_rule: u32, points: &'a Points, intervals: &'a mut Classes<'p>) -> Self {
        let (of_rules, of_class) = (HashMap::new(), HashMap::new());
        Self { first_rule, points, intervals, of_rules, of_class, classes: Vec::new() }
    }

    fn finish(self) -> Vec<Class> {
        self.classes
    }

    /// The number of what these rules say of a name, together with every wildcard above it.
    fn of(&mut self, rules: &[u32], text: &str, written: &BTreeMap<String, Written>) -> Result<u32, Excess> {
        if rules.is_empty() {
            return Ok(NO_CLASS);
        }
        let mut rules = rules.to_vec();
        let bases = text.match_indices('.').filter_map(|(dot, _)| written.get(&text[dot + 1..]));
        rules.extend(bases.flat_map(|base| &base.below));
        rules.sort_unstable();
        rules.dedup();
        if let Some(number) = self.of_rules.get(&rules) {
            return Ok(*number);
        }
        let class = self.class(&rules)?;
        let next = self.classes.len() as u32 + 1;
        let number = *self.of_class.entry(class.clone()).or_insert(next);
        if number == next {
            self.classes.push(class);
        }
        self.of_rules.insert(rules, number);
        Ok(number)
    }

    fn class(&mut self, rules: &[u32]) -> Result<Class, Excess> {
        let mut by_set: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for rule in rules {
            by_set.entry(self.points.of_rule(*rule - self.first_rule)).or_default().push(*rule);
        }
        Excess::check(Figure::NameTargets, by_set.len())?;
        let targets = by_set.into_iter().map(|(set, rules)| Ok((set, self.intervals.of_rules(&rules)?)));
        let targets: Vec<(u32, u32)> = targets.collect::<Result<_, Excess>>()?;
        let latest = |until: fn(&super::Ports) -> u64| {
            rules.iter().map(|rule| until(self.intervals.ports(*rule))).max().unwrap_or(0)
        };
        Ok(Class {
            targets,
            allow_until: latest(|ports| ports.allow_until),
            keep_until: latest(|ports| ports.keep_until),
            rule: rules[0],
        })
    }
}
