//! Ports, addresses and times in words.

use egress_warden_common::reason::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};
use egress_warden_common::ruleset::FOREVER;
use ipnet::IpNet;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::policy::{PortRange, icmp};

/// Ranges of ports that are written out.
const PORTS_SHOWN: usize = 12;

/// Ports with their protocol: `443/tcp, 9000-9100/tcp, 53/udp, icmp echo-request`.
pub(super) fn ports(ports: &[PortRange]) -> String {
    let every = |protocol| ports.iter().any(|range| range.protocol == protocol && is_every(range));
    let both = every(IPPROTO_TCP) && every(IPPROTO_UDP);
    let mut parts: Vec<String> = if both { vec!["every TCP and UDP port".to_owned()] } else { Vec::new() };
    let rest = ports.iter().filter(|range| !both || !is_every(range));
    parts.extend(rest.map(port_range));
    if parts.len() > PORTS_SHOWN {
        let more = parts.len() - PORTS_SHOWN;
        parts.truncate(PORTS_SHOWN);
        return format!("{} and {more} more ranges of ports", parts.join(", "));
    }
    parts.join(", ")
}

// Port 0 cannot be written by an operator, so "every port" begins with 0 or with 1.
fn is_every(range: &PortRange) -> bool {
    matches!(range.protocol, IPPROTO_TCP | IPPROTO_UDP) && range.first <= 1 && range.last == u16::MAX
}

fn port_range(range: &PortRange) -> String {
    let PortRange { protocol, first, last } = *range;
    let name = match protocol {
        IPPROTO_TCP => "tcp",
        IPPROTO_UDP => "udp",
        _ => return message_types(range),
    };
    match first {
        _ if is_every(range) => format!("every {} port", name.to_uppercase()),
        _ if first == last => format!("{first}/{name}"),
        _ => format!("{first}-{last}/{name}"),
    }
}

fn message_types(range: &PortRange) -> String {
    let PortRange { protocol, first, last } = *range;
    let family = match protocol {
        IPPROTO_ICMP => "icmp",
        IPPROTO_ICMPV6 => "icmpv6",
        other => return format!("protocol {other}"),
    };
    match icmp::name(protocol, first) {
        _ if first == 0 && last >= u16::from(u8::MAX) => format!("{family}, every type"),
        Some(name) if first == last => format!("{family} {name}"),
        None if first == last => format!("{family} type {first}"),
        _ => format!("{family} types {first}-{last}"),
    }
}

/// How many addresses these CIDRs hold, which do not overlap.
pub(super) fn addresses(cidrs: &[IpNet]) -> String {
    let (mut v4, mut v6) = (0u64, 0f64);
    for cidr in cidrs {
        let host_bits = cidr.max_prefix_len() - cidr.prefix_len();
        match cidr {
            IpNet::V4(_) => v4 += 1 << host_bits,
            IpNet::V6(_) => v6 += f64::from(host_bits).exp2(),
        }
    }
    let count4 = format!("{} IPv4 {}", grouped(v4), if v4 == 1 { "address" } else { "addresses" });
    // Nobody reads 38 digits.
    let count6 = match v6 {
        1.0 => "1 IPv6 address".to_owned(),
        _ if v6 < 1e9 => format!("{} IPv6 addresses", grouped(v6 as u64)),
        _ => format!("about 2^{:.0} IPv6 addresses", v6.log2()),
    };
    match (v4 > 0, v6 > 0.0) {
        (true, true) => format!("{count4} and {count6}"),
        (false, true) => count6,
        _ => count4,
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// CIDRs in one line.
pub(super) fn cidrs(cidrs: &[IpNet]) -> String {
    cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A deadline: a time, or `without end`.
pub(super) fn deadline(unix_seconds: u64) -> String {
    if unix_seconds == FOREVER {
        return "without end".to_owned();
    }
    let time = i64::try_from(unix_seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let written = time.and_then(|time| time.format(&Rfc3339).ok());
    format!("until {}", written.unwrap_or_else(|| format!("Unix second {unix_seconds}")))
}

/// A length of time as an operator writes it.
pub(super) fn duration(nanoseconds: u64) -> String {
    let milliseconds = nanoseconds / 1_000_000;
    for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        // One minute stays 60s: windows are compared in seconds.
        if milliseconds.is_multiple_of(length) && (unit == "s" || milliseconds > length) {
            return format!("{}{unit}", milliseconds / length);
        }
    }
    format!("{milliseconds}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_their_protocol() {
        let range = |protocol, first, last| PortRange { protocol, first, last };
        let every = [range(IPPROTO_TCP, 0, u16::MAX), range(IPPROTO_UDP, 0, u16::MAX)];
        assert_eq!(ports(&every), "every TCP and UDP port");
        assert_eq!(ports(&every[1..]), "every UDP port");
        let mixed = [
            range(IPPROTO_ICMP, 8, 8),
            range(IPPROTO_TCP, 443, 443),
            range(IPPROTO_TCP, 9000, 9100),
            range(IPPROTO_UDP, 53, 53),
            range(IPPROTO_ICMPV6, 0, 255),
        ];
        let text = "icmp echo-request, 443/tcp, 9000-9100/tcp, 53/udp, icmpv6, every type";
        assert_eq!(ports(&mixed), text);
        let many: Vec<_> = (0..15).map(|port| range(IPPROTO_TCP, port * 2, port * 2)).collect();
        assert!(ports(&many).ends_with("22/tcp and 3 more ranges of ports"));
    }

    #[test]
    fn addresses_are_counted() {
        let count =
            |texts: &[&str]| addresses(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
        assert_eq!(count(&["10.0.0.0/24", "10.0.2.0/24"]), "512 IPv4 addresses");
        assert_eq!(
            count(&["0.0.0.0/0", "::/0"]),
            "4,294,967,296 IPv4 addresses and about 2^128 IPv6 addresses"
        );
        assert_eq!(count(&["::1/128"]), "1 IPv6 address");
        assert_eq!(count(&["fd00::/112", "10.0.0.1/32"]), "1 IPv4 address and 65,536 IPv6 addresses");
    }

    #[test]
    fn times_read_like_the_yaml() {
        let told = [60, 90, 3600, 7200, 600].map(|seconds| duration(seconds * 1_000_000_000));
        assert_eq!(told, ["60s", "90s", "60m", "2h", "10m"]);
        assert_eq!(duration(1_500_000_000), "1500ms");
        assert_eq!(deadline(FOREVER), "without end");
        assert_eq!(deadline(1_798_675_200), "until 2026-12-31T00:00:00Z");
        assert_eq!(deadline(u64::MAX - 1), "until Unix second 18446744073709551614");
    }
}
