//! The keys of a policy that its compiled form does not carry, in a form that can be compared.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What `dns.types` is where it is not written.
const TYPES_DEFAULT: [&str; 4] = ["A", "AAAA", "HTTPS", "SVCB"];

/// What `dns.ttl` is where it is not written: the bounds by which a half-written one is judged.
pub(crate) const TTL_DEFAULT: (u64, u64) = (30_000_000_000, 3_600_000_000_000);

/// The keys, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `raw`: protocols by name, or by number where there is no name.
    pub raw: BTreeSet<String>,
    /// `existing`.
    pub existing: Existing,
    /// `require`.
    pub require: BTreeSet<String>,
    /// `dns.resolvers`; `None` means those of the workload's own `resolv.conf`.
    pub resolvers: Option<Vec<IpNet>>,
    /// `dns.search`.
    pub search: BTreeSet<String>,
    /// `dns.types`.
    pub types: BTreeSet<String>,
    /// `dns.ttl`, `min` and `max` in nanoseconds.
    pub ttl: (u64, u64),
    /// `quarantine.action`.
    pub action: Action,
    /// `quarantine.scope`.
    pub scope: Scope,
    /// `quarantine.release` in nanoseconds; `None` means by hand.
    pub release: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            raw: BTreeSet::new(),
            existing: Existing::default(),
            require: BTreeSet::new(),
            resolvers: None,
            search: BTreeSet::new(),
            types: TYPES_DEFAULT.into_iter().map(str::to_owned).collect(),
            ttl: TTL_DEFAULT,
            action: Action::default(),
            scope: Scope::default(),
            release: None,
        }
    }
}

/// `existing`, the strictest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Existing {
    /// `cut`.
    Cut,
    /// `judge`.
    #[default]
    Judge,
    /// `keep`.
    Keep,
}

/// `quarantine.action`, the mildest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// `isolate`.
    #[default]
    Isolate,
    /// `freeze`.
    Freeze,
    /// `kill`.
    Kill,
}

impl Action {
    const NAMES: [(Self, &'static str); 3] =
        [(Self::Isolate, "isolate"), (Self::Freeze, "freeze"), (Self::Kill, "kill")];

    /// As it is written in a policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(action, _)| *action == self).map_or("", |(_, name)| name)
    }

    /// The action that is written so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(action, _)| *action)
    }
}

/// `quarantine.scope`, the narrower first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// `pod`.
    #[default]
    Pod,
    /// `job`.
    Job,
}
