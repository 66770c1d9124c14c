//! `diff`: what is compared, against the `decide()` that the kernel runs; what is told, against golden files.

mod generators;

use std::net::IpAddr;

use egress_warden::policy::{Policy, PortRange};
use egress_warden::ruleset::compare::{Change, Difference, Standing, compare};
use egress_warden::ruleset::{Compiled, compile};
use egress_warden_common::ruleset::FOREVER;
use egress_warden_common::{Address, Facts, Reason, Route, decide};
use ipnet::IpNet;
use proptest::prelude::*;

use generators::{FixedClock, all_cidrs, beside, policy};

// ---- The difference is what decide() decides otherwise ----

/// Two policies, the second often a little change of the first.
fn two_policies() -> impl Strategy<Value = (Policy, Policy)> {
    let keep = || prop::collection::vec(prop::bool::weighted(0.7), 8);
    (policy(), policy(), any::<bool>(), keep(), keep()).prop_map(|(old, other, related, kept, taken)| {
        if !related {
            return (old, other);
        }
        let mut new = old.clone();
        new.mode = other.mode;
        let choose = |kept: &[bool], index: usize| kept[index % kept.len()];
        let rules = old.rules.iter().enumerate().filter(|(index, _)| choose(&kept, *index));
        let more = other.rules.iter().enumerate().filter(|(index, _)| !choose(&taken, *index));
        new.rules = more.chain(rules).map(|(_, rule)| rule.clone()).collect();
        let denies = old.deny.iter().enumerate().filter(|(index, _)| choose(&taken, *index));
        new.deny = denies.map(|(_, deny)| deny.clone()).collect();
        (old, new)
    })
}

/// Every address at or beside an end of these.
fn around(cidrs: &[IpNet]) -> Vec<IpAddr> {
    let ends = cidrs.iter().flat_map(|cidr| [cidr.network(), cidr.broadcast()]);
    let mut all: Vec<IpAddr> = ends.flat_map(|end| [-1, 0, 1].map(|step| beside(end, step))).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Every protocol and port at or beside an end of these.
fn around_ports(ports: &[PortRange]) -> Vec<(u8, u16)> {
    let ends = ports.iter().flat_map(|range| [(range.protocol, range.first), (range.protocol, range.last)]);
    let mut all: Vec<(u8, u16)> = ends
        .flat_map(|(protocol, port)| {
            [port.saturating_sub(1), port, port.saturating_add(1)].map(|port| (protocol, port))
        })
        .chain([(47, 0)])
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn covers(change: &Change, facts: &Facts) -> bool {
    let address = IpAddr::from(facts.destination);
    change.quarantined == facts.quarantined
        && change.cidrs.iter().any(|cidr| cidr.contains(&address))
        && change
            .ports
            .iter()
            .any(|range| range.protocol == facts.protocol && (range.first..=range.last).contains(&facts.port))
}

fn is_open(standing: Standing, now: Option<u64>) -> bool {
    standing.until() == FOREVER || now.is_some_and(|now| now < standing.until())
}

/// The difference names this attempt once where the two decide otherwise at some time, and not where they never do.
fn agrees(old: &Compiled, new: &Compiled, found: &Difference, facts: &Facts) -> Result<(), TestCaseError> {
    let changes: Vec<&Change> = found.changes.iter().filter(|change| covers(change, facts)).collect();
    prop_assert!(changes.len() <= 1, "{:?} is told twice: {:?}", facts, changes);
    for now in [None, Some(0), Some(1), Some(2), Some(3), Some(4), Some(5), Some(6)] {
        let verdict = |compiled: &Compiled| decide(&compiled.ruleset(), &FixedClock(now), facts);
        let (before, after) = (verdict(old), verdict(new));
        match changes.first() {
            None => {
                prop_assert_eq!(before.reason.allows(), after.reason.allows(), "{:?} at {:?}", facts, now)
            }
            Some(change) => {
                prop_assert_ne!(change.before.until(), change.after.until());
                for (verdict, standing) in [(before, change.before), (after, change.after)] {
                    prop_assert_eq!(verdict.reason.allows(), is_open(standing, now), "{:?}", facts);
                    match standing {
                        Standing::Denied { rule } => {
                            prop_assert_eq!((verdict.reason, verdict.rule), (Reason::Denied, rule));
                        }
                        Standing::Open { rule, .. } if !facts.quarantined => {
                            prop_assert_eq!(verdict.rule, rule)
                        }
                        Standing::Open { .. } | Standing::Closed => {}
                    }
                }
            }
        }
    }
    Ok(())
}

/// Is it refused whatever is allowed?
fn is_denied(compiled: &Compiled, address: IpAddr) -> bool {
    let facts = facts(address, (6, 1), false);
    decide(&compiled.ruleset(), &FixedClock(None), &facts).reason == Reason::Denied
}

fn facts(address: IpAddr, (protocol, port): (u8, u16), quarantined: bool) -> Facts {
    let destination = Address::from(address);
    let (route, host_namespace, reply) = (Route::Uplink, false, false);
    Facts { destination, protocol, port, route, host_namespace, reply, quarantined }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_difference_is_what_is_decided_otherwise((old_policy, new_policy) in two_policies()) {
        let (old, new) = (compile(&old_policy).unwrap(), compile(&new_policy).unwrap());
        let found = compare(&old, &new);
        let told = found.changes.iter().flat_map(|change| change.cidrs.iter().copied());
        let cidrs: Vec<IpNet> =
            told.chain(all_cidrs(&old_policy)).chain(all_cidrs(&new_policy)).collect();
        let rules = old_policy.rules.iter().chain(&new_policy.rules);
        let ports: Vec<PortRange> = rules.flat_map(|rule| rule.ports.iter().copied()).collect();
        let ports = around_ports(&ports);
        for address in around(&cidrs) {
            for port in &ports {
                for quarantined in [false, true] {
                    agrees(&old, &new, &found, &facts(address, *port, quarantined))?;
                }
            }
            let (before, after) = (is_denied(&old, address), is_denied(&new, address));
            for (refusals, expected) in
                [(&found.no_longer_denied, before && !after), (&found.newly_denied, after && !before)]
            {
                let named = refusals.iter().flat_map(|refusal| &refusal.cidrs);
                prop_assert_eq!(named.filter(|cidr| cidr.contains(&address)).count(), usize::from(expected));
            }
        }
        for change in &found.changes {
            prop_assert_eq!(&IpNet::aggregate(&change.cidrs), &change.cidrs, "the fewest CIDRs, in order");
        }
        prop_assert_eq!(compare(&new, &old).changes.len(), found.changes.len());
        prop_assert_eq!(compare(&old, &old), Difference::default());
    }
}
