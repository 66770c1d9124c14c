//! A valid set, and the policies in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::destinations::{self, Target};
use super::diagnostic::Diagnostic;
use super::dns::values;
use super::document::Documents;
use super::egress_policy::{EgressPolicy, Later};
use super::network::AddressSet;
use super::select::Select;
use super::settings::Settings;
use super::source::Sources;
use crate::policy::{Beyond, Deny, NameRule, Origin, Policy, Quarantine, Rule, metadata};

/// A Destinations document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destinations {
    /// Its name.
    pub name: String,
    /// Where the document begins.
    pub origin: Origin,
    /// Its entries by address, none of them kept in quarantine: that is a policy's to say.
    pub rules: Vec<Rule>,
    /// Its entries by name, none of them kept in quarantine.
    pub names: Vec<NameRule>,
}

/// A set of allowlists without an error.
#[derive(Debug)]
pub struct AllowlistSet {
    /// What a person should look at.
    pub warnings: Vec<Diagnostic>,
    destinations: Vec<Destinations>,
    policies: Vec<Draft>,
    files: Vec<PathBuf>,
}

/// A policy whose Destinations are still names: many policies share a large one, and few are asked for.
#[derive(Debug)]
struct Draft {
    /// All but the entries of Destinations.
    policy: Policy,
    allow: Vec<String>,
    keep: Vec<String>,
    select: Select,
    settings: Settings,
}

impl AllowlistSet {
    pub(crate) fn new(documents: Documents, sources: &Sources) -> Self {
        let Documents { destinations, policies, .. } = documents;
        Self {
            warnings: Vec::new(),
            destinations: destinations.into_iter().map(|one| rules(one, sources)).collect(),
            policies: policies.into_iter().map(|policy| draft(policy, sources)).collect(),
            files: sources.paths().map(Path::to_owned).collect(),
        }
    }

    pub(crate) fn with_warnings(mut self, warnings: Vec<Diagnostic>) -> Self {
        self.warnings = warnings;
        self
    }

    /// The files that were read, those of `cidrsFrom` included.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Names of the policies, in the order of reading.
    #[must_use]
    pub fn policies(&self) -> Vec<&str> {
        self.policies.iter().map(|draft| draft.policy.name.as_str()).collect()
    }

    /// The policy of this name.
    #[must_use]
    pub fn policy(&self, name: &str) -> Option<Policy> {
        let draft = self.draft(name)?;
        let by_name: HashMap<&str, &Destinations> =
            self.destinations.iter().map(|destinations| (destinations.name.as_str(), destinations)).collect();
        let mut policy = draft.policy.clone();
        for name in &draft.allow {
            let destinations = by_name.get(name.as_str()).expect("references were checked");
            let keep = draft.keep.contains(name);
            policy.rules.extend(destinations.rules.iter().map(|rule| Rule { keep, ..rule.clone() }));
            policy.names.extend(destinations.names.iter().map(|rule| NameRule { keep, ..rule.clone() }));
        }
        policy.dns.judged |= !policy.names.is_empty();
        Some(policy)
    }

    /// The keys of a policy that [`Policy`] does not carry.
    #[must_use]
    pub fn settings(&self, policy: &str) -> Option<&Settings> {
        self.draft(policy).map(|draft| &draft.settings)
    }

    /// `select` of a policy.
    pub(crate) fn select(&self, policy: &str) -> Option<&Select> {
        self.draft(policy).map(|draft| &draft.select)
    }

    fn draft(&self, policy: &str) -> Option<&Draft> {
        self.policies.iter().find(|draft| draft.policy.name == policy)
    }

    /// Every Destinations document, in the order of reading.
    #[must_use]
    pub fn destinations(&self) -> &[Destinations] {
        &self.destinations
    }
}

fn rules(document: destinations::Destinations, sources: &Sources) -> Destinations {
    let name = document.name.value;
    let (mut rules, mut by_name) = (Vec::new(), Vec::new());
    for entry in document.entries {
        let origin = sources.origin(entry.at);
        match entry.target {
            Target::Addresses(addresses) => rules.push(Rule {
                origin,
                destinations: name.clone(),
                why: entry.why,
                cidrs: values(addresses.cidrs),
                except: addresses.except,
                ports: entry.ports,
                expires: entry.expires,
                keep: false,
            }),
            Target::Domains { names, resolves_to } => by_name.push(NameRule {
                origin,
                destinations: name.clone(),
                why: entry.why,
                names: values(names),
                resolves_to: resolves_to.map(values),
                ports: entry.ports,
                expires: entry.expires,
                keep: false,
            }),
        }
    }
    Destinations { origin: sources.origin(document.at), name, rules, names: by_name }
}

fn later(later: Later, sources: &Sources) -> Beyond {
    Beyond { origin: sources.origin(later.at), what: later.what, agent: later.agent }
}

fn draft(document: EgressPolicy, sources: &Sources) -> Draft {
    let name = document.name.value;
    let mut deny: Vec<Deny> = document
        .deny
        .iter()
        .map(|net| Deny {
            origin: Some(sources.origin(net.at)),
            cidr: net.value,
            why: format!("deny entry of policy {name}"),
        })
        .collect();
    if document.metadata.is_none() {
        deny.extend(metadata::denies());
    }
    let quarantine = document.quarantine.as_ref().map(|rule| Quarantine {
        origin: sources.origin(rule.at),
        violations: rule.violations,
        within_ns: rule.within_ns,
        action: rule.action,
        scope: rule.scope,
        release: rule.release,
    });
    Draft {
        policy: Policy {
            name,
            origin: sources.origin(document.at),
            mode: document.mode,
            rules: Vec::new(),
            names: Vec::new(),
            deny,
            dns: document.dns.map(|dns| dns.policy).unwrap_or_default(),
            loopback: document.loopback,
            raw: document.raw,
            quarantine: quarantine.into_iter().collect(),
            existing: document.settings.existing,
            require_backstop: document.settings.require.contains("backstop"),
            beyond_exec: document.later.into_iter().map(|one| later(one, sources)).collect(),
        },
        allow: values(document.allow),
        keep: document.quarantine.map(|rule| values(rule.keep)).unwrap_or_default(),
        select: document.select.map(|select| select.value).unwrap_or_default(),
        settings: document.settings,
    }
}

/// The fewest IPv4 and IPv6 prefixes that make up what a policy allows on some port.
#[must_use]
pub fn prefixes(policy: &Policy) -> (usize, usize) {
    let sets =
        policy.rules.iter().map(|rule| AddressSet::of(&rule.cidrs).minus(&AddressSet::of(&rule.except)));
    let allowed = AddressSet::union(sets);
    allowed.minus(&AddressSet::of(policy.deny.iter().map(|deny| &deny.cidr))).prefixes()
}
