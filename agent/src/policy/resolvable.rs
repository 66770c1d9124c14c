//! Where the answer for an allowed name may point.
//!
//! From the registries of special-purpose addresses (RFC 6890 and what was added since). A name that somebody else answers
//! for must not open what only the own network can reach, unless the entry says so by `resolvesTo`; and nothing that means
//! the own host, its neighbours on the link, or another address in disguise, whatever the entry says.

use std::net::IpAddr;

use ipnet::IpNet;

use super::metadata;

/// All that could be global unicast.
const UNICAST: [&str; 2] = ["0.0.0.0/0", "2000::/3"];

/// What of it is not reachable from everywhere.
const NOT_GLOBAL: [&str; 19] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
];

/// What of that is, after all: it was assigned out of 2001::/23.
const GLOBAL_WITHIN: [&str; 7] = [
    "2001:1::1/128",
    "2001:1::2/128",
    "2001:1::3/128",
    "2001:3::/32",
    "2001:4:112::/48",
    "2001:20::/28",
    "2001:30::/28",
];

/// What no answer opens, and what it is.
const NEVER: [(&str, &str); 15] = [
    ("0.0.0.0/8", "unspecified addresses"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("::1/128", "loopback"),
    ("::/96", "unspecified and IPv4-compatible addresses"),
    ("::ffff:0:0/96", "IPv4-mapped addresses"),
    ("::ffff:0:0:0/96", "IPv4-translated addresses"),
    ("64:ff9b::/96", "translated addresses (NAT64)"),
    ("64:ff9b:1::/48", "translated addresses (NAT64)"),
    ("2001::/32", "tunnelled addresses (Teredo)"),
    ("2002::/16", "tunnelled addresses (6to4)"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

/// Global unicast: these without those, and with the last.
#[must_use]
pub fn global_unicast() -> [Vec<IpNet>; 3] {
    [nets(&UNICAST), nets(&NOT_GLOBAL), nets(&GLOBAL_WITHIN)]
}

/// May answers point to this address where an entry says nothing of it?
#[must_use]
pub fn is_global(address: IpAddr) -> bool {
    let holds = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
    let [unicast, not_global, after_all] = global_unicast();
    holds(&unicast) && (!holds(&not_global) || holds(&after_all)) && never_holds(&address.into()).is_none()
}

/// What no answer opens, whatever `resolvesTo` says, and what it is.
pub fn never() -> impl Iterator<Item = (IpNet, &'static str)> {
    let metadata = metadata::networks().into_iter().map(|network| (network, "instance metadata"));
    NEVER.into_iter().map(|(net, what)| (parse(net), what)).chain(metadata)
}

/// What this CIDR is, where all of it is what no answer opens.
#[must_use]
pub fn never_holds(cidr: &IpNet) -> Option<&'static str> {
    never().find(|(network, _)| network.contains(cidr)).map(|(_, what)| what)
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().copied().map(parse).collect()
}

fn parse(net: &str) -> IpNet {
    net.parse().expect("a CIDR that is written in this file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cidr_is_written_without_host_bits() {
        let never: Vec<IpNet> = never().map(|(net, _)| net).collect();
        for net in global_unicast().into_iter().flatten().chain(never) {
            assert_eq!(net, net.trunc());
        }
    }

    #[test]
    fn only_what_is_reachable_from_everywhere_is_global() {
        let global = |address: &&str| is_global(address.parse().unwrap());
        let everywhere = ["93.184.216.34", "2606:4700::1", "100.128.0.1", "172.32.0.1", "2001:4:112::1"];
        assert!(everywhere.iter().all(global));
        let not = [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "192.0.2.2",
            "198.18.0.1",
            "168.63.129.16",
            "fd00::1",
            "fe80::1",
            "::1",
            "2001:db8::1",
            "2001::1",
            "64:ff9b::1",
        ];
        assert!(!not.iter().any(global));
    }

    #[test]
    fn what_is_never_opened_has_a_name() {
        let named = |cidr: &str| never_holds(&cidr.parse().unwrap());
        assert_eq!(named("169.254.7.0/24"), Some("link-local"));
        assert_eq!(named("168.63.129.16/32"), Some("instance metadata"));
        assert_eq!(named("::ffff:0:0/100"), Some("IPv4-mapped addresses"));
        assert_eq!(named("::1/128"), Some("loopback"));
        assert_eq!((named("10.0.0.0/8"), named("168.63.129.0/24"), named("fd00::/8")), (None, None, None));
    }
}
