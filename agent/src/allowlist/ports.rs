//! `ports` and `icmp`.

use super::diagnostic::Report;
use super::fields::{filled_list, unique_list};
use super::scalar::{decimal, raw_text, shorten};
use super::source::Span;
use super::suggest::nearest;
use super::tree::{Node, Value};
use crate::policy::{PortRange, icmp};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// What an entry without `ports` allows.
pub(crate) const EVERY_PORT: [PortRange; 2] = [
    PortRange { protocol: TCP, first: 0, last: u16::MAX },
    PortRange { protocol: UDP, first: 0, last: u16::MAX },
];

/// What is wrong with a port, and what would be accepted.
type Bad = (String, Option<String>);

/// `N`, `N-M`, each with `/tcp` or `/udp`.
fn parse_port(text: &str) -> Result<PortRange, Bad> {
    let shown = shorten(text);
    let (range, protocol) = match text.split_once('/') {
        None => (text, TCP),
        Some((range, "tcp")) => (range, TCP),
        Some((range, "udp")) => (range, UDP),
        Some((range, other)) => {
            let lower = other.to_ascii_lowercase();
            let help = match lower.as_str() {
                "tcp" | "udp" => format!("write it in lower case: {range}/{lower}"),
                _ => "write /tcp or /udp after the port".to_owned(),
            };
            return Err((format!("`ports`: {shown} does not end in a known protocol"), Some(help)));
        }
    };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |digits: &str| match decimal(digits) {
        Ok(number) => match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(port),
            _ => Err((format!("`ports`: {shown} is not a port: ports are from 1 to 65535"), None)),
        },
        Err(help) => {
            let message =
                format!("`ports`: expected a port, a range or either with /tcp or /udp, found {shown}");
            Err((message, Some(help)))
        }
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        let help = format!("write the lower port first: {last}-{first}");
        return Err((format!("`ports`: the range {shown} is empty"), Some(help)));
    }
    Ok(PortRange { protocol, first, last })
}

fn port(node: &Node, report: &mut Report) -> Option<PortRange> {
    let text = raw_text(node, "ports", "a port, such as 443, \"9000-9100\" or \"53/udp\"", report)?;
    match parse_port(text) {
        Ok(range) => Some(range),
        Err((message, help)) => {
            let finding = report.error(node.at, message);
            if let Some(help) = help {
                finding.help(help);
            }
            None
        }
    }
}

/// Which families the addresses of an entry have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Families {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

/// What an entry with these `ports` and `icmp` allows, sorted.
pub(crate) fn allowed(
    entry: Span,
    ports: Option<&Node>,
    icmp: Option<&Node>,
    families: Families,
    report: &mut Report,
) -> Vec<PortRange> {
    let mut ranges = match ports {
        None => EVERY_PORT.to_vec(),
        Some(node) => {
            let ports = unique_list(node, "ports", report, port).unwrap_or_default();
            if icmp.is_none() && matches!(&node.value, Value::Sequence(items) if items.is_empty()) {
                report
                    .error(node.at, "`ports`: without a port this entry can never match")
                    .help("write a port, or leave `ports` out to allow every port");
            }
            ports.into_iter().map(|port| port.value).collect()
        }
    };
    if let Some(node) = icmp {
        ranges.extend(icmp_types(node, families, report));
        if ports.is_none() {
            report
                .warning(entry, "`icmp` without `ports`: every TCP and UDP port is allowed too")
                .help("for ICMP alone write ports: []");
        }
    }
    ranges.sort_unstable();
    ranges
}

fn icmp_types(node: &Node, families: Families, report: &mut Report) -> Vec<PortRange> {
    let one = |protocol, number: u8| PortRange { protocol, first: number.into(), last: number.into() };
    if matches!(&node.value, Value::Scalar { text, .. } if text == "all") {
        let every = |protocol| PortRange { protocol, first: 0, last: u8::MAX.into() };
        let (v4, v6) = (families.v4.then(|| every(ICMP)), families.v6.then(|| every(ICMPV6)));
        return v4.into_iter().chain(v6).collect();
    }
    let names = filled_list(node, "icmp", report, |item, report| {
        let text = raw_text(item, "icmp", "the name of a message type, such as echo-request", report)?;
        let known = icmp::names().find(|name| *name == text);
        if known.is_none() {
            let finding = report.error(item.at, format!("`icmp`: unknown message type {}", shorten(text)));
            match nearest(text, icmp::names()) {
                Some(name) => finding.help(format!("did you mean {name}?")),
                None if text == "all" => finding.help("write icmp: all, without a list"),
                None => {
                    finding.help(format!("known types: {}", icmp::names().collect::<Vec<_>>().join(", ")));
                }
            }
        }
        known
    });
    let mut ranges = Vec::new();
    for name in names.unwrap_or_default() {
        let text = name.value;
        let (v4, v6) = (icmp::number(ICMP, text), icmp::number(ICMPV6, text));
        let before = ranges.len();
        ranges.extend(v4.filter(|_| families.v4).map(|number| one(ICMP, number)));
        ranges.extend(v6.filter(|_| families.v6).map(|number| one(ICMPV6, number)));
        if ranges.len() == before && (families.v4 || families.v6) {
            let (has, lacks) = if families.v4 { ("IPv4", "ICMPv6") } else { ("IPv6", "ICMP") };
            report
                .error(
                    name.at,
                    format!("`icmp`: {text} can never match: it is {lacks}, the addresses are {has}"),
                )
                .help("remove it, or add addresses of the other family");
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_one_spelling() {
        let range = |protocol, first, last| Ok(PortRange { protocol, first, last });
        assert_eq!(parse_port("443"), range(TCP, 443, 443));
        assert_eq!(parse_port("53/udp"), range(UDP, 53, 53));
        assert_eq!(parse_port("9000-9100"), range(TCP, 9000, 9100));
        assert_eq!(parse_port("1-65535/udp"), range(UDP, 1, 65535));
        for text in [
            "", "0", "65536", "010", "1_000", "0x1bb", "1e3", "443.0", "+443", "-1", "1-", "-", "2-1",
            "53/UDP", "53/", "1-2-3", " 1", "٣",
        ] {
            assert!(parse_port(text).is_err(), "{text}");
        }
    }
}
