//! Addresses, as drafts write them.

use std::net::IpAddr;

use ipnet::IpNet;

/// The fewest prefixes that hold these addresses and no others.
pub(crate) fn aggregated<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> Vec<IpNet> {
    let single: Vec<IpNet> = addresses.into_iter().map(|address| IpNet::from(*address)).collect();
    IpNet::aggregate(&single)
}

/// Is it an address of the public internet, to which answers may point without `resolvesTo`? What is doubtful is not.
pub(crate) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let shared = matches!(v4.octets(), [100, 64..=127, ..]);
            !(shared || v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified())
        }
        // Global unicast is handed out from one block only.
        IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_public_internet_are_global() {
        let global = |address: &str| is_global(address.parse().unwrap());
        assert!(["93.184.216.34", "2606:4700::1", "100.128.0.1", "172.32.0.1"].into_iter().all(global));
        let not = [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "fd00::1",
            "fe80::1",
            "::1",
        ];
        assert!(!not.into_iter().any(global));
    }
}
