//! What one record asks for, and what no allowlist should open because of it.

use std::net::IpAddr;

use egress_warden_common::Reason;
use egress_warden_common::decide::DNS_PORT;
use egress_warden_common::reason::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

use crate::allowlist::domain;
use crate::policy::{metadata, own_host};
use crate::records::Event;
use crate::ruleset::attempt::Attempt;
use crate::ruleset::suggest::{Opening, is_for_a_name};

/// What a record asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To send there. The name is the one that was asked for before, where that is known.
    Reach { name: Option<String>, address: IpAddr, opening: Opening },
    /// To learn the address of this name.
    Resolve { name: String },
    /// Nothing that is suggested.
    No { heading: String, what: String },
}

/// What is said of reasons that an entry of Destinations does not help against.
const ADVICE: [(&str, &str); 9] = [
    ("expired", "an entry covers it and has expired: move its `expires` if it is still meant"),
    ("quarantined", "the workload was in quarantine, whatever its allowlist says: see what came before"),
    ("loopback_denied", "services of the node itself: `loopback: allow` of the policy opens them"),
    ("no_ruleset", "nothing was judged: see the agent's log"),
    ("dns_server", "another resolver was asked: `dns.resolvers` of the policy opens resolvers"),
    ("dns_type", "another type was asked for: `dns.types` of the policy opens types"),
    ("dns_tcp", "names in DNS over TCP cannot be judged"),
    ("dns_malformed", "not a destination: no query that could be read"),
    ("dns_name", "not a name that an allowlist can hold"),
];

/// Judges a record. Reasons are texts: a later version knows more of them.
pub(crate) fn judge(event: &Event) -> Wish {
    let name = event.name.as_deref();
    match event.reason.as_str() {
        "dns_name" => match name.and_then(domain::canonical) {
            Some(name) => Wish::Resolve { name },
            None => no(event, heading("dns_name")),
        },
        // Where no policy was known, the destination is one all the same.
        "not_allowlisted" | "port_not_allowed" | "protocol_not_allowed" | "unclassified" => reach(event),
        other => no(event, heading(other)),
    }
}

fn heading(reason: &str) -> String {
    if let Some((_, advice)) = ADVICE.iter().find(|(known, _)| *known == reason) {
        return format!("{reason}: {advice}");
    }
    match Reason::ALL.iter().find(|known| known.name() == reason) {
        Some(Reason::Denied) => format!("{reason}: {}", Reason::Denied.help().trim()),
        Some(known) => format!("{reason}: not a destination. {}", known.help().trim()),
        None => format!("{reason}: a reason that this version does not know"),
    }
}

fn no(event: &Event, heading: String) -> Wish {
    let what = match (&event.name, event.dst) {
        (Some(name), Some(_)) if event.port != Some(DNS_PORT) => format!("{} ({name})", destination(event)),
        (Some(name), _) => name.clone(),
        (None, Some(_)) => destination(event),
        (None, None) => format!("no destination, protocol {}", event.protocol),
    };
    Wish::No { heading, what }
}

/// The destination as people write it, also where it is none that can be allowed.
fn destination(event: &Event) -> String {
    match (attempt(event), event.dst, event.port) {
        (Some(attempt), _, _) => attempt.to_string(),
        (None, Some(address), _) => format!("{address}, protocol {}", event.protocol),
        (None, None, _) => String::new(),
    }
}

fn attempt(event: &Event) -> Option<Attempt> {
    let address = event.dst?.to_canonical();
    let protocol = match event.protocol.as_str() {
        "tcp" => IPPROTO_TCP,
        "udp" => IPPROTO_UDP,
        "icmp" if address.is_ipv4() => IPPROTO_ICMP,
        "icmp" => IPPROTO_ICMPV6,
        _ => return None,
    };
    Some(Attempt { address, protocol, port: event.port? })
}

fn reach(event: &Event) -> Wish {
    let Some(attempt) = attempt(event) else {
        let heading = "the protocol: no key of an allowlist opens others than TCP, UDP, ICMP and ICMPv6";
        return no(event, heading.to_owned());
    };
    if let Some(kind) = no_place(attempt.address) {
        return no(event, kind.to_owned());
    }
    match Opening::of(&attempt) {
        Some(opening) => {
            let name = event.name.as_deref().filter(|name| is_for_a_name(name, &attempt));
            let name = name.and_then(domain::canonical);
            Wish::Reach { name, address: attempt.address, opening }
        }
        None => no(event, "a port or message type that cannot be written in an allowlist".to_owned()),
    }
}

/// Addresses that mean no place, or one that hands out credentials.
fn no_place(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if metadata::networks().iter().any(|network| network.contains(&address)) {
        Some(
            "instance metadata, which hands out credentials of the node: `metadata: true` of the policy, if it must be",
        )
    } else if own_host::holds(address) {
        Some("loopback: `loopback` of the policy opens it")
    } else if address.is_multicast() || broadcast {
        Some("multicast and broadcast: whoever listens on the link")
    } else if link_local {
        Some("link-local: another host on each link")
    } else {
        None
    }
}
