//! CIDRs and sets of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::diagnostic::Report;
use super::scalar::{raw_text, shorten};
use super::tree::Node;

/// A refused text and what would be accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadCidr {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl BadCidr {
    fn new(message: String, help: impl Into<Option<String>>) -> Self {
        Self { message, help: help.into() }
    }
}

/// Reads a CIDR in its one accepted form: with a length, without host bits, IPv4 as IPv4.
pub(crate) fn parse_cidr(text: &str) -> Result<IpNet, BadCidr> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| not_an_address(text, address))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let Some(length) = length else {
        let help = Some(format!("for this one address write {}", host(address)));
        return Err(BadCidr::new(format!("{text} has no prefix length"), help));
    };
    let length = match length.parse::<u8>() {
        // `parse` takes `+8` and `08`, which other readers do not.
        Ok(number) if number <= most && (length == "0" || !length.starts_with(['+', '0'])) => number,
        _ => {
            let message = format!("{} has no prefix length from 0 to {most} after the `/`", shorten(text));
            return Err(BadCidr::new(message, None));
        }
    };
    let net = IpNet::new(address, length).expect("the length was compared with the family's");
    if let (IpAddr::V6(v6), true) = (address, length >= 96)
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        let meant = Ipv4Net::new(v4, length - 96).expect("at most 128 - 96").trunc();
        let message = format!("{text} is an IPv4 network in its IPv6-mapped form");
        return Err(BadCidr::new(message, Some(format!("write {meant}"))));
    }
    if net != net.trunc() {
        let help = Some(format!("did you mean {} or {}?", net.trunc(), host(address)));
        return Err(BadCidr::new(format!("{text} has host bits set"), help));
    }
    Ok(net)
}

fn host(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn not_an_address(text: &str, address: &str) -> BadCidr {
    let shown = shorten(text);
    let octets: Vec<&str> = address.split('.').collect();
    let numeric =
        octets.iter().all(|octet| !octet.is_empty() && octet.bytes().all(|byte| byte.is_ascii_digit()));
    let help = if numeric && octets.iter().any(|octet| octet.len() > 1 && octet.starts_with('0')) {
        Some("a leading zero means octal to some readers; write the octets without".to_owned())
    } else if numeric && octets.len() < 4 && text.contains('/') {
        Some("write all four octets, such as 10.0.0.0/8".to_owned())
    } else if address.contains('%') {
        Some("a zone (`%eth0`) has no meaning in an allowlist; leave it out".to_owned())
    } else if address.contains(|c: char| c.is_ascii_alphabetic()) && !address.contains(':') {
        Some("names go under `domains`; here only addresses such as 10.0.0.0/8 or \"fd00::/8\"".to_owned())
    } else {
        Some("write it like 10.0.0.0/8 or \"fd00::/8\"".to_owned())
    };
    BadCidr::new(format!("{shown} is not a CIDR"), help)
}

/// A node as a CIDR.
pub(crate) fn cidr(node: &Node, key: &str, report: &mut Report) -> Option<IpNet> {
    let text = raw_text(node, key, "a text with a CIDR", report)?;
    match parse_cidr(text) {
        Ok(net) => Some(net),
        Err(bad) => {
            let finding = report.error(node.at, format!("`{key}`: {}", bad.message));
            if let Some(help) = bad.help {
                finding.help(help);
            }
            None
        }
    }
}

/// A set of addresses: ascending ranges of both families, none touching the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressSet {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

impl AddressSet {
    pub(crate) fn of<'a>(nets: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let mut set = Self::default();
        for net in nets {
            match net {
                IpNet::V4(net) => set.v4.push(v4_range(net)),
                IpNet::V6(net) => set.v6.push(v6_range(net)),
            }
        }
        merge(&mut set.v4);
        merge(&mut set.v6);
        set
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Is all of this CIDR in the set?
    pub(crate) fn contains(&self, net: &IpNet) -> bool {
        match net {
            IpNet::V4(net) => within(&self.v4, v4_range(net)),
            IpNet::V6(net) => within(&self.v6, v6_range(net)),
        }
    }

    /// Is all of `other` in the set?
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other.v4.iter().all(|&range| within(&self.v4, range))
            && other.v6.iter().all(|&range| within(&self.v6, range))
    }

    /// Is anything in both?
    pub(crate) fn meets(&self, other: &Self) -> bool {
        self.minus(other) != *self
    }

    pub(crate) fn union(sets: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::default();
        for set in sets {
            all.v4.extend(set.v4);
            all.v6.extend(set.v6);
        }
        merge(&mut all.v4);
        merge(&mut all.v6);
        all
    }

    pub(crate) fn minus(&self, other: &Self) -> Self {
        Self { v4: subtract(&self.v4, &other.v4), v6: subtract(&self.v6, &other.v6) }
    }

    /// The fewest prefixes that make up the set, IPv4 and IPv6.
    pub(crate) fn prefixes(&self) -> (usize, usize) {
        let count = |ranges: &[(u128, u128)], bits| ranges.iter().map(|&range| prefixes(range, bits)).sum();
        (count(&self.v4, 32), count(&self.v6, 128))
    }
}

fn v4_range(net: &Ipv4Net) -> (u128, u128) {
    let number = |address: Ipv4Addr| u128::from(address.to_bits());
    (number(net.network()), number(net.broadcast()))
}

fn v6_range(net: &Ipv6Net) -> (u128, u128) {
    (Ipv6Addr::to_bits(net.network()), Ipv6Addr::to_bits(net.broadcast()))
}

fn merge(ranges: &mut Vec<(u128, u128)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let touches = next.0 <= kept.1.saturating_add(1);
        if touches {
            kept.1 = kept.1.max(next.1);
        }
        touches
    });
}

fn within(ranges: &[(u128, u128)], range: (u128, u128)) -> bool {
    let after = ranges.partition_point(|&(first, _)| first <= range.0);
    after > 0 && ranges[after - 1].1 >= range.1
}

fn subtract(from: &[(u128, u128)], what: &[(u128, u128)]) -> Vec<(u128, u128)> {
    let mut left = Vec::new();
    let mut skip = 0;
    for &(first, last) in from {
        while what.get(skip).is_some_and(|hole| hole.1 < first) {
            skip += 1;
        }
        let mut start = Some(first);
        for &(hole_first, hole_last) in what[skip..].iter().take_while(|hole| hole.0 <= last) {
            let Some(from) = start else { break };
            if hole_first > from {
                left.push((from, hole_first - 1));
            }
            start = if hole_last < last { Some(from.max(hole_last + 1)) } else { None };
        }
        left.extend(start.map(|from| (from, last)));
    }
    left
}

fn prefixes((first, last): (u128, u128), bits: u32) -> usize {
    let (mut at, mut count) = (first, 0);
    loop {
        count += 1;
        // The largest aligned block that starts here and does not reach beyond the end.
        let mut size = at.trailing_zeros().min(bits);
        let end = loop {
            let mask = if size == 128 { u128::MAX } else { (1 << size) - 1 };
            if at | mask <= last {
                break at | mask;
            }
            size -= 1;
        };
        if end == last {
            return count;
        }
        at = end + 1;
    }
}
