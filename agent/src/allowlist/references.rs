//! What only shows when all documents are seen together: names that lead nowhere, entries that can never match, and
//! what a person should look at.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::Context;
use super::destinations::{Addresses, Destinations, Entry, Target};
use super::document::{Documents, Kind};
use super::egress_policy::EgressPolicy;
use super::network::AddressSet;
use super::resolution;
use super::select::Select;
use super::suggest::nearest;
use crate::policy::metadata;

/// Checks the set as a whole.
pub(crate) fn check(documents: &Documents, context: &mut Context) {
    if documents.whole {
        dangling(documents, context);
    }
    let metadata = AddressSet::of(&metadata::networks());
    let by_name: HashMap<&str, &Destinations> = documents
        .destinations
        .iter()
        .map(|destinations| (destinations.name.value.as_str(), destinations))
        .collect();
    for policy in &documents.policies {
        unreachable_entries(policy, &by_name, &metadata, context);
    }
    // What is unused or overlaps is not known while a document could not be read.
    if context.report.errors() == 0 {
        unused(documents, context);
        overlapping_selectors(documents, context);
        resolution::advise(documents, &by_name, context);
        for policy in &documents.policies {
            idle_metadata(policy, &by_name, &metadata, context);
        }
    }
}

fn dangling(documents: &Documents, context: &mut Context) {
    for policy in &documents.policies {
        for name in &policy.allow {
            if documents.defined(Kind::Destinations, &name.value) {
                continue;
            }
            let message = format!("`allow`: there are no Destinations named {}", name.value);
            let finding = context.report.error(name.at, message);
            match nearest(&name.value, documents.names(Kind::Destinations)) {
                Some(near) => finding.help(format!("did you mean {near}?")),
                None => finding.help("define them, or name the file or directory that does"),
            }
        }
    }
}

fn addresses(entry: &Entry) -> Option<&Addresses> {
    match &entry.target {
        Target::Addresses(addresses) => Some(addresses),
        Target::Domains { .. } => None,
    }
}

/// Entries and resolvers whose addresses the policy refuses by its own `deny`, or by the built-in one.
fn unreachable_entries(
    policy: &EgressPolicy,
    by_name: &HashMap<&str, &Destinations>,
    metadata: &AddressSet,
    context: &mut Context,
) {
    let denied = AddressSet::of(policy.deny.iter().map(|net| &net.value));
    let refused =
        if policy.metadata.is_some() { denied } else { AddressSet::union([denied, metadata.clone()]) };
    resolution::unreachable(policy, by_name, &refused, context);
    for name in &policy.allow {
        let Some(destinations) = by_name.get(name.value.as_str()) else { continue };
        for entry in &destinations.entries {
            let Some(addresses) = addresses(entry).filter(|addresses| !addresses.set.is_empty()) else {
                continue;
            };
            if policy.metadata.is_none() && metadata_only(addresses, metadata, policy, context) {
                continue;
            }
            if refused.covers(&addresses.set) {
                let message = format!(
                    "`allow`: the entry of {} at {} can never match: `deny` of this policy refuses all its addresses",
                    name.value,
                    context.sources.origin(entry.at)
                );
                context
                    .report
                    .error(name.at, message)
                    .help("narrow `deny`, or do not allow these Destinations");
            }
        }
    }
}

/// Reports the CIDRs that hold nothing but instance metadata; true when there were some.
fn metadata_only(
    addresses: &Addresses,
    metadata: &AddressSet,
    policy: &EgressPolicy,
    context: &mut Context,
) -> bool {
    let single = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
    let errors = context.report.errors();
    for cidr in addresses.cidrs.iter().filter(|cidr| single(&cidr.value) && metadata.contains(&cidr.value)) {
        let message = format!(
            "{} is an instance metadata address; policy {} at {} refuses those, so this can never match",
            cidr.value,
            policy.name.value,
            context.sources.origin(policy.name.at)
        );
        context
            .report
            .error(cidr.at, message)
            .help("remove it; or write metadata: true in the policy, which hands the node's credentials to the workload");
    }
    context.report.errors() > errors
}

/// `metadata: true` where nothing that the policy allows covers a metadata address.
fn idle_metadata(
    policy: &EgressPolicy,
    by_name: &HashMap<&str, &Destinations>,
    metadata: &AddressSet,
    context: &mut Context,
) {
    let Some(at) = policy.metadata else { return };
    let denied = AddressSet::of(policy.deny.iter().map(|net| &net.value));
    let open = metadata.minus(&denied);
    let covered = policy
        .allow
        .iter()
        .filter_map(|name| by_name.get(name.value.as_str()))
        .flat_map(|destinations| destinations.entries.iter().filter_map(addresses))
        .any(|addresses| addresses.set.meets(&open));
    if !covered {
        context
            .report
            .warning(at, "`metadata: true`, but nothing that is allowed covers an instance metadata address")
            .help("remove it, or allow the address that is needed, such as 169.254.169.254/32 with its port");
    }
}

fn unused(documents: &Documents, context: &mut Context) {
    let used: HashSet<&str> = documents
        .policies
        .iter()
        .flat_map(|policy| policy.allow.iter().map(|name| name.value.as_str()))
        .collect();
    for destinations in documents.destinations.iter().filter(|one| !used.contains(one.name.value.as_str())) {
        let message = format!("no policy allows the Destinations {}", destinations.name.value);
        context
            .report
            .warning(destinations.name.at, message)
            .help("name them in `allow` of a policy, or remove them");
    }
}

/// Policies that certainly apply to the same workloads, each told once. What else overlaps only the agent knows, who
/// sees workloads.
fn overlapping_selectors(documents: &Documents, context: &mut Context) {
    let mut same: HashMap<&Select, &EgressPolicy> = HashMap::new();
    let mut any: Option<&EgressPolicy> = None;
    let mut all: Option<&EgressPolicy> = None;
    for policy in &documents.policies {
        let Some(select) = &policy.select else { continue };
        let (what, earlier) = match (same.get(&select.value), all, any) {
            (Some(&earlier), _, _) => ("selects the same workloads as", Some(earlier)),
            (None, Some(earlier), _) => ("selects workloads also of", Some(earlier)),
            (None, None, Some(earlier)) if select.value.all => ("selects workloads also of", Some(earlier)),
            _ => ("", None),
        };
        if let Some(earlier) = earlier {
            let message = format!(
                "policy {} {what} policy {} at {}; on one workload they add up",
                policy.name.value,
                earlier.name.value,
                context.sources.origin(earlier.name.at)
            );
            context.report.warning(select.at, message);
            resolution::apart(policy, earlier, context);
        }
        same.entry(&select.value).or_insert(policy);
        any = any.or(Some(policy));
        all = all.or_else(|| select.value.all.then_some(policy));
    }
}
