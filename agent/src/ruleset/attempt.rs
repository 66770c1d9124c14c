//! One attempt to send, and runs of ports, in the words of an operator.

use std::fmt;
use std::net::IpAddr;

use egress_warden_common::Address;
use egress_warden_common::reason::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

use crate::policy::{PortRange, icmp};

/// Where something wants to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt {
    /// The destination.
    pub address: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Port; the type for ICMP; 0 for protocols without either.
    pub port: u16,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(v4) => write!(f, "{v4}")?,
            IpAddr::V6(v6) => write!(f, "[{v6}]")?,
        }
        write_port(f, self.protocol, self.port)
    }
}

/// Where something wants to send, at whatever address a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedAttempt {
    /// The name, in lower case and without a closing dot.
    pub name: String,
    /// IP protocol number; that of ICMP stands for ICMPv6 as well.
    pub protocol: u8,
    /// Port at an IPv4 address, or type; `None` where ICMP has no such message.
    pub v4: Option<u16>,
    /// The same at an IPv6 address.
    pub v6: Option<u16>,
}

impl NamedAttempt {
    /// Protocol and port at this address.
    #[must_use]
    pub fn at(&self, address: Address) -> Option<(u8, u16)> {
        match (address.as_v4(), self.protocol) {
            (Some(_), protocol) => self.v4.map(|port| (protocol, port)),
            (None, IPPROTO_ICMP) => self.v6.map(|kind| (IPPROTO_ICMPV6, kind)),
            (None, protocol) => self.v6.map(|port| (protocol, port)),
        }
    }
}

impl fmt::Display for NamedAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v4 = self.v4.map(|port| (self.protocol, port));
        let (protocol, port) = v4.unwrap_or((IPPROTO_ICMPV6, self.v6.unwrap_or_default()));
        write!(f, "{}", self.name)?;
        write_port(f, protocol, port)
    }
}

fn write_port(f: &mut fmt::Formatter<'_>, protocol: u8, port: u16) -> fmt::Result {
    match protocol {
        IPPROTO_TCP => write!(f, ":{port}/tcp"),
        IPPROTO_UDP => write!(f, ":{port}/udp"),
        IPPROTO_ICMP | IPPROTO_ICMPV6 => match icmp::name(protocol, port) {
            Some(name) => write!(f, ":{name}/icmp"),
            None => write!(f, ":{port}/icmp"),
        },
        other => write!(f, " protocol {other}"),
    }
}

/// Ports as an operator would write them: `443, 9000-9100, 53/udp, icmp echo-request`.
#[derive(Clone, Copy, Debug)]
pub struct PortList<'a>(pub &'a [PortRange]);

impl fmt::Display for PortList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { ", " })?;
            match range.protocol {
                IPPROTO_TCP => ports(f, "TCP", range)?,
                IPPROTO_UDP => {
                    ports(f, "UDP", range)?;
                    f.write_str(if is_every_port(range) { "" } else { "/udp" })?;
                }
                _ => types(f, range)?,
            }
        }
        Ok(())
    }
}

// Port 0 cannot be written by an operator, so "every port" begins with 0 or with 1.
fn is_every_port(range: &PortRange) -> bool {
    range.first <= 1 && range.last == u16::MAX
}

fn ports(f: &mut fmt::Formatter<'_>, protocol: &str, range: &PortRange) -> fmt::Result {
    match range {
        _ if is_every_port(range) => write!(f, "every {protocol} port"),
        PortRange { first, last, .. } if first == last => write!(f, "{first}"),
        PortRange { first, last, .. } => write!(f, "{first}-{last}"),
    }
}

fn types(f: &mut fmt::Formatter<'_>, range: &PortRange) -> fmt::Result {
    let family = if range.protocol == IPPROTO_ICMPV6 { "icmp of IPv6" } else { "icmp" };
    match (range.first, range.last) {
        (0, last) if last >= u16::from(u8::MAX) => write!(f, "{family}, every type"),
        (first, last) if first == last => match icmp::name(range.protocol, first) {
            Some(name) => write!(f, "{family} {name}"),
            None => write!(f, "{family} type {first}"),
        },
        (first, last) => write!(f, "{family} types {first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_read_like_the_command_line() {
        let attempt = |address: &str, protocol, port| {
            Attempt { address: address.parse().unwrap(), protocol, port }.to_string()
        };
        assert_eq!(attempt("10.0.0.5", IPPROTO_TCP, 443), "10.0.0.5:443/tcp");
        assert_eq!(attempt("fd00::1", IPPROTO_UDP, 53), "[fd00::1]:53/udp");
        assert_eq!(attempt("fd00::1", IPPROTO_ICMPV6, 128), "[fd00::1]:echo-request/icmp");
        assert_eq!(attempt("10.0.0.5", IPPROTO_ICMP, 42), "10.0.0.5:42/icmp");
        assert_eq!(attempt("10.0.0.5", 47, 0), "10.0.0.5 protocol 47");
    }

    #[test]
    fn port_lists_read_like_the_yaml() {
        let range = |protocol, first, last| PortRange { protocol, first, last };
        let ports = [
            range(IPPROTO_TCP, 443, 443),
            range(IPPROTO_TCP, 9000, 9100),
            range(IPPROTO_UDP, 53, 53),
            range(IPPROTO_UDP, 0, u16::MAX),
            range(IPPROTO_ICMP, 8, 8),
            range(IPPROTO_ICMPV6, 0, 255),
        ];
        let text = "443, 9000-9100, 53/udp, every UDP port, icmp echo-request, icmp of IPv6, every type";
        assert_eq!(PortList(&ports).to_string(), text);
    }
}
