//! What the kernel reads: a policy compiled to the words of [`egress_warden_common::ruleset`].
//!
//! The way of a rule: its CIDRs become disjoint `ranges`, a `sweep` over all ranges finds which rules cover which
//! addresses, each such set of rules is flattened to port `intervals`, and `encode` writes it all down.
//! [`nearest`] and [`suggest`] look the other way: from a refused [`attempt`] back to what an operator wrote. [`compare`]
//! tells what one ruleset decides otherwise than another.
#![forbid(unsafe_code)]

pub mod attempt;
pub mod compare;
mod decode;
mod encode;
mod intervals;
pub mod nearest;
mod ranges;
pub mod suggest;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;

use egress_warden_common::limits::{
    MAX_BOUNDARIES, MAX_CLASSES, MAX_INTERVALS, MAX_INTERVALS_PER_CLASS, MAX_QUARANTINE_RULES, MAX_WINDOW,
};
use egress_warden_common::ruleset::{NO_RULE, Ruleset};

use ipnet::IpNet;

use crate::policy::{Origin, Policy, own_host};
use encode::Parts;
use intervals::Ports;
use ranges::Number;
use sweep::{Classes, Toggle};

/// A policy as the kernel reads it, with what is needed to tell a person which rule a number means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The ruleset. Equal policies give equal words.
    pub words: Vec<u64>,
    /// What each rule number means: first the allowing rules in the policy's order, then its refusals.
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

    /// A reader for [`egress_warden_common::decide()`].
    #[must_use]
    pub fn ruleset(&self) -> Ruleset<'_, [u64]> {
        Ruleset::new(&self.words, 0)
    }
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

/// How much of each capacity a ruleset takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CIDRs as written, `except` and `deny` included.
    pub prefixes: usize,
    /// Boundaries of IPv4.
    pub v4_boundaries: usize,
    /// Boundaries of IPv6.
    pub v6_boundaries: usize,
    /// Different sets of ports.
    pub classes: usize,
    /// Port intervals.
    pub intervals: usize,
    /// Quarantine rules.
    pub quarantine_rules: usize,
}

impl Usage {
    /// The figure that is closest to its limit, and its value.
    #[must_use]
    pub fn fullest(&self) -> (Figure, usize) {
        let figures = [
            (Figure::V4Boundaries, self.v4_boundaries),
            (Figure::V6Boundaries, self.v6_boundaries),
            (Figure::Classes, self.classes),
            (Figure::Intervals, self.intervals),
            (Figure::QuarantineRules, self.quarantine_rules),
        ];
        // Parts in a million tell apart what percent would not; the first of equals stands.
        let share = |(figure, found): &(Figure, usize)| found * 1_000_000 / figure.limit();
        figures.into_iter().rev().max_by_key(share).unwrap_or((Figure::V4Boundaries, self.v4_boundaries))
    }
}

/// A figure that has a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Boundaries between IPv4 ranges with different rules.
    V4Boundaries,
    /// The same for IPv6.
    V6Boundaries,
    /// Different sets of ports.
    Classes,
    /// Port intervals of one set of ports.
    IntervalsOfClass,
    /// Port intervals of the whole ruleset.
    Intervals,
    /// Quarantine rules.
    QuarantineRules,
    /// `quarantine.violations`.
    Violations,
}

impl Figure {
    /// The largest value that the kernel's side can hold.
    #[must_use]
    pub const fn limit(self) -> usize {
        match self {
            Self::V4Boundaries | Self::V6Boundaries => MAX_BOUNDARIES as usize,
            Self::Classes => MAX_CLASSES as usize,
            Self::IntervalsOfClass => MAX_INTERVALS_PER_CLASS as usize,
            Self::Intervals => MAX_INTERVALS as usize,
            Self::QuarantineRules => MAX_QUARANTINE_RULES,
            Self::Violations => MAX_WINDOW as usize,
        }
    }

    const fn advice(self) -> &'static str {
        match self {
            Self::V4Boundaries | Self::V6Boundaries => "merge neighbouring CIDRs, or allow a larger one",
            Self::Classes | Self::IntervalsOfClass | Self::Intervals => {
                "give the same ports to more of its entries, or put entries with equal ports into one"
            }
            Self::QuarantineRules => "merge fewer policies that have `quarantine`",
            Self::Violations => "lower `quarantine.violations`",
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4Boundaries => "boundaries between IPv4 ranges",
            Self::V6Boundaries => "boundaries between IPv6 ranges",
            Self::Classes => "different sets of ports",
            Self::IntervalsOfClass => "port ranges for one destination",
            Self::Intervals => "port ranges",
            Self::QuarantineRules => "quarantine rules",
            Self::Violations => "violations of a quarantine rule",
        })
    }
}

/// Why a policy cannot be compiled: it does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{origin}: policy `{policy}` is too large: {figure}: {found}{}, the limit is {}; {}",
    if *.at_least { " or more" } else { "" }, .figure.limit(), .figure.advice()
)]
pub struct CompileError {
    /// The policy's name.
    pub policy: String,
    /// Where the policy begins.
    pub origin: Origin,
    /// What there is too much of.
    pub figure: Figure,
    /// How much of it there is.
    pub found: usize,
    /// Counting stopped there, because it was too much already.
    pub at_least: bool,
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

/// Compiles a policy.
///
/// # Errors
/// When a figure goes past its limit.
pub fn compile(policy: &Policy) -> Result<Compiled, CompileError> {
    let parts = build(policy).map_err(|Excess { figure, found, at_least }| CompileError {
        policy: policy.name.clone(),
        origin: policy.origin.clone(),
        figure,
        found,
        at_least,
    })?;
    let usage = Usage {
        prefixes: policy.rules.iter().map(|rule| rule.cidrs.len() + rule.except.len()).sum::<usize>()
            + policy.deny.len(),
        v4_boundaries: parts.v4.len(),
        v6_boundaries: parts.v6.len(),
        classes: parts.classes.len(),
        intervals: parts.classes.intervals(),
        quarantine_rules: policy.quarantine.len(),
    };
    Ok(Compiled { words: encode::encode(policy, &parts), rules: rule_infos(policy), usage })
}

fn build(policy: &Policy) -> Result<Parts, Excess> {
    Excess::check(Figure::QuarantineRules, policy.quarantine.len())?;
    for rule in &policy.quarantine {
        Excess::check(Figure::Violations, rule.violations as usize)?;
    }
    let ports: Vec<Ports> = policy.rules.iter().map(Ports::new).collect();
    let mut classes = Classes::new(&ports);
    let v4 = classes.sweep(&toggles::<u32>(policy))?;
    let v6 = classes.sweep(&toggles::<u128>(policy))?;
    Excess::check(Figure::V4Boundaries, v4.len())?;
    Excess::check(Figure::V6Boundaries, v6.len())?;
    Ok(Parts { v4, v6, classes: classes.finish() })
}

/// Where rules begin and stop to cover addresses of one family, ascending.
fn toggles<N: Number>(policy: &Policy) -> Vec<Toggle<N>> {
    let mut toggles = Vec::new();
    let first_refusal = policy.rules.len() as u32;
    let allowing = policy.rules.iter().map(|rule| (rule.cidrs.as_slice(), rule.except.as_slice()));
    let refusing = policy.deny.iter().map(|deny| (std::slice::from_ref(&deny.cidr), [].as_slice()));
    for (rule, (cidrs, except)) in (0u32..).zip(allowing.chain(refusing)) {
        let covered = if rule < first_refusal { without_own_host::<N>(cidrs) } else { ranges::merged(cidrs) };
        for range in ranges::subtract(covered, &ranges::merged(except)) {
            toggles.push(Toggle { at: range.first, rule });
            toggles.extend(range.last.next().map(|at| Toggle { at, rule }));
        }
    }
    // The stable sort merges the runs that the rules already are, and keeps their order where they meet.
    toggles.sort_by_key(|toggle| toggle.at);
    toggles
}

/// What these CIDRs allow: loopback only where a CIDR names it, and not as a part of something wide.
fn without_own_host<N: Number>(cidrs: &[IpNet]) -> Vec<ranges::Range<N>> {
    let (naming, wide): (Vec<IpNet>, Vec<IpNet>) = cidrs.iter().copied().partition(own_host::is_named_by);
    let wide = ranges::subtract(ranges::merged(&wide), &ranges::merged(&own_host::networks()));
    ranges::joined(wide, ranges::merged(&naming))
}

fn rule_infos(policy: &Policy) -> Vec<RuleInfo> {
    let allowing = policy.rules.iter().map(|rule| RuleInfo {
        origin: Some(rule.origin.clone()),
        destinations: Some(rule.destinations.clone()),
        why: rule.why.clone(),
        kind: RuleKind::Allow,
    });
    let refusing = policy.deny.iter().map(|deny| RuleInfo {
        origin: deny.origin.clone(),
        destinations: None,
        why: deny.why.clone(),
        kind: RuleKind::Deny,
    });
    allowing.chain(refusing).collect()
}

#[cfg(test)]
mod tests;
