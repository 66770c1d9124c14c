//! What has to become of a probe, read off the allowlists entry by entry.
//!
//! Written from the documentation and not from the code: no ruleset, no table, no search. Whoever doubts an answer of it can
//! follow it with a finger on the YAML.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_warden_tests::prober::{Call, Kind, Said, echo_request};

use super::model::{Cidr, Destinations, Entry, Icmp, Lists, Policy};

/// A workload, as far as its verdicts depend on it.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) quarantined: bool,
    pub(crate) host_namespace: bool,
    /// The addresses of its network namespace.
    pub(crate) addresses: Vec<IpAddr>,
}

/// An attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) kind: Kind,
    pub(crate) to: IpAddr,
    /// For a raw socket the message type.
    pub(crate) port: u16,
    /// Whether it is made with an IPv6 socket, although it goes to an IPv4 address.
    pub(crate) mapped: bool,
}

/// What has to become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Why its packets are let through or refused; `None` where there is no socket to send any.
    pub(crate) reason: Option<&'static str>,
    /// What the workload hears.
    pub(crate) said: Said,
    /// Whether frames arrive on the far side.
    pub(crate) arrives: bool,
    /// The violations: reason and protocol.
    pub(crate) counted: Vec<(&'static str, &'static str)>,
}

/// The addresses at which clouds hand out credentials, as docs/allowlists.md lists them.
pub(crate) const METADATA: [&str; 8] = [
    "169.254.169.254/32",
    "169.254.170.2/32",
    "169.254.170.23/32",
    "fd00:ec2::254/128",
    "fd00:ec2::23/128",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
];

impl Probe {
    /// The protocol and the port or message type of its packets.
    fn sends(&self) -> (&'static str, u16) {
        match self.kind {
            Kind::Tcp | Kind::Mptcp => ("tcp", self.port),
            Kind::Udp | Kind::UdpConnected | Kind::UdpShared | Kind::UdpConnectedShared => ("udp", self.port),
            Kind::UdpLite => ("other", self.port),
            Kind::Ping => ("icmp", echo_request(self.to).into()),
            Kind::Raw => ("icmp", self.port),
        }
    }
}

/// The mode of a workload: enforce wins.
pub(crate) fn is_audit<'a>(mut policies: impl Iterator<Item = &'a Policy>) -> bool {
    policies.all(|policy| policy.audit)
}

/// What has to become of a probe of a workload.
pub(crate) fn judge(lists: &Lists, workload: &Workload, probe: &Probe) -> Expected {
    let audit = is_audit(lists.of(workload.name));
    let (protocol, _) = probe.sends();
    let mut counted = Vec::new();
    if let Some(errno) = socket_refused(lists, workload, probe) {
        counted.push(("socket_type", protocol));
        if !audit {
            let said = Said::Failed(Call::Socket, errno);
            return Expected { reason: None, said, arrives: false, counted };
        }
    }
    let reason = reason(lists, workload, probe);
    let allowed = matches!(reason, "allowed" | "loopback");
    if !allowed {
        counted.extend(vec![(reason, protocol); probe.kind.datagrams()]);
    }
    let said = match probe.kind {
        _ if allowed || audit => reached(workload, probe),
        Kind::Tcp | Kind::Mptcp => Said::Failed(Call::Connect, libc::EPERM),
        // The kernel drops the error of an echo request over IPv6.
        Kind::Ping if probe.to.is_ipv6() => Said::Done,
        _ => Said::Failed(Call::Send, libc::EPERM),
    };
    let arrives = (allowed || audit) && !stays(workload, probe.to);
    Expected { reason: Some(reason), said, arrives, counted }
}

/// What is heard where nothing is refused: on the far side everything is answered, in the own namespace nobody listens.
fn reached(workload: &Workload, probe: &Probe) -> Said {
    let is_stream = matches!(probe.kind, Kind::Tcp | Kind::Mptcp);
    if is_stream && stays(workload, probe.to) {
        return Said::Failed(Call::Connect, libc::ECONNREFUSED);
    }
    Said::Done
}

/// The errno with which the socket is refused, if it is.
fn socket_refused(lists: &Lists, workload: &Workload, probe: &Probe) -> Option<i32> {
    match probe.kind {
        Kind::UdpLite => Some(libc::EPROTONOSUPPORT),
        Kind::Raw => {
            let name = if probe.to.is_ipv4() { "icmp" } else { "icmpv6" };
            let open = lists.of(workload.name).all(|policy| policy.raw.contains(&name));
            (!open).then_some(libc::EPERM)
        }
        _ => None,
    }
}

/// Whether a packet to there never leaves the namespace.
fn stays(workload: &Workload, to: IpAddr) -> bool {
    is_loopback(to) || workload.addresses.contains(&to)
}

fn is_loopback(to: IpAddr) -> bool {
    Cidr::text("127.0.0.0/8").contains(to) || to == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

/// The verdict on a packet, in the order that docs/architecture.md tells.
fn reason(lists: &Lists, workload: &Workload, probe: &Probe) -> &'static str {
    let stays = stays(workload, probe.to);
    if stays && loopback_is_open(lists, workload) {
        return "loopback";
    }
    let refused = |reason| match reason {
        _ if workload.quarantined => "quarantined",
        "not_allowlisted" if stays => "loopback_denied",
        _ => reason,
    };
    if stays && !is_loopback(probe.to) {
        return refused("not_allowlisted");
    }
    if is_denied(lists, workload, probe.to) {
        return "denied";
    }
    // Every entry that some policy allows and that covers the address.
    let entries: Vec<(bool, &Entry)> = allowed_entries(lists, workload)
        .filter(|(_, entry)| entry.covers(probe.to) && entry.opens_anything(probe.to))
        .collect();
    if entries.is_empty() {
        return refused("not_allowlisted");
    }
    let matching: Vec<_> = entries.iter().filter(|(_, entry)| entry.opens(probe)).collect();
    if matching.is_empty() {
        let other_port = entries.iter().any(|(_, entry)| entry.opens_protocol(probe));
        return refused(if other_port { "port_not_allowed" } else { "protocol_not_allowed" });
    }
    let counts = |kept: bool| kept || !workload.quarantined;
    if matching.iter().any(|(kept, entry)| counts(*kept) && !entry.expired) {
        return "allowed";
    }
    refused("expired")
}

fn loopback_is_open(lists: &Lists, workload: &Workload) -> bool {
    if lists.of(workload.name).any(|policy| policy.loopback == Some("deny")) {
        return false;
    }
    // One that does not say so is stricter than one that says `allow`.
    let all_allow = lists.of(workload.name).all(|policy| policy.loopback == Some("allow"));
    all_allow || !workload.host_namespace
}

fn is_denied(lists: &Lists, workload: &Workload, to: IpAddr) -> bool {
    let metadata = lists.of(workload.name).any(|policy| policy.metadata);
    let by_policy = lists.of(workload.name).any(|policy| policy.deny.iter().any(|cidr| cidr.contains(to)));
    by_policy || !metadata && METADATA.iter().any(|cidr| Cidr::text(cidr).contains(to))
}

/// The entries that a workload's policies allow, and whether they stay open in quarantine.
fn allowed_entries<'a>(lists: &'a Lists, workload: &'a Workload) -> impl Iterator<Item = (bool, &'a Entry)> {
    lists.of(workload.name).flat_map(|policy| &policy.allow).flat_map(|index| {
        let Destinations(entries) = &lists.destinations[*index];
        let kept = is_kept(lists, workload, *index);
        entries.iter().map(move |entry| (kept, entry))
    })
}

/// Only what every policy with a quarantine rule keeps.
fn is_kept(lists: &Lists, workload: &Workload, destinations: usize) -> bool {
    let mut rules = lists.of(workload.name).filter_map(|policy| policy.keep.as_ref()).peekable();
    rules.peek().is_some() && rules.all(|keep| keep.contains(&destinations))
}

impl Entry {
    fn covers(&self, to: IpAddr) -> bool {
        // A wide range means the world and not the own host.
        let meant = |cidr: &Cidr| !is_loopback(to) || is_loopback(cidr.first());
        self.cidrs.iter().any(|cidr| cidr.contains(to) && meant(cidr))
            && !self.except.iter().any(|cidr| cidr.contains(to))
    }

    /// Whether it opens anything at all for addresses of this family.
    fn opens_anything(&self, to: IpAddr) -> bool {
        let messages = match &self.icmp {
            Icmp::Absent => false,
            Icmp::All => true,
            Icmp::Types(names) => names.iter().any(|name| message_type(name, to).is_some()),
        };
        messages || self.ports.as_ref().is_none_or(|ports| !ports.is_empty())
    }

    fn opens_protocol(&self, probe: &Probe) -> bool {
        let (protocol, _) = probe.sends();
        match protocol {
            "icmp" => match &self.icmp {
                Icmp::Absent => false,
                Icmp::All => true,
                Icmp::Types(names) => names.iter().any(|name| message_type(name, probe.to).is_some()),
            },
            "tcp" | "udp" => match &self.ports {
                None => true,
                Some(ports) => ports.iter().any(|ports| ports.protocol == protocol),
            },
            _ => false,
        }
    }

    fn opens(&self, probe: &Probe) -> bool {
        let (protocol, port) = probe.sends();
        if !self.opens_protocol(probe) {
            return false;
        }
        if protocol == "icmp" {
            let Icmp::Types(names) = &self.icmp else { return true };
            return names.iter().any(|name| message_type(name, probe.to) == Some(port));
        }
        let Some(all) = &self.ports else { return true };
        all.iter().any(|ports| ports.protocol == protocol && ports.first <= port && port <= ports.last)
    }
}

/// The number of a message by the name that an allowlist has for it: in ICMP, and in ICMPv6.
const MESSAGES: [(&str, Option<u16>, Option<u16>); 6] = [
    ("echo-request", Some(8), Some(128)),
    ("echo-reply", Some(0), Some(129)),
    ("time-exceeded", Some(11), Some(3)),
    ("destination-unreachable", Some(3), Some(1)),
    ("timestamp-request", Some(13), None),
    ("packet-too-big", None, Some(2)),
];

fn message_type(name: &str, to: IpAddr) -> Option<u16> {
    let (_, v4, v6) = MESSAGES.iter().find(|(known, _, _)| *known == name)?;
    if to.is_ipv4() { *v4 } else { *v6 }
}

/// The names of messages, and whether there is one in ICMP and in ICMPv6.
pub(crate) fn messages() -> impl Iterator<Item = (&'static str, bool, bool)> {
    MESSAGES.into_iter().map(|(name, v4, v6)| (name, v4.is_some(), v6.is_some()))
}

/// The numbers of messages for a family.
pub(crate) fn message_types(to: IpAddr) -> Vec<u16> {
    MESSAGES.iter().filter_map(|(name, _, _)| message_type(name, to)).collect()
}

/// Loopback addresses of both families.
pub(crate) const OWN_HOST: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9)),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];
