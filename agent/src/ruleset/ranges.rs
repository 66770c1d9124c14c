//! Ranges of addresses: a CIDR list as disjoint, ascending ranges.

use egress_warden_common::reason::{IPPROTO_ICMP, IPPROTO_ICMPV6};
use ipnet::IpNet;

/// The two address families. An address of either is a number here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// The last address.
    pub(super) const fn last(self) -> u128 {
        match self {
            Self::V4 => u32::MAX as u128,
            Self::V6 => u128::MAX,
        }
    }

    /// The ICMP that does not exist in this family.
    pub(super) const fn foreign_icmp(self) -> u8 {
        match self {
            Self::V4 => IPPROTO_ICMPV6,
            Self::V6 => IPPROTO_ICMP,
        }
    }
}

/// A range of addresses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Range {
    pub(super) first: u128,
    pub(super) last: u128,
}

fn range(family: Family, cidr: &IpNet) -> Option<Range> {
    match (family, cidr) {
        (Family::V4, IpNet::V4(net)) => Some(Range {
            first: u128::from(net.network().to_bits()),
            last: u128::from(net.broadcast().to_bits()),
        }),
        (Family::V6, IpNet::V6(net)) => {
            Some(Range { first: net.network().to_bits(), last: net.broadcast().to_bits() })
        }
        _ => None,
    }
}

/// The CIDRs of one family as ascending ranges that neither overlap nor touch.
pub(super) fn merged(family: Family, cidrs: &[IpNet]) -> Vec<Range> {
    let mut ranges: Vec<Range> = cidrs.iter().filter_map(|cidr| range(family, cidr)).collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let joins = next.first <= kept.last.saturating_add(1);
        if joins {
            kept.last = kept.last.max(next.last);
        }
        joins
    });
    ranges
}

/// `ranges` without `holes`; both as [`merged`] makes them, and so is the result.
pub(super) fn subtract(ranges: Vec<Range>, holes: &[Range]) -> Vec<Range> {
    if holes.is_empty() {
        return ranges;
    }
    let mut left = Vec::with_capacity(ranges.len() + holes.len());
    let mut next_hole = 0;
    for Range { mut first, last } in ranges {
        while holes.get(next_hole).is_some_and(|hole| hole.last < first) {
            next_hole += 1;
        }
        let mut rest = true;
        // A hole can reach into the next range, so this walks on without moving `next_hole`.
        for hole in holes[next_hole..].iter().take_while(|hole| hole.first <= last) {
            if hole.first > first {
                left.push(Range { first, last: hole.first - 1 });
            }
            if hole.last >= last {
                rest = false;
                break;
            }
            first = hole.last + 1;
        }
        if rest {
            left.push(Range { first, last });
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(cidrs: &[&str]) -> Vec<Range> {
        let cidrs: Vec<IpNet> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        merged(Family::V4, &cidrs)
    }

    fn pairs(ranges: &[Range]) -> Vec<(u128, u128)> {
        ranges.iter().map(|range| (range.first, range.last)).collect()
    }

    #[test]
    fn neighbours_and_nested_ranges_become_one() {
        let ranges = nets(&["0.0.0.4/30", "0.0.0.0/30", "0.0.0.5/32", "0.0.0.16/32", "255.255.255.255/32"]);
        assert_eq!(pairs(&ranges), [(0, 7), (16, 16), (0xffff_ffff, 0xffff_ffff)]);
    }

    #[test]
    fn the_whole_family_merges_without_overflow() {
        let cidrs = ["::/0".parse().unwrap(), "ffff::/16".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        assert_eq!(pairs(&merged(Family::V6, &cidrs)), [(0, u128::MAX)]);
    }

    #[test]
    fn holes_at_ends_inside_and_across_ranges() {
        let left = subtract(
            nets(&["0.0.0.0/29", "0.0.0.16/29"]),
            &nets(&["0.0.0.0/31", "0.0.0.4/32", "0.0.0.20/30"]),
        );
        assert_eq!(pairs(&left), [(2, 3), (5, 7), (16, 19)]);
        assert_eq!(pairs(&subtract(nets(&["0.0.0.0/30", "0.0.0.16/29"]), &nets(&["0.0.0.0/27"]))), []);
        assert_eq!(
            pairs(&subtract(nets(&["0.0.0.0/0"]), &nets(&["255.255.255.255/32"]))),
            [(0, 0xffff_fffe)]
        );
        assert_eq!(pairs(&subtract(nets(&["128.0.0.0/1"]), &nets(&["0.0.0.0/0"]))), []);
    }
}
