//! Ranges of addresses: a CIDR list as disjoint, ascending ranges.

use egress_warden_common::reason::{IPPROTO_ICMP, IPPROTO_ICMPV6};
use ipnet::IpNet;

/// A number of an address; the type tells the family.
pub(super) trait Number: Copy + Ord {
    /// The first address.
    const FIRST: Self;
    /// The ICMP that does not exist in this family.
    const FOREIGN_ICMP: u8;

    /// The addresses of a CIDR of this family.
    fn range(cidr: &IpNet) -> Option<Range<Self>>;
    /// The next address; `None` after the last.
    fn next(self) -> Option<Self>;
    /// The address before one that is not the first.
    fn previous(self) -> Self;
}

impl Number for u32 {
    const FIRST: Self = 0;
    const FOREIGN_ICMP: u8 = IPPROTO_ICMPV6;

    fn range(cidr: &IpNet) -> Option<Range<Self>> {
        let IpNet::V4(net) = cidr else { return None };
        Some(Range { first: net.network().to_bits(), last: net.broadcast().to_bits() })
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn previous(self) -> Self {
        self - 1
    }
}

impl Number for u128 {
    const FIRST: Self = 0;
    const FOREIGN_ICMP: u8 = IPPROTO_ICMP;

    fn range(cidr: &IpNet) -> Option<Range<Self>> {
        let IpNet::V6(net) = cidr else { return None };
        Some(Range { first: net.network().to_bits(), last: net.broadcast().to_bits() })
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn previous(self) -> Self {
        self - 1
    }
}

/// A range of addresses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Range<N> {
    pub(super) first: N,
    pub(super) last: N,
}

/// The CIDRs of one family as ascending ranges that neither overlap nor touch.
pub(super) fn merged<N: Number>(cidrs: &[IpNet]) -> Vec<Range<N>> {
    joined(cidrs.iter().filter_map(N::range).collect(), Vec::new())
}

/// Both together, in whatever order they come, as [`merged`] makes them.
pub(super) fn joined<N: Number>(mut ranges: Vec<Range<N>>, more: Vec<Range<N>>) -> Vec<Range<N>> {
    ranges.extend(more);
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let joins = kept.last.next().is_none_or(|after| next.first <= after);
        if joins {
            kept.last = kept.last.max(next.last);
        }
        joins
    });
    ranges
}

/// `ranges` without `holes`; both as [`merged`] makes them, and so is the result.
pub(super) fn subtract<N: Number>(ranges: Vec<Range<N>>, holes: &[Range<N>]) -> Vec<Range<N>> {
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
                left.push(Range { first, last: hole.first.previous() });
            }
            match hole.last.next().filter(|_| hole.last < last) {
                Some(after) => first = after,
                None => {
                    rest = false;
                    break;
                }
            }
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

    fn nets(cidrs: &[&str]) -> Vec<Range<u32>> {
        let cidrs: Vec<IpNet> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        merged(&cidrs)
    }

    fn pairs<N: Number>(ranges: &[Range<N>]) -> Vec<(N, N)> {
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
        assert_eq!(pairs::<u128>(&merged(&cidrs)), [(0, u128::MAX)]);
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
