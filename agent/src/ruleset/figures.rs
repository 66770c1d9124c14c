//! How large a ruleset is, and how large it may be.

use std::fmt;

use egress_warden_common::limits::{
    MAX_BOUNDARIES, MAX_CLASSES, MAX_INTERVALS, MAX_INTERVALS_PER_CLASS, MAX_NAME_TARGETS, MAX_NAMES,
    MAX_POINT_SETS, MAX_QUARANTINE_RULES, MAX_QUERY_TYPES, MAX_WINDOW,
};

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
    /// Names, those under search suffixes included; a wildcard and the exact name of its base are one.
    pub names: usize,
    /// Different places that names may point to.
    pub point_sets: usize,
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
            (Figure::Names, self.names),
            (Figure::PointSets, self.point_sets),
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
    /// Names, those under search suffixes included.
    Names,
    /// Different places that one name may point to.
    NameTargets,
    /// Different places that the names of the whole ruleset may point to.
    PointSets,
    /// Query types.
    QueryTypes,
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
            Self::Names => MAX_NAMES as usize,
            Self::NameTargets => MAX_NAME_TARGETS as usize,
            Self::PointSets => MAX_POINT_SETS as usize,
            Self::QueryTypes => MAX_QUERY_TYPES as usize,
            Self::QuarantineRules => MAX_QUARANTINE_RULES,
            Self::Violations => MAX_WINDOW as usize,
        }
    }

    pub(super) const fn advice(self) -> &'static str {
        match self {
            Self::V4Boundaries | Self::V6Boundaries => "merge neighbouring CIDRs, or allow a larger one",
            Self::Classes | Self::IntervalsOfClass | Self::Intervals => {
                "give the same ports to more of its entries, or put entries with equal ports into one"
            }
            Self::Names => {
                "use wildcards, or fewer `dns.search` suffixes: each name counts once more for each"
            }
            Self::NameTargets | Self::PointSets => "give the same `resolvesTo` to more of its entries",
            Self::QueryTypes => "leave out of `dns.types` what is not needed",
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
            Self::Names => "names",
            Self::NameTargets => "different places for the answers of one name",
            Self::PointSets => "different places for answers",
            Self::QueryTypes => "query types",
            Self::QuarantineRules => "quarantine rules",
            Self::Violations => "violations of a quarantine rule",
        })
    }
}
