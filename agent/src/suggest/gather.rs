//! Records, summed up by where they wanted to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::evidence::{Evidence, Span};
use super::judge::{Wish, judge};
use crate::records::Event;
use crate::ruleset::suggest::Opening;

/// Workloads that are named; the rest are counted.
const NAMED: usize = 8;

/// What was tried on each port.
pub(crate) type Tried = BTreeMap<Opening, Evidence>;

/// All that the records say.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) records: u64,
    pub(crate) span: Span,
    pub(crate) names: BTreeMap<String, Named>,
    pub(crate) addresses: BTreeMap<IpAddr, Tried>,
    /// By heading, then by what was tried.
    pub(crate) left_out: BTreeMap<String, BTreeMap<String, Evidence>>,
    /// Who was asked for names that no entry allowed.
    pub(crate) resolvers: BTreeSet<IpAddr>,
    workloads: BTreeSet<String>,
}

/// Resolvers that a draft names.
const RESOLVERS: usize = 16;

/// What is known of one name.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Queries that were refused.
    pub(crate) asked: Evidence,
    pub(crate) tried: Tried,
    /// Where it led.
    pub(crate) addresses: BTreeSet<IpAddr>,
}

impl Gathered {
    pub(crate) fn add(&mut self, event: &Event) {
        self.records += 1;
        self.span.add(&event.time);
        self.workloads.insert(event.workload.clone());
        match judge(event) {
            Wish::Resolve { name } => {
                self.names.entry(name).or_default().asked.add(event);
                // That it is a resolver of the policy's was judged before the name.
                if self.resolvers.len() < RESOLVERS {
                    self.resolvers.extend(event.dst.map(|address| address.to_canonical()));
                }
            }
            Wish::Reach { name: Some(name), address, opening } => {
                let named = self.names.entry(name).or_default();
                named.addresses.insert(address);
                named.tried.entry(opening).or_default().add(event);
            }
            Wish::Reach { name: None, address, opening } => {
                self.addresses.entry(address).or_default().entry(opening).or_default().add(event);
            }
            Wish::No { heading, what } => {
                self.left_out.entry(heading).or_default().entry(what).or_default().add(event);
            }
        }
    }

    /// `2 workloads`.
    pub(crate) fn workloads(&self) -> u64 {
        self.workloads.len() as u64
    }

    /// The workloads for people.
    pub(crate) fn named_workloads(&self) -> String {
        let mut names: Vec<&str> = self.workloads.iter().take(NAMED).map(String::as_str).collect();
        let more = format!("{} more", self.workloads.len().saturating_sub(NAMED));
        if self.workloads.len() > NAMED {
            names.push(&more);
        }
        names.join(", ")
    }
}
