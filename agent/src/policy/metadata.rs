//! Instance metadata: addresses at which clouds hand credentials of the node to whoever asks.
//!
//! Refused by every policy that does not say `metadata: true`, because a range such as 169.254.0.0/16 or fd00::/8 in
//! an allowlist covers them without anybody having meant it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Deny;

/// Each address, and what answers there.
const ADDRESSES: [(IpAddr, &str); 8] = [
    (
        IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
        "instance metadata of AWS, Azure, Google Cloud and others",
    ),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)), "task credentials of AWS ECS"),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)), "pod credentials of AWS EKS"),
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), "instance metadata of AWS over IPv6"),
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)), "pod credentials of AWS EKS over IPv6"),
    (IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), "instance metadata of Alibaba Cloud"),
    (IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)), "platform endpoint of Azure"),
    (IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)), "instance metadata of Oracle Cloud"),
];

/// The addresses as networks.
#[must_use]
pub fn networks() -> [IpNet; ADDRESSES.len()] {
    ADDRESSES.map(|(address, _)| IpNet::from(address))
}

/// The built-in refusals.
pub fn denies() -> impl Iterator<Item = Deny> {
    ADDRESSES.into_iter().map(|(address, what)| Deny {
        origin: None,
        cidr: IpNet::from(address),
        why: format!("{what}; `metadata: true` opens it where an entry covers it"),
    })
}
