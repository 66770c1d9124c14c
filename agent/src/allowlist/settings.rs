//! The keys of a policy that its compiled form does not carry, in a form that can be compared.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The keys, with every default filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `raw`: protocols by name, or by number where there is no name.
    pub raw: BTreeSet<String>,
    /// `existing`.
    pub existing: Existing,
    /// `require`.
    pub require: BTreeSet<String>,
    /// `quarantine.action`.
    pub action: Action,
    /// `quarantine.scope`.
    pub scope: Scope,
    /// `quarantine.release` in nanoseconds; `None` means by hand.
    pub release: Option<u64>,
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
