//! Addresses that mean the own host wherever they are used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Loopback, and the unspecified addresses, which a connection takes for loopback.
#[must_use]
pub fn networks() -> [IpNet; 4] {
    let v4 = |address: Ipv4Addr, length| IpNet::V4(Ipv4Net::new_assert(address, length));
    let v6 = |address: Ipv6Addr| IpNet::V6(Ipv6Net::new_assert(address, 128));
    [
        v4(Ipv4Addr::new(127, 0, 0, 0), 8),
        v4(Ipv4Addr::UNSPECIFIED, 32),
        v6(Ipv6Addr::LOCALHOST),
        v6(Ipv6Addr::UNSPECIFIED),
    ]
}

/// Does this CIDR name the own host and nothing else? A wide one, such as 0.0.0.0/0, means the world: it does not open
/// the services that listen on a node's loopback.
#[must_use]
pub fn is_named_by(cidr: &IpNet) -> bool {
    networks().iter().any(|network| network.contains(cidr))
}

/// Is this such an address?
#[must_use]
pub fn holds(address: IpAddr) -> bool {
    networks().iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_inside_names_the_own_host() {
        let named = |cidr: &str| is_named_by(&cidr.parse().unwrap());
        assert!(["127.0.0.1/32", "127.0.0.0/8", "::1/128", "0.0.0.0/32"].into_iter().all(named));
        assert!(!["0.0.0.0/0", "126.0.0.0/7", "::/0", "::/127", "10.0.0.0/8"].into_iter().any(named));
        assert!(holds("127.255.0.1".parse().unwrap()) && !holds("128.0.0.1".parse().unwrap()));
    }
}
