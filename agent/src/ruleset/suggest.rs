//! The lines of YAML that would allow what was refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use egress_warden_common::reason::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};
use ipnet::IpNet;

use super::attempt::Attempt;
use crate::allowlist::domain::canonical;
use crate::policy::icmp;
use crate::policy::resolvable::never_holds;
use crate::suggest::addresses::resolves_to;
use crate::suggest::document::{cidrs, scalar};

/// What a reviewer reads until somebody writes more.
const WHY: &str = "was refused; say what it is for";

/// Entries for `spec.to` of a Destinations document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// The entries, as items of a list without indentation; empty where nothing can be written.
    pub yaml: String,
    /// What no entry can allow: protocols other than TCP, UDP and ICMP, and ICMP types without a name.
    pub left_out: Vec<Attempt>,
}

/// The port of a name of which only the query was seen.
pub(crate) const USUAL_PORT: u16 = 443;

/// One port or message type, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Opening {
    Tcp(u16),
    Udp(u16),
    Icmp(&'static str),
}

impl Opening {
    pub(crate) fn of(attempt: &Attempt) -> Option<Self> {
        match attempt.protocol {
            // Port 0 cannot be written: nobody listens there.
            IPPROTO_TCP if attempt.port > 0 => Some(Self::Tcp(attempt.port)),
            IPPROTO_UDP if attempt.port > 0 => Some(Self::Udp(attempt.port)),
            IPPROTO_ICMP | IPPROTO_ICMPV6 => icmp::name(attempt.protocol, attempt.port).map(Self::Icmp),
            _ => None,
        }
    }
}

/// Writes entries that allow exactly these attempts: one for all addresses that were asked for on the same ports.
#[must_use]
pub fn suggest_entries<'a>(refused: impl IntoIterator<Item = &'a Attempt>) -> Suggestion {
    let mut openings: BTreeMap<IpAddr, BTreeSet<Opening>> = BTreeMap::new();
    let mut left_out = BTreeSet::new();
    for attempt in refused {
        match Opening::of(attempt) {
            Some(opening) => drop(openings.entry(attempt.address).or_default().insert(opening)),
            None => drop(left_out.insert(*attempt)),
        }
    }
    let mut entries: BTreeMap<BTreeSet<Opening>, Vec<IpAddr>> = BTreeMap::new();
    for (address, opened) in openings {
        entries.entry(opened).or_default().push(address);
    }
    let yaml = entries.iter().map(|(opened, addresses)| entry(opened, addresses)).collect();
    Suggestion { yaml, left_out: left_out.into_iter().collect() }
}

/// Entries by name that are written where a person looks on.
const ENTRIES: usize = 32;

/// Entries that allow exactly these names: on the ports that were tried under them, and at the addresses where they were found.
/// Where only the query was seen, on the port that most names are for. Empty where there is none that an entry can hold; and how
/// many entries there would be beside those that are written.
#[must_use]
pub fn suggest_names<'a>(
    asked: impl IntoIterator<Item = &'a str>,
    reached: impl IntoIterator<Item = (&'a str, Attempt)>,
) -> (String, usize) {
    let mut found: BTreeMap<String, (BTreeSet<Opening>, BTreeSet<IpAddr>)> = BTreeMap::new();
    for name in asked.into_iter().filter_map(canonical) {
        found.entry(name).or_default();
    }
    for (name, attempt) in reached {
        let (Some(name), Some(opening)) = (canonical(name), Opening::of(&attempt)) else { continue };
        let (openings, addresses) = found.entry(name).or_default();
        openings.insert(opening);
        addresses.insert(attempt.address);
    }
    let mut entries: BTreeMap<(BTreeSet<Opening>, Vec<IpNet>), Vec<String>> = BTreeMap::new();
    for (name, (opened, addresses)) in found {
        entries.entry((opened, resolves_to(&addresses))).or_default().push(name);
    }
    let written = entries.iter().take(ENTRIES);
    let yaml = written.map(|((opened, resolves_to), names)| by_name(names, resolves_to, opened)).collect();
    (yaml, entries.len().saturating_sub(ENTRIES))
}

/// Can an entry with `domains` allow this attempt under this name? What no answer may point to can be allowed by its address only.
#[must_use]
pub fn is_for_a_name(name: &str, attempt: &Attempt) -> bool {
    canonical(name).is_some()
        && Opening::of(attempt).is_some()
        && never_holds(&attempt.address.into()).is_none()
}

fn by_name(names: &[String], resolves_to: &[IpNet], opened: &BTreeSet<Opening>) -> String {
    let mut yaml = format!("- domains: [{}]\n", joined(names.iter().map(|name| scalar(name))));
    if !resolves_to.is_empty() {
        yaml.push_str(&format!("  resolvesTo: {}\n", cidrs(resolves_to)));
    }
    if opened.is_empty() {
        yaml.push_str("  # no port was seen: a guess\n");
        yaml.push_str(&rest(&BTreeSet::from([Opening::Tcp(USUAL_PORT)])));
    } else {
        yaml.push_str(&rest(opened));
    }
    yaml
}

fn entry(opened: &BTreeSet<Opening>, addresses: &[IpAddr]) -> String {
    let networks: Vec<IpNet> = addresses.iter().map(|address| IpNet::from(*address)).collect();
    format!("- cidrs: {}\n{}", cidrs(&networks), rest(opened))
}

fn rest(opened: &BTreeSet<Opening>) -> String {
    let mut yaml: String = keys(opened).iter().map(|key| format!("  {key}\n")).collect();
    yaml.push_str(&format!("  why: {WHY}\n"));
    yaml
}

/// `ports`, and `icmp` where it is needed, each a line.
pub(crate) fn keys(opened: &BTreeSet<Opening>) -> Vec<String> {
    let ports = opened.iter().filter_map(|opening| match opening {
        Opening::Tcp(port) => Some(port.to_string()),
        Opening::Udp(port) => Some(format!("\"{port}/udp\"")),
        Opening::Icmp(_) => None,
    });
    let types: Vec<&str> = opened
        .iter()
        .filter_map(|opening| if let Opening::Icmp(name) = opening { Some(*name) } else { None })
        .collect();
    // `ports` is written even when it is empty: an entry without the key opens every port.
    let mut keys = vec![format!("ports: [{}]", joined(ports))];
    if !types.is_empty() {
        keys.push(format!("icmp: [{}]", types.join(", ")));
    }
    keys
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(address: &str, protocol: u8, port: u16) -> Attempt {
        Attempt { address: address.parse().unwrap(), protocol, port }
    }

    #[test]
    fn addresses_with_the_same_ports_share_an_entry() {
        let refused = [
            attempt("192.0.2.9", IPPROTO_TCP, 443),
            attempt("2001:db8::1", IPPROTO_TCP, 443),
            attempt("192.0.2.9", IPPROTO_TCP, 443),
            attempt("192.0.2.10", IPPROTO_UDP, 53),
            attempt("192.0.2.10", IPPROTO_TCP, 53),
            attempt("192.0.2.11", IPPROTO_ICMP, 8),
            attempt("192.0.2.12", 47, 0),
            attempt("192.0.2.12", IPPROTO_TCP, 0),
        ];
        let suggestion = suggest_entries(&refused);
        assert_eq!(
            suggestion.yaml,
            "- cidrs: [192.0.2.10/32]\n  ports: [53, \"53/udp\"]\n  why: was refused; say what it is for\n\
             - cidrs: [192.0.2.9/32, \"2001:db8::1/128\"]\n  ports: [443]\n  why: was refused; say what it is for\n\
             - cidrs: [192.0.2.11/32]\n  ports: []\n  icmp: [echo-request]\n  why: was refused; say what it is for\n"
        );
        assert_eq!(suggestion.left_out, [refused[7], refused[6]]);
    }

    #[test]
    fn the_entries_are_yaml_that_says_the_same() {
        let refused = [attempt("fd00::1", IPPROTO_UDP, 53), attempt("10.0.0.1", IPPROTO_TCP, 22)];
        let read: serde_yaml::Value = serde_yaml::from_str(&suggest_entries(&refused).yaml).unwrap();
        assert_eq!(read[0]["cidrs"][0], "10.0.0.1/32");
        assert_eq!(read[0]["ports"][0], 22);
        assert_eq!(read[1]["cidrs"][0], "fd00::1/128");
        assert_eq!(read[1]["ports"][0], "53/udp");
    }

    #[test]
    fn names_that_an_entry_can_hold_share_one() {
        let refused = ["models.example", "on", "10.0.0.1", "a\nb.example", "models.example", ""];
        let (yaml, _) = suggest_names(refused, []);
        assert_eq!(
            yaml,
            "- domains: [models.example, \"on\"]\n  # no port was seen: a guess\n  ports: [443]\n  why: was refused; say what it is for\n"
        );
        let read: serde_yaml::Value = serde_yaml::from_str(&yaml).unwrap();
        assert_eq!(read[0]["domains"][1], "on");
        assert_eq!(suggest_names(["10.0.0.1"], []), (String::new(), 0));
        let many: Vec<String> = (1..=40).map(|port| format!("n{port}.example")).collect();
        let reached =
            (1..=40).map(|port| (&*many[usize::from(port) - 1], attempt("10.0.0.1", IPPROTO_TCP, port)));
        let (yaml, more) = suggest_names([], reached);
        assert_eq!((yaml.matches("- domains").count(), more), (ENTRIES, 40 - ENTRIES));
    }

    #[test]
    fn a_name_that_led_somewhere_has_its_ports_and_its_addresses() {
        let reached = [
            ("files.example", attempt("93.184.216.34", IPPROTO_TCP, 8443)),
            ("files.example", attempt("93.184.216.35", IPPROTO_UDP, 8443)),
            ("inside.example", attempt("10.0.0.2", IPPROTO_TCP, 443)),
            ("inside.example", attempt("10.0.0.3", IPPROTO_TCP, 443)),
        ];
        assert_eq!(
            suggest_names(["asked.example", "files.example"], reached).0,
            "- domains: [asked.example]\n  # no port was seen: a guess\n  ports: [443]\n  why: was refused; say what it is for\n\
             - domains: [inside.example]\n  resolvesTo: [10.0.0.2/31]\n  ports: [443]\n  why: was refused; say what it is for\n\
             - domains: [files.example]\n  ports: [8443, \"8443/udp\"]\n  why: was refused; say what it is for\n"
        );
        let is_for = |name: &str, address: &str| is_for_a_name(name, &attempt(address, IPPROTO_TCP, 443));
        assert!(is_for("inside.example", "10.0.0.2"));
        // What no answer opens can be allowed by its address only.
        assert!(!is_for("inside.example", "169.254.169.254") && !is_for("10.0.0.2", "10.0.0.2"));
    }

    #[test]
    fn nothing_refused_suggests_nothing() {
        assert_eq!(suggest_entries([]), Suggestion { yaml: String::new(), left_out: Vec::new() });
    }
}
