//! What the kernel reads: a policy compiled to the words of [`egress_warden_common::ruleset`].
//!
//! The way of a rule: its CIDRs become disjoint `ranges`, a `sweep` over all ranges finds which rules cover which
//! addresses, each such set of rules is flattened to port `intervals`, and `encode` writes it all down. What is allowed by
//! name takes the way of `names`.
//! [`nearest`], [`near_names`] and [`suggest`] look the other way: from a refused [`attempt`] back to what an operator wrote. [`compare`]
//! tells what one ruleset decides otherwise than another.
#![forbid(unsafe_code)]

pub mod attempt;
pub mod compare;
mod decode;
mod encode;
mod figures;
mod intervals;
mod names;
pub mod near_names;
pub mod nearest;
mod ranges;
pub mod suggest;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;

use egress_warden_common::Address;
use egress_warden_common::limits::NAME_ROOM;
use egress_warden_common::names::{Lookup, NO_CLASS};
use egress_warden_common::ruleset::{FLAG_DNS, NO_RULE, Ruleset};

use ipnet::IpNet;

use crate::policy::{Origin, Policy, own_host};
use encode::Parts;
pub use figures::{Figure, Usage};
use intervals::Ports;
use names::Names;
use ranges::Number;
use sweep::{Classes, Toggle};

/// A policy as the kernel reads it, with what is needed to tell a person which rule a number means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The ruleset. Equal policies give equal words.
    pub words: Vec<u64>,
    /// What each rule number means: first the entries by address, then those by name, then the refusals, each in the policy's
    /// order.
    pub rules: Vec<RuleInfo>,
    /// How much room it takes.
    pub usage: Usage,
}

impl Compiled {
    /// A hash of the words, the same on every machine and in every version with the same layout: FNV-1a, 64 bits.
    /// It tells rulesets apart for people and metrics; nothing is decided by it.
    #[must_use]
    pub fn hash(&self) -> u64 {
        hash(&self.words)
    }

    /// What this rule number means; `None` where a verdict names no rule.
    #[must_use]
    pub fn rule(&self, number: u32) -> Option<&RuleInfo> {
        if number == NO_RULE { None } else { self.rules.get(number as usize) }
    }

    /// Does the policy say something of names, so that queries are judged?
    #[must_use]
    pub fn judges_names(&self) -> bool {
        self.ruleset().flags().is_some_and(|flags| flags & FLAG_DNS != 0)
    }

    /// A reader for [`egress_warden_common::decide()`].
    #[must_use]
    pub fn ruleset(&self) -> Ruleset<'_, [u64]> {
        Ruleset::new(&self.words, 0)
    }
}

impl Compiled {
    /// The class of a name, by the lookup that the kernel drives.
    #[must_use]
    pub fn class_of_name(&self, name: &str) -> u32 {
        class_of_name(&self.ruleset(), name)
    }

    /// One address of each different place that names may point to.
    #[must_use]
    pub fn places(&self) -> Vec<Address> {
        decode::points(self)
    }
}

/// [`Compiled::class_of_name`] in a ruleset that was read back from the kernel.
#[must_use]
pub fn class_of_name(ruleset: &Ruleset<'_, [u64]>, name: &str) -> u32 {
    let mut text = [0; NAME_ROOM];
    let Some(room) = text.get_mut(..name.len()) else { return NO_CLASS };
    room.copy_from_slice(name.as_bytes());
    let mut lookup = Lookup::EMPTY;
    lookup.start(name.len() as u32);
    while !lookup.step(ruleset, &text) {}
    lookup.found()
}

/// [`Compiled::hash`] of words that were read back from the kernel.
#[must_use]
pub fn hash(words: &[u64]) -> u64 {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What a rule number means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// Where it was written; `None` for a built-in refusal.
    pub origin: Option<Origin>,
    /// The Destinations document that it belongs to; `None` for a refusal.
    pub destinations: Option<String>,
    /// The entry's `why`, or what a refusal protects.
    pub why: String,
    /// Does it allow or refuse?
    pub kind: RuleKind,
}

impl RuleInfo {
    /// Where it was written, or what a built-in refusal protects: what a record says of it.
    #[must_use]
    pub fn place(&self) -> String {
        self.origin.as_ref().map_or_else(|| self.why.clone(), ToString::to_string)
    }
}

impl fmt::Display for RuleInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{origin}")?,
            None => write!(f, "built-in")?,
        }
        if let Some(destinations) = &self.destinations {
            write!(f, " ({destinations})")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// Does a rule allow or refuse?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// An entry of a Destinations document.
    Allow,
    /// An entry of `deny`, or a built-in refusal.
    Deny,
}

/// Why a policy cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// It does not fit.
    #[error(
        "{origin}: policy `{policy}` is too large: {figure}: {found}{}, the limit is {}; {}",
        if *.at_least { " or more" } else { "" }, .figure.limit(), .figure.advice()
    )]
    TooLarge {
        /// The policy's name.
        policy: String,
        /// Where the policy begins.
        origin: Origin,
        /// What there is too much of.
        figure: Figure,
        /// How much of it there is.
        found: usize,
        /// Counting stopped there, because it was too much already.
        at_least: bool,
    },
    /// Two of its names have one place.
    #[error(
        "{origin}: policy `{policy}`: the names {one} and {other} cannot stand in one ruleset, because their hashes collide; \
         leave one of them out"
    )]
    Collision {
        /// The policy's name.
        policy: String,
        /// Where the policy begins.
        origin: Origin,
        /// One of the names.
        one: String,
        /// The other.
        other: String,
    },
}

/// More than the limit of a figure.
#[derive(Clone, Copy, Debug)]
struct Excess {
    figure: Figure,
    found: usize,
    at_least: bool,
}

impl Excess {
    fn check(figure: Figure, found: usize) -> Result<(), Self> {
        if found > figure.limit() { Err(Self { figure, found, at_least: false }) } else { Ok(()) }
    }
}

/// Why the parts of a ruleset cannot be made.
#[derive(Debug)]
enum Unfit {
    Excess(Excess),
    Collision { one: String, other: String },
}

impl From<Excess> for Unfit {
    fn from(excess: Excess) -> Self {
        Self::Excess(excess)
    }
}

impl Unfit {
    fn of(self, policy: &Policy) -> CompileError {
        let (name, origin) = (policy.name.clone(), policy.origin.clone());
        match self {
            Self::Excess(Excess { figure, found, at_least }) => {
                CompileError::TooLarge { policy: name, origin, figure, found, at_least }
            }
            Self::Collision { one, other } => CompileError::Collision { policy: name, origin, one, other },
        }
    }
}

/// Compiles a policy.
///
/// # Errors
/// When a figure goes past its limit, or two names cannot be told apart.
pub fn compile(policy: &Policy) -> Result<Compiled, CompileError> {
    let parts = build(policy).map_err(|unfit| unfit.of(policy))?;
    let names = parts.names.as_ref();
    let usage = Usage {
        prefixes: policy.rules.iter().map(|rule| rule.cidrs.len() + rule.except.len()).sum::<usize>()
            + policy.deny.len(),
        v4_boundaries: parts.v4.len(),
        v6_boundaries: parts.v6.len(),
        classes: parts.classes.len(),
        intervals: parts.classes.intervals(),
        names: names.map_or(0, Names::len),
        point_sets: names.map_or(0, Names::point_sets),
        quarantine_rules: policy.quarantine.len(),
    };
    Ok(Compiled { words: encode::encode(policy, &parts), rules: rule_infos(policy), usage })
}

fn build(policy: &Policy) -> Result<Parts, Unfit> {
    Excess::check(Figure::QuarantineRules, policy.quarantine.len())?;
    for rule in &policy.quarantine {
        Excess::check(Figure::Violations, rule.violations as usize)?;
    }
    let by_address = policy.rules.iter().map(|rule| Ports::new(&rule.ports, rule.expires, rule.keep));
    let by_name = policy.names.iter().map(|rule| Ports::new(&rule.ports, rule.expires, rule.keep));
    let ports: Vec<Ports> = by_address.chain(by_name).collect();
    let mut classes = Classes::new(&ports);
    let v4 = classes.sweep(&toggles::<u32>(policy))?;
    let v6 = classes.sweep(&toggles::<u128>(policy))?;
    Excess::check(Figure::V4Boundaries, v4.len())?;
    Excess::check(Figure::V6Boundaries, v6.len())?;
    let names = if policy.dns.judged { Some(Names::of(policy, &mut classes)?) } else { None };
    Ok(Parts { v4, v6, classes: classes.finish(), names })
}

/// Where rules begin and stop to cover addresses of one family, ascending.
fn toggles<N: Number>(policy: &Policy) -> Vec<Toggle<N>> {
    let mut toggles = Vec::new();
    for (number, rule) in (0u32..).zip(&policy.rules) {
        let covered = without_own_host::<N>(&rule.cidrs);
        add_toggles(ranges::subtract(covered, &ranges::merged(&rule.except)), number, &mut toggles);
    }
    let first_refusal = (policy.rules.len() + policy.names.len()) as u32;
    for (number, deny) in (first_refusal..).zip(&policy.deny) {
        add_toggles(ranges::merged(std::slice::from_ref(&deny.cidr)), number, &mut toggles);
    }
    // The stable sort merges the runs that the rules already are, and keeps their order where they meet.
    toggles.sort_by_key(|toggle| toggle.at);
    toggles
}

fn add_toggles<N: Number>(ranges: Vec<ranges::Range<N>>, rule: u32, toggles: &mut Vec<Toggle<N>>) {
    for range in ranges {
        toggles.push(Toggle { at: range.first, rule });
        toggles.extend(range.last.next().map(|at| Toggle { at, rule }));
    }
}

/// What these CIDRs allow: loopback only where a CIDR names it, and not as a part of something wide.
fn without_own_host<N: Number>(cidrs: &[IpNet]) -> Vec<ranges::Range<N>> {
    let (naming, wide): (Vec<IpNet>, Vec<IpNet>) = cidrs.iter().copied().partition(own_host::is_named_by);
    let wide = ranges::subtract(ranges::merged(&wide), &ranges::merged(&own_host::networks()));
    ranges::joined(wide, ranges::merged(&naming))
}

fn rule_infos(policy: &Policy) -> Vec<RuleInfo> {
    let allowing = |origin: &Origin, destinations: &str, why: &str| RuleInfo {
        origin: Some(origin.clone()),
        destinations: Some(destinations.to_owned()),
        why: why.to_owned(),
        kind: RuleKind::Allow,
    };
    let by_address = policy.rules.iter().map(|rule| allowing(&rule.origin, &rule.destinations, &rule.why));
    let by_name = policy.names.iter().map(|rule| allowing(&rule.origin, &rule.destinations, &rule.why));
    let refusing = policy.deny.iter().map(|deny| RuleInfo {
        origin: deny.origin.clone(),
        destinations: None,
        why: deny.why.clone(),
        kind: RuleKind::Deny,
    });
    by_address.chain(by_name).chain(refusing).collect()
}

#[cfg(test)]
mod tests;
