//! Addresses, as drafts write them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::resolvable::is_global;

/// The fewest prefixes that hold these addresses and no others.
pub(crate) fn aggregated<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> Vec<IpNet> {
    let single: Vec<IpNet> = addresses.into_iter().map(|address| IpNet::from(*address)).collect();
    IpNet::aggregate(&single)
}

/// The `resolvesTo` of a name that led to these addresses: nothing where it need not be written.
pub(crate) fn resolves_to(addresses: &BTreeSet<IpAddr>) -> Vec<IpNet> {
    if addresses.iter().all(|address| is_global(*address)) { Vec::new() } else { aggregated(addresses) }
}

/// Different `resolvesTo` that a draft holds; a policy holds a few more.
const SETS: usize = 32;

/// One `resolvesTo` for all names that need one, where they led to more different places than a policy can tell apart.
pub(crate) fn common_to<'a>(led_to: impl IntoIterator<Item = &'a BTreeSet<IpAddr>>) -> Option<Vec<IpNet>> {
    let (mut different, mut all) = (BTreeSet::new(), BTreeSet::new());
    for addresses in led_to {
        let needed = resolves_to(addresses);
        if !needed.is_empty() {
            different.insert(needed);
            all.extend(addresses.iter().copied());
        }
    }
    (different.len() > SETS).then(|| aggregated(&all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_places_become_one() {
        let led_to: Vec<BTreeSet<IpAddr>> =
            (0..40_u8).map(|low| BTreeSet::from([IpAddr::from([10, 0, 0, low])])).collect();
        assert_eq!(common_to(&led_to[..SETS]), None);
        let nets: Vec<IpNet> = ["10.0.0.0/27", "10.0.0.32/29"].map(|net| net.parse().unwrap()).to_vec();
        assert_eq!(common_to(&led_to), Some(nets));
        // Those that need none are not in it, however many they are.
        let global: Vec<_> =
            (1..60_u8).map(|low| BTreeSet::from([IpAddr::from([93, 184, 216, low])])).collect();
        assert_eq!(common_to(global.iter().chain(&led_to[..2])), None);
    }
}
