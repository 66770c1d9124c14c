//! `--to`: `HOST-OR-IP:PORT[/PROTO]`.

use std::net::{IpAddr, Ipv6Addr};

use egress_warden_common::reason::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

use crate::policy::icmp;
use crate::ruleset::attempt::{Attempt, NamedAttempt};

/// What `--to` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address with a port and a protocol.
    Attempt(Attempt),
    /// A host name with the same.
    Name(NamedAttempt),
}

/// What is wrong with `--to`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// An IPv6 address without brackets.
    #[error("an IPv6 address stands in brackets: [fd00::1]:443")]
    Brackets,
    /// Brackets around something else than an IPv6 address.
    #[error("{0:?} is not an IPv6 address; only those stand in brackets")]
    NotV6(String),
    /// Neither an address nor a name.
    #[error("{0:?} is neither an IP address nor a host name")]
    Host(String),
    /// No port.
    #[error("no port; write it after a colon: 10.0.0.5:443, or [fd00::1]:443")]
    NoPort,
    /// Not a port.
    #[error("{0:?} is not a port; ports are from 1 to 65535")]
    Port(String),
    /// Not a protocol that can be allowed.
    #[error("{0:?} is not a known protocol; write /tcp, /udp or /icmp")]
    Protocol(String),
    /// Not a message type of this family.
    #[error(
        "{name:?} is not an ICMP message type for this address; write a number from 0 to 255, or one of {known}"
    )]
    IcmpType {
        /// What was given.
        name: String,
        /// The names of the family.
        known: String,
    },
}

impl Target {
    /// Reads `--to`.
    ///
    /// # Errors
    /// Says what is wrong and how it is written.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let (place, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => IPPROTO_TCP,
            "udp" => IPPROTO_UDP,
            "icmp" => IPPROTO_ICMP,
            other => return Err(TargetError::Protocol(other.to_owned())),
        };
        let (host, port) = split(place)?;
        match host {
            Host::Address(address) => {
                let protocol =
                    if protocol == IPPROTO_ICMP && address.is_ipv6() { IPPROTO_ICMPV6 } else { protocol };
                Ok(Self::Attempt(Attempt { address, protocol, port: number(protocol, port)? }))
            }
            Host::Name(name) => {
                let (v4, v6) = at_either(protocol, port)?;
                Ok(Self::Name(NamedAttempt { name, protocol, v4, v6 }))
            }
        }
    }
}

enum Host {
    Address(IpAddr),
    Name(String),
}

fn split(place: &str) -> Result<(Host, &str), TargetError> {
    if let Some((address, rest)) = place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let v6: Ipv6Addr = address.parse().map_err(|_| TargetError::NotV6(address.to_owned()))?;
        // An IPv4-mapped address is the IPv4 address that it means, here as in the kernel.
        return Ok((Host::Address(v6.to_canonical()), rest.strip_prefix(':').ok_or(TargetError::NoPort)?));
    }
    if place.parse::<Ipv6Addr>().is_ok() {
        return Err(TargetError::Brackets);
    }
    let (host, port) = place.rsplit_once(':').ok_or(TargetError::NoPort)?;
    if host.parse::<Ipv6Addr>().is_ok() {
        return Err(TargetError::Brackets);
    }
    match host.parse() {
        Ok(v4) => Ok((Host::Address(v4), port)),
        Err(_) => Ok((Host::Name(name(host)?), port)),
    }
}

fn name(host: &str) -> Result<String, TargetError> {
    let lower = host.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // What ends in a number was meant as an address: 10.0.0, 10.0.0.256.
    let last_is_number =
        name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if last_is_number || !name.split('.').all(is_label) {
        return Err(TargetError::Host(host.to_owned()));
    }
    Ok(name.to_owned())
}

/// The port at an IPv4 and at an IPv6 address: which one a name stands for is not known.
fn at_either(protocol: u8, text: &str) -> Result<(Option<u16>, Option<u16>), TargetError> {
    if protocol != IPPROTO_ICMP {
        let port = Some(number(protocol, text)?);
        return Ok((port, port));
    }
    match (number(IPPROTO_ICMP, text), number(IPPROTO_ICMPV6, text)) {
        (Err(error), Err(_)) => Err(error),
        (v4, v6) => Ok((v4.ok(), v6.ok())),
    }
}

fn number(protocol: u8, text: &str) -> Result<u16, TargetError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if matches!(protocol, IPPROTO_ICMP | IPPROTO_ICMPV6) {
        let number = if digits { text.parse().ok() } else { icmp::number(protocol, text) };
        return number.map(u16::from).ok_or_else(|| TargetError::IcmpType {
            name: text.to_owned(),
            known: icmp::names()
                .filter(|name| icmp::number(protocol, name).is_some())
                .collect::<Vec<_>>()
                .join(", "),
        });
    }
    match text.parse() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err(TargetError::Port(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match Target::parse(text) {
            Ok(Target::Attempt(attempt)) => attempt.to_string(),
            Ok(Target::Name(attempt)) => format!("name {attempt}"),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn targets_that_can_be_read() {
        for (text, meaning) in [
            ("10.0.0.5:443", "10.0.0.5:443/tcp"),
            ("10.0.0.5:53/udp", "10.0.0.5:53/udp"),
            ("[fd00::1]:443/tcp", "[fd00::1]:443/tcp"),
            ("[::ffff:10.0.0.5]:443", "10.0.0.5:443/tcp"),
            ("10.0.0.1:echo-request/icmp", "10.0.0.1:echo-request/icmp"),
            ("10.0.0.1:8/icmp", "10.0.0.1:echo-request/icmp"),
            ("[fd00::1]:128/icmp", "[fd00::1]:echo-request/icmp"),
            ("[fd00::1]:packet-too-big/icmp", "[fd00::1]:packet-too-big/icmp"),
            ("Registry.Corp.Example.:443", "name registry.corp.example:443/tcp"),
            ("localhost:echo-request/icmp", "name localhost:echo-request/icmp"),
            ("localhost:packet-too-big/icmp", "name localhost:packet-too-big/icmp"),
        ] {
            assert_eq!(read(text), meaning, "{text}");
        }
    }

    #[test]
    fn targets_that_cannot_say_how_they_are_written() {
        for (text, problem) in [
            ("fd00::1", "in brackets"),
            ("fd00::1:443", "in brackets"),
            ("fd00:1:2:3:4:5:6:7:443", "in brackets"),
            ("[10.0.0.5]:443", "not an IPv6 address"),
            ("[fd00::1]", "no port"),
            ("[fd00::1]443", "no port"),
            ("10.0.0.5", "no port"),
            ("10.0.0.5:", "not a port"),
            ("10.0.0.5:0", "not a port"),
            ("10.0.0.5:+80", "not a port"),
            ("10.0.0.5:65536", "not a port"),
            ("10.0.0.256:443", "neither an IP address nor a host name"),
            ("10.0.0:443", "neither an IP address nor a host name"),
            (":443", "neither an IP address nor a host name"),
            ("ex ample:443", "neither an IP address nor a host name"),
            ("10.0.0.5:443/sctp", "not a known protocol"),
            ("10.0.0.0/8:443", "not a known protocol"),
            ("10.0.0.5:256/icmp", "message type"),
            ("10.0.0.5:packet-too-big/icmp", "message type"),
            ("", "no port"),
        ] {
            let answer = read(text);
            assert!(answer.starts_with("error: ") && answer.contains(problem), "{text}: {answer}");
        }
    }
}
