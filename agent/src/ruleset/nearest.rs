//! The nearest miss: what an operator wrote that came closest to allowing a refused attempt.

use std::cmp::Reverse;
use std::fmt;
use std::net::IpAddr;

use egress_warden_common::Reason;
use egress_warden_common::reason::{IPPROTO_ICMP, IPPROTO_ICMPV6};
use ipnet::IpNet;

use super::attempt::{Attempt, PortList};
use crate::policy::{Policy, PortRange, Rule};

/// What came closest to allowing an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NearestMiss<'a> {
    /// An entry of the policy covers the address, on other ports.
    OtherPorts {
        /// The entry.
        rule: &'a Rule,
        /// The address asked for.
        address: IpAddr,
    },
    /// An entry of the policy would allow it, but for its `except`.
    Excepted {
        /// The entry.
        rule: &'a Rule,
        /// The exception that takes the address out.
        except: IpNet,
    },
    /// An entry of Destinations that the policy does not allow covers the address.
    NotInAllow {
        /// The entry.
        rule: &'a Rule,
        /// The policy that would have to allow it.
        policy: &'a Policy,
        /// Does the entry cover the port as well?
        with_port: bool,
    },
    /// A CIDR of the policy is close by.
    Beside {
        /// The entry.
        rule: &'a Rule,
        /// The CIDR.
        cidr: IpNet,
    },
    /// The policy does not open the loopback interface.
    Loopback {
        /// The policy.
        policy: &'a Policy,
    },
}

impl fmt::Display for NearestMiss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherPorts { rule, address } => {
                let ports = ports_for(rule, *address);
                write!(f, "{} covers {address} on {}", place(rule), PortList(&ports))
            }
            Self::Excepted { rule, except } => {
                write!(f, "{} allows it but for `except: [{except}]`", place(rule))
            }
            Self::NotInAllow { rule, policy, with_port } => {
                write!(f, "{} covers it", place(rule))?;
                if !with_port {
                    write!(f, " on {}", PortList(&rule.ports))?;
                }
                write!(f, "; add {} to allow of policy {} at ", rule.destinations, policy.name)?;
                write!(f, "{}:{}", policy.origin.file.display(), policy.origin.line)
            }
            Self::Beside { rule, cidr } => write!(f, "{cidr} of {} is close by", place(rule)),
            Self::Loopback { policy } => write!(
                f,
                "to open the loopback interface write `loopback: allow` in policy {} at {}:{}",
                policy.name,
                policy.origin.file.display(),
                policy.origin.line
            ),
        }
    }
}

fn place(rule: &Rule) -> String {
    format!("{} ({})", rule.origin, rule.destinations)
}

/// What came closest to allowing a refused attempt, closest first. `destinations` are the entries of every Destinations
/// document that was read. Empty where nothing is near, and where allowing more would not help: a denied destination,
/// an expired entry, a quarantine.
#[must_use]
pub fn nearest<'a>(
    policy: &'a Policy,
    destinations: &'a [Rule],
    attempt: &Attempt,
    reason: Reason,
) -> Vec<NearestMiss<'a>> {
    let with_port = || not_in_allow(policy, destinations, attempt, true);
    match reason {
        Reason::PortNotAllowed | Reason::ProtocolNotAllowed => {
            other_ports(policy, attempt).into_iter().chain(with_port()).collect()
        }
        Reason::NotAllowlisted => {
            let elsewhere = with_port().or_else(|| not_in_allow(policy, destinations, attempt, false));
            let mut misses: Vec<_> = excepted(policy, attempt).into_iter().chain(elsewhere).collect();
            if misses.is_empty() {
                misses.extend(beside(policy, attempt));
            }
            misses
        }
        Reason::LoopbackDenied => vec![NearestMiss::Loopback { policy }],
        _ => Vec::new(),
    }
}

fn holds(cidrs: &[IpNet], address: IpAddr) -> Option<IpNet> {
    cidrs.iter().copied().find(|cidr| cidr.contains(&address))
}

fn covers(rule: &Rule, address: IpAddr) -> bool {
    holds(&rule.cidrs, address).is_some() && holds(&rule.except, address).is_none()
}

fn has_port(rule: &Rule, attempt: &Attempt) -> bool {
    rule.ports
        .iter()
        .any(|range| range.protocol == attempt.protocol && (range.first..=range.last).contains(&attempt.port))
}

/// The ports of an entry that exist for this address: ICMP differs between the families.
fn ports_for(rule: &Rule, address: IpAddr) -> Vec<PortRange> {
    let foreign = if address.is_ipv4() { IPPROTO_ICMPV6 } else { IPPROTO_ICMP };
    rule.ports.iter().copied().filter(|range| range.protocol != foreign).collect()
}

fn other_ports<'a>(policy: &'a Policy, attempt: &Attempt) -> Option<NearestMiss<'a>> {
    let address = attempt.address;
    let distance = |rule: &Rule| {
        let same_protocol = rule.ports.iter().filter(|range| range.protocol == attempt.protocol);
        same_protocol.map(|range| apart(range.first, range.last, attempt.port)).min().unwrap_or(u16::MAX)
    };
    let covering =
        policy.rules.iter().filter(|rule| covers(rule, address) && !ports_for(rule, address).is_empty());
    let rule = covering.min_by_key(|rule| distance(rule))?;
    Some(NearestMiss::OtherPorts { rule, address })
}

fn apart(first: u16, last: u16, port: u16) -> u16 {
    first.saturating_sub(port).max(port.saturating_sub(last))
}

fn excepted<'a>(policy: &'a Policy, attempt: &Attempt) -> Option<NearestMiss<'a>> {
    policy.rules.iter().filter(|rule| has_port(rule, attempt)).find_map(|rule| {
        holds(&rule.cidrs, attempt.address)?;
        Some(NearestMiss::Excepted { rule, except: holds(&rule.except, attempt.address)? })
    })
}

fn not_in_allow<'a>(
    policy: &'a Policy,
    destinations: &'a [Rule],
    attempt: &Attempt,
    with_port: bool,
) -> Option<NearestMiss<'a>> {
    let allowed = |rule: &Rule| policy.rules.iter().any(|known| known.destinations == rule.destinations);
    let mut covering = destinations.iter().filter(|rule| {
        covers(rule, attempt.address) && (!with_port || has_port(rule, attempt)) && !allowed(rule)
    });
    covering.next().map(|rule| NearestMiss::NotInAllow { rule, policy, with_port })
}

/// The closest CIDR, as far as it is in the same /16 of IPv4 or /48 of IPv6: farther away, closeness of numbers says
/// nothing of who lives there.
fn beside<'a>(policy: &'a Policy, attempt: &Attempt) -> Option<NearestMiss<'a>> {
    let wanted = number(attempt.address);
    let neighbourhood = if attempt.address.is_ipv4() { 16 } else { 80 };
    let entries = policy.rules.iter().flat_map(|rule| rule.cidrs.iter().map(move |cidr| (rule, *cidr)));
    let same_family = entries.filter(|(_, cidr)| cidr.addr().is_ipv4() == attempt.address.is_ipv4());
    let near = same_family.filter_map(|(rule, cidr)| {
        let (first, last) = (number(cidr.network()), number(cidr.broadcast()));
        let end = if wanted < first { first } else { last };
        let distance = wanted.abs_diff(end);
        (end >> neighbourhood == wanted >> neighbourhood).then_some((distance, cidr, rule))
    });
    let (_, cidr, rule) = near.min_by_key(|(distance, cidr, _)| (*distance, Reverse(cidr.prefix_len())))?;
    Some(NearestMiss::Beside { rule, cidr })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::testing::{attempt, policy, rule};

    fn told(policy: &Policy, destinations: &[Rule], to: &str, port: u16, reason: Reason) -> Option<String> {
        let misses = nearest(policy, destinations, &attempt(to, port), reason);
        misses.first().map(ToString::to_string)
    }

    #[test]
    fn other_ports_of_the_closest_entry_are_named() {
        let policy = policy(vec![
            rule("far", 3, &["10.0.0.0/8"], &[9000]),
            rule("internal", 12, &["10.0.0.0/8"], &[443, 8080]),
        ]);
        assert_eq!(
            told(&policy, &[], "10.0.0.5", 444, Reason::PortNotAllowed).as_deref(),
            Some("lists.yaml:12:5 (internal) covers 10.0.0.5 on 443, 8080")
        );
    }

    #[test]
    fn destinations_outside_allow_are_named_with_the_remedy() {
        let policy = policy(vec![rule("internal", 12, &["10.0.0.0/8"], &[443])]);
        let others = [
            rule("internal", 12, &["192.0.2.0/24"], &[443]),
            rule("mirror", 20, &["192.0.2.0/24"], &[8443]),
            rule("pypi", 30, &["192.0.2.0/24"], &[443]),
        ];
        assert_eq!(
            told(&policy, &others, "192.0.2.9", 443, Reason::NotAllowlisted).as_deref(),
            Some("lists.yaml:30:5 (pypi) covers it; add pypi to allow of policy training at policy.yaml:7")
        );
        assert_eq!(
            told(&policy, &others, "192.0.2.9", 80, Reason::NotAllowlisted).as_deref(),
            Some(
                "lists.yaml:20:5 (mirror) covers it on 8443; add mirror to allow of policy training at policy.yaml:7"
            )
        );
    }

    #[test]
    fn an_exception_is_named() {
        let mut internal = rule("internal", 12, &["10.0.0.0/8"], &[443]);
        internal.except = vec!["10.0.99.0/24".parse().unwrap()];
        assert_eq!(
            told(&policy(vec![internal]), &[], "10.0.99.7", 443, Reason::NotAllowlisted).as_deref(),
            Some("lists.yaml:12:5 (internal) allows it but for `except: [10.0.99.0/24]`")
        );
    }

    #[test]
    fn only_a_close_cidr_is_near() {
        let policy =
            policy(vec![rule("internal", 12, &["10.0.1.0/24", "10.0.9.0/24", "fd00:0:0:1::/64"], &[443])]);
        let near = |to| told(&policy, &[], to, 443, Reason::NotAllowlisted);
        assert_eq!(
            near("10.0.2.3").as_deref(),
            Some("10.0.1.0/24 of lists.yaml:12:5 (internal) is close by")
        );
        assert_eq!(
            near("10.0.8.255").as_deref(),
            Some("10.0.9.0/24 of lists.yaml:12:5 (internal) is close by")
        );
        assert_eq!(near("10.1.0.1"), None);
        assert_eq!(
            near("fd00::1").as_deref(),
            Some("fd00:0:0:1::/64 of lists.yaml:12:5 (internal) is close by")
        );
        assert_eq!(near("fd00:0:1::1"), None);
    }

    #[test]
    fn where_allowing_more_would_not_help_nothing_is_near() {
        let policy = policy(vec![rule("internal", 12, &["10.0.0.0/8"], &[443])]);
        assert_eq!(told(&policy, &[], "10.0.0.1", 443, Reason::Denied), None);
        assert_eq!(told(&policy, &[], "10.0.0.1", 443, Reason::Expired), None);
        let loopback = told(&policy, &[], "127.0.0.1", 443, Reason::LoopbackDenied).unwrap();
        assert!(loopback.contains("`loopback: allow` in policy training at policy.yaml:7"), "{loopback}");
    }
}
