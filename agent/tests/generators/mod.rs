//! Random policies, and what the tests of rulesets share beside them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use egress_warden::allowlist::Existing;
use egress_warden::policy::{Deny, Dns, Loopback, Mode, Origin, Policy, PortRange, Rule};
use egress_warden_common::decide::{Clock, UNSYNCHRONISED};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

pub(crate) struct FixedClock(pub(crate) Option<u64>);

impl Clock for FixedClock {
    fn unix_seconds(&self) -> u64 {
        self.0.unwrap_or(UNSYNCHRONISED)
    }
}

pub(crate) fn origin(line: usize) -> Origin {
    Origin { file: PathBuf::from("policy.yaml"), line, column: 1 }
}

pub(crate) fn v4_cidr() -> impl Strategy<Value = IpNet> {
    let address = prop_oneof![
        6 => (0u32..64).prop_map(|low| 0x0a00_0000 | low),
        1 => (0u32..4).prop_map(|high| high << 30),
        1 => (0u32..16).prop_map(|low| u32::MAX - low),
        1 => Just(0x7f00_0001),
    ];
    let length = prop_oneof![1 => 0u8..=24, 6 => 25u8..=32];
    (address, length)
        .prop_map(|(address, length)| Ipv4Net::new(Ipv4Addr::from(address), length).unwrap().trunc().into())
}

pub(crate) fn v6_cidr() -> impl Strategy<Value = IpNet> {
    let address = prop_oneof![
        6 => (0u128..64).prop_map(|low| (0xfd00 << 112) | low),
        3 => (0u128..64).prop_map(|middle| (0xfd00 << 112) | middle << 62),
        1 => (0u128..4).prop_map(|high| high << 126),
        1 => (0u128..16).prop_map(|low| u128::MAX - low),
        1 => Just(1),
    ];
    let length = prop_oneof![1 => 0u8..=56, 3 => 57u8..=70, 6 => 120u8..=128];
    (address, length)
        .prop_map(|(address, length)| Ipv6Net::new(Ipv6Addr::from(address), length).unwrap().trunc().into())
}

pub(crate) fn cidrs(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<IpNet>> {
    prop::collection::vec(prop_oneof![v4_cidr(), v6_cidr()], count)
}

pub(crate) fn port() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 0u16..12, 1 => Just(53), 1 => Just(u16::MAX), 1 => Just(u16::MAX - 1)]
}

pub(crate) fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(TCP), 2 => Just(UDP), 1 => Just(ICMP), 1 => Just(ICMPV6)]
}

pub(crate) fn port_range() -> impl Strategy<Value = PortRange> {
    (protocol(), port(), port()).prop_map(|(protocol, one, other)| PortRange {
        protocol,
        first: one.min(other),
        last: one.max(other),
    })
}

pub(crate) fn expiry() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![3 => Just(None), 2 => (0u64..6).prop_map(Some)]
}

fn rule() -> impl Strategy<Value = Rule> {
    let ports = prop::collection::vec(port_range(), 0..5);
    (cidrs(1..6), cidrs(0..3), ports, expiry(), any::<bool>()).prop_map(
        |(cidrs, except, ports, expires, keep)| {
            let mut ports = ports;
            ports.sort_unstable();
            Rule {
                origin: origin(1),
                destinations: "internal".into(),
                why: "test".into(),
                cidrs,
                except,
                ports,
                expires,
                keep,
            }
        },
    )
}

pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let loopback = prop_oneof![Just(Loopback::ByNamespace), Just(Loopback::Allow), Just(Loopback::Deny)];
    let mode = prop_oneof![Just(Mode::Enforce), Just(Mode::Audit)];
    (prop::collection::vec(rule(), 0..7), cidrs(0..3), loopback, mode).prop_map(
        |(rules, deny, loopback, mode)| Policy {
            name: "training".into(),
            origin: origin(1),
            mode,
            rules,
            names: Vec::new(),
            dns: Dns::default(),
            deny: deny.into_iter().map(|cidr| Deny { origin: None, cidr, why: "test".into() }).collect(),
            loopback,
            raw: BTreeSet::new(),
            quarantine: Vec::new(),
            existing: Existing::default(),
            require_backstop: false,
            beyond_exec: Vec::new(),
        },
    )
}

pub(crate) fn beside(address: IpAddr, step: i8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add_signed(step.into())).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add_signed(step.into())).into(),
    }
}

pub(crate) fn all_cidrs(policy: &Policy) -> Vec<IpNet> {
    let rules = policy.rules.iter().flat_map(|rule| rule.cidrs.iter().chain(&rule.except));
    rules.chain(policy.deny.iter().map(|deny| &deny.cidr)).copied().collect()
}

pub(crate) fn bare_policy(rules: Vec<Rule>) -> Policy {
    Policy {
        name: "training".into(),
        origin: origin(7),
        mode: Mode::Enforce,
        rules,
        names: Vec::new(),
        deny: Vec::new(),
        dns: Dns::default(),
        loopback: Loopback::ByNamespace,
        raw: BTreeSet::new(),
        quarantine: Vec::new(),
        existing: Existing::default(),
        require_backstop: false,
        beyond_exec: Vec::new(),
    }
}

pub(crate) fn tcp_rule(cidrs: Vec<IpNet>, first: u16, last: u16) -> Rule {
    Rule {
        origin: origin(1),
        destinations: "internal".into(),
        why: "object store".into(),
        cidrs,
        except: Vec::new(),
        ports: vec![PortRange { protocol: TCP, first, last }],
        expires: None,
        keep: false,
    }
}
