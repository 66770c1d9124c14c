//! What a policy says of a name: of the query, and of the port at what is answered.

use std::collections::BTreeMap;

use egress_warden_common::decide::{Clock, DNS_PORT};
use egress_warden_common::limits::MAX_NAME;
use egress_warden_common::reason::{IPPROTO_TCP, IPPROTO_UDP};
use egress_warden_common::ruleset::{FOREVER, NO_RULE};
use egress_warden_common::{Facts, Reason, Route, Verdict};

use super::{Explanation, audit, deadline};
use crate::allowlist::type_name;
use crate::policy::{NameRule, Policy};
use crate::ruleset::attempt::NamedAttempt;
use crate::ruleset::near_names::near_names;
use crate::ruleset::{CompileError, Compiled, compile};

/// What a client asks for before it connects: A and AAAA.
const ADDRESSES: [u16; 2] = [1, 28];

/// Asks the policy. `all` are the entries by name of every Destinations document that was read.
///
/// # Errors
/// When the policy cannot be compiled.
pub fn explain_name(
    policy: &Policy,
    all: &[NameRule],
    attempt: &NamedAttempt,
    clock: &impl Clock,
) -> Result<Explanation, CompileError> {
    let compiled = compile(policy)?;
    let class = compiled.class_of_name(&attempt.name);
    let query = query(&compiled, attempt, class, clock);
    let open = if query.reason.allows() { open(&compiled, attempt, class, clock) } else { Err(query) };
    let asked = attempt.to_string();
    match open {
        Ok(open) => {
            let (number, until) = open[0];
            let verdict = Verdict { reason: Reason::Allowed, rule: number, until };
            let mut notes: Vec<String> = deadline(policy, &verdict, clock).into_iter().collect();
            notes.extend(open.iter().map(|(rule, _)| place(policy, &compiled, *rule, number)));
            let by = compiled.rule(number).map(ToString::to_string);
            Ok(Explanation { asked, verdict, by, notes })
        }
        Err(verdict) => {
            let mut notes: Vec<String> = deadline(policy, &verdict, clock).into_iter().collect();
            notes.extend(hint(policy, verdict.reason));
            let misses = near_names(policy, all, attempt, verdict.reason);
            notes.extend(misses.iter().map(|miss| format!("nearest: {miss}")));
            notes.extend(audit(policy));
            Ok(Explanation { asked, verdict, by: None, notes })
        }
    }
}

const fn refusal(reason: Reason) -> Verdict {
    Verdict { reason, rule: NO_RULE, until: FOREVER }
}

/// May its addresses be asked for, of one family at least?
fn query(compiled: &Compiled, attempt: &NamedAttempt, class: u32, clock: &impl Clock) -> Verdict {
    if attempt.name.len() > MAX_NAME {
        return refusal(Reason::DnsMalformed);
    }
    let [a, aaaa] = ADDRESSES.map(|kind| compiled.ruleset().query(clock, class, kind, false));
    if a.reason.allows() { a } else { aaaa }
}

/// The entries that open the port, by number, with their deadlines, or why none does.
fn open(
    compiled: &Compiled,
    attempt: &NamedAttempt,
    class: u32,
    clock: &impl Clock,
) -> Result<Vec<(u32, u64)>, Verdict> {
    // Such a packet is a query, to whatever address.
    match attempt.protocol {
        IPPROTO_TCP if attempt.v4 == Some(DNS_PORT) => return Err(refusal(Reason::DnsTcp)),
        IPPROTO_UDP if attempt.v4 == Some(DNS_PORT) => return Err(refusal(Reason::DnsServer)),
        _ => {}
    }
    let mut open = BTreeMap::new();
    let mut nearest = refusal(Reason::NotAllowlisted);
    for destination in compiled.places() {
        let Some((protocol, port)) = attempt.at(destination) else { continue };
        let facts = Facts {
            destination,
            protocol,
            port,
            route: Route::Uplink,
            host_namespace: false,
            reply: false,
            to_node: false,
            quarantined: false,
            own_resolver: false,
        };
        let verdict = compiled.ruleset().by_name(clock, &facts, class, refusal(Reason::NotAllowlisted));
        if verdict.reason.allows() {
            open.insert(verdict.rule, verdict.until);
        } else if nearest.reason == Reason::NotAllowlisted {
            nearest = verdict;
        }
    }
    if open.is_empty() { Err(nearest) } else { Ok(open.into_iter().collect()) }
}

/// Where an entry opens the port. Only the resolver knows whether the name points there.
fn place(policy: &Policy, compiled: &Compiled, rule: u32, first: u32) -> String {
    let entry = (rule as usize).checked_sub(policy.rules.len()).and_then(|index| policy.names.get(index));
    let inside = match entry.and_then(|entry| entry.resolves_to.as_ref()) {
        Some(cidrs) => {
            let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
            format!("inside resolvesTo: [{}]", cidrs.join(", "))
        }
        None => "global unicast".to_owned(),
    };
    let denied = if policy.deny.iter().any(|deny| deny.origin.is_some()) { " and not in `deny`" } else { "" };
    let also = match compiled.rule(rule).filter(|_| rule != first) {
        Some(rule) => format!("; by {rule}"),
        None => String::new(),
    };
    format!(
        "at the addresses that a resolver of the policy answers for it, where they are {inside}{denied}{also}"
    )
}

fn hint(policy: &Policy, reason: Reason) -> Option<String> {
    match reason {
        Reason::DnsName if !policy.dns.judged => Some(format!(
            "policy {} allows nothing by name, and does not judge DNS: its entries are for addresses; ask with one",
            policy.name
        )),
        Reason::DnsType => {
            let types: Vec<String> = policy.dns.types.iter().copied().map(type_name).collect();
            Some(format!("`dns.types` of policy {} are {}", policy.name, types.join(", ")))
        }
        _ => None,
    }
}
