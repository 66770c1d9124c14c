//! Names, resolvers and port 53, which depend on what a policy says elsewhere.

use std::collections::{HashMap, HashSet};

use egress_warden_common::decide::DNS_PORT;
use egress_warden_common::limits::MAX_NAME;
use egress_warden_common::reason::{IPPROTO_TCP, IPPROTO_UDP};

use super::Context;
use super::destinations::{Destinations, Entry, Target};
use super::document::Documents;
use super::egress_policy::EgressPolicy;
use super::network::AddressSet;
use super::source::{Located, Span};
use crate::policy::{in_both, resolvable};

/// Destinations by name.
type ByName<'a> = HashMap<&'a str, &'a Destinations>;

/// What can never be asked or reached.
pub(super) fn unreachable(
    policy: &EgressPolicy,
    by_name: &ByName<'_>,
    refused: &AddressSet,
    context: &mut Context,
) {
    for resolver in policy.dns.iter().flat_map(|dns| &dns.resolvers) {
        if refused.contains(&resolver.value) {
            let message = format!(
                "`resolvers`: {} can never be asked: `deny` of this policy, or a built-in refusal, covers it",
                resolver.value
            );
            context.report.error(resolver.at, message).help(
                "take it out of `deny`; where it is an instance metadata address, write metadata: true in the policy",
            );
        }
    }
    for (name, destinations) in allowed(policy, by_name) {
        for entry in &destinations.entries {
            let Target::Domains { resolves_to, .. } = &entry.target else { continue };
            let places = match resolves_to {
                Some(nets) => AddressSet::of(nets.iter().map(|net| &net.value)),
                None => global_unicast(),
            };
            let open = places.minus(&AddressSet::of(&never()));
            if !open.is_empty() && refused.covers(&open) {
                let message = format!(
                    "`allow`: the entry of {} at {} can never match: `deny` of this policy refuses every address that its \
                     names may point to",
                    name.value,
                    context.sources.origin(entry.at)
                );
                let help = "narrow `deny`, or do not allow these Destinations";
                context.report.error(name.at, message).help(help);
            }
        }
    }
}

fn never() -> Vec<ipnet::IpNet> {
    resolvable::never().map(|(network, _)| network).collect()
}

fn global_unicast() -> AddressSet {
    let [unicast, not_global, after_all] = resolvable::global_unicast().map(|nets| AddressSet::of(&nets));
    AddressSet::union([unicast.minus(&not_global), after_all])
}

/// What a person should look at.
pub(super) fn advise(documents: &Documents, by_name: &ByName<'_>, context: &mut Context) {
    let mut told = HashSet::new();
    for policy in &documents.policies {
        let named =
            allowed(policy, by_name).any(|(_, destinations)| destinations.entries.iter().any(is_by_name));
        if named || policy.dns.is_some() {
            idle_ports(policy, by_name, &mut told, context);
        }
        if let Some(dns) = policy.dns.as_ref().filter(|_| !named) {
            context
                .report
                .warning(
                    dns.at,
                    "`dns`: port 53 is judged as DNS, but nothing is allowed by name: every query is refused",
                )
                .help("allow Destinations with `domains`, or remove `dns`");
        }
        long_names(policy, by_name, context);
    }
}

fn is_by_name(entry: &Entry) -> bool {
    matches!(entry.target, Target::Domains { .. })
}

fn allowed<'p, 'd>(
    policy: &'p EgressPolicy,
    by_name: &'p ByName<'d>,
) -> impl Iterator<Item = (&'p Located<String>, &'d Destinations)> {
    policy.allow.iter().filter_map(|name| Some((name, *by_name.get(name.value.as_str())?)))
}

/// Entries that name port 53, each told once. (One without `ports` was not written for DNS.)
fn idle_ports(policy: &EgressPolicy, by_name: &ByName<'_>, told: &mut HashSet<Span>, context: &mut Context) {
    for (_, destinations) in allowed(policy, by_name) {
        for entry in &destinations.entries {
            let dns = entry.ports.iter().any(|range| {
                matches!(range.protocol, IPPROTO_TCP | IPPROTO_UDP)
                    && (range.first..=range.last).contains(&DNS_PORT)
            });
            let Some(at) = entry.ports_at.filter(|at| dns && told.insert(*at)) else { continue };
            let message = format!(
                "`ports`: port 53 opens nothing in policy {}, which judges it as DNS",
                policy.name.value
            );
            context.report.warning(at, message).help("queries go to `dns.resolvers` of the policy, over UDP");
        }
    }
}

/// Names that become too long under a search suffix.
fn long_names(policy: &EgressPolicy, by_name: &ByName<'_>, context: &mut Context) {
    for suffix in policy.dns.iter().flat_map(|dns| &dns.search) {
        let entries = allowed(policy, by_name).flat_map(|(_, destinations)| &destinations.entries);
        let names = entries.filter_map(|entry| match &entry.target {
            Target::Domains { names, .. } => Some(names),
            Target::Addresses(_) => None,
        });
        let mut long = names.flatten().filter(|name| name.value.len() + 1 + suffix.value.len() > MAX_NAME);
        let Some(first) = long.next() else { continue };
        let more = match long.count() {
            0 => String::new(),
            more => format!(", and {more} more,"),
        };
        let message = format!(
            "`search`: the name at {}{more} would be longer than {MAX_NAME} characters under {}, and cannot be asked for there",
            context.sources.origin(first.at),
            suffix.value
        );
        context.report.warning(suffix.at, message);
    }
}

/// Policies on the same workloads that name resolvers, and none in common.
pub(super) fn apart(policy: &EgressPolicy, earlier: &EgressPolicy, context: &mut Context) {
    let resolvers = |policy: &'_ EgressPolicy| policy.dns.as_ref()?.policy.resolvers.clone();
    let (Some(one), Some(other)) = (resolvers(policy), resolvers(earlier)) else { return };
    let first = policy.dns.iter().flat_map(|dns| &dns.resolvers).next();
    if let Some(first) = first.filter(|_| in_both(&one, &other).is_empty()) {
        let message = format!(
            "`resolvers`: none of them is one of policy {} at {}, which applies to the same workloads: those have no resolver",
            earlier.name.value,
            context.sources.origin(earlier.name.at)
        );
        context.report.warning(first.at, message).help("name the same resolvers in both");
    }
}
