//! What a change of policy newly allows and refuses: the exact difference of what two rulesets decide.
//!
//! It is read from the compiled words and not from what was written, so that a CIDR split in two, an entry moved to
//! another file or an `except` that says the same in other words is no difference. Both rulesets are walked side by
//! side; a pair of classes is compared once, however many runs of addresses have it.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};

use egress_warden_common::decide::DNS_PORT;
use egress_warden_common::reason::{IPPROTO_TCP, IPPROTO_UDP};
use egress_warden_common::ruleset::NO_RULE;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::Compiled;
use super::decode::{Decoded, decode};
use super::intervals::{Interval, place, port_of, protocol_of};
use super::ranges::{Number, Range, joined, merged, subtract};
use super::sweep::{Boundary, Content};
use crate::policy::PortRange;

/// What a ruleset says of an address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// No entry allows it.
    Closed,
    /// This refusal covers it.
    Denied {
        /// Number of the rule.
        rule: u32,
    },
    /// An entry allows it.
    Open {
        /// Number of the rule; [`NO_RULE`] in quarantine, where the entry that keeps it open is not always the one
        /// that a verdict names.
        rule: u32,
        /// Unix time in seconds up to which it is open, or [`egress_warden_common::ruleset::FOREVER`].
        until: u64,
    },
}

impl Standing {
    /// Up to when it is open; 0 for never.
    #[must_use]
    pub const fn until(self) -> u64 {
        match self {
            Self::Open { until, .. } => until,
            Self::Closed | Self::Denied { .. } => 0,
        }
    }
}

/// What becomes of an address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// It was closed, and opens.
    Opened,
    /// It was open, and is for longer.
    Lengthened,
    /// It was open, and is for a shorter time.
    Shortened,
    /// It was open, and closes.
    Closed,
}

impl Effect {
    /// Does it let out what was refused before?
    #[must_use]
    pub const fn broadens(self) -> bool {
        matches!(self, Self::Opened | Self::Lengthened)
    }
}

/// Addresses and ports of which the new ruleset decides otherwise, all in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What the old ruleset says.
    pub before: Standing,
    /// What the new ruleset says.
    pub after: Standing,
    /// Does it hold for workloads in quarantine, or for the others?
    pub quarantined: bool,
    /// The addresses, as the fewest CIDRs, ascending.
    pub cidrs: Vec<IpNet>,
    /// The ports, ascending.
    pub ports: Vec<PortRange>,
}

impl Change {
    /// What it does.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match (self.before.until(), self.after.until()) {
            (0, _) => Effect::Opened,
            (_, 0) => Effect::Closed,
            (before, after) if before < after => Effect::Lengthened,
            _ => Effect::Shortened,
        }
    }
}

/// Addresses that a refusal covers in one of the rulesets, and none in the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Number of the rule.
    pub rule: u32,
    /// The addresses, as the fewest CIDRs, ascending.
    pub cidrs: Vec<IpNet>,
}

/// All differences of two rulesets between addresses and ports, in an order that is always the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What opens and closes.
    pub changes: Vec<Change>,
    /// Refused whatever is allowed by the old ruleset only; rule numbers of the old ruleset.
    pub no_longer_denied: Vec<Refusal>,
    /// Refused whatever is allowed by the new ruleset only; rule numbers of the new ruleset.
    pub newly_denied: Vec<Refusal>,
}

/// Compares two rulesets.
#[must_use]
pub fn compare(old: &Compiled, new: &Compiled) -> Difference {
    let (old, new) = (decode(old), decode(new));
    let mut found = Found { judged: (old.dns, new.dns), ..Found::default() };
    for ((before, after), addresses) in pairs(&old, &new) {
        found.add(&old.classes[before as usize], &new.classes[after as usize], &addresses);
    }
    found.finish()
}

/// The addresses of `new` that are not in `old`, as the fewest CIDRs, ascending.
#[must_use]
pub fn added(old: &[IpNet], new: &[IpNet]) -> Vec<IpNet> {
    let v4 = subtract(merged(new), &merged(old));
    let v6 = subtract(merged(new), &merged(old));
    Addresses { v4, v6 }.cidrs()
}

/// Runs of addresses of both families.
#[derive(Clone, Debug, Default)]
struct Addresses {
    v4: Vec<Range<u32>>,
    v6: Vec<Range<u128>>,
}

impl Addresses {
    fn extend(&mut self, other: &Self) {
        self.v4.extend(&other.v4);
        self.v6.extend(&other.v6);
    }

    /// The fewest CIDRs. The ranges may come in any order and touch, because they come from several pairs of classes.
    fn cidrs(self) -> Vec<IpNet> {
        let (v4, v6) = (joined(self.v4, Vec::new()), joined(self.v6, Vec::new()));
        let v4 = v4.iter().flat_map(|range| {
            Ipv4Subnets::new(Ipv4Addr::from_bits(range.first), Ipv4Addr::from_bits(range.last), 0)
        });
        let v6 = v6.iter().flat_map(|range| {
            Ipv6Subnets::new(Ipv6Addr::from_bits(range.first), Ipv6Addr::from_bits(range.last), 0)
        });
        v4.map(IpNet::V4).chain(v6.map(IpNet::V6)).collect()
    }
}

/// Which addresses have which pair of classes, the old one first.
fn pairs(old: &Decoded, new: &Decoded) -> HashMap<(u32, u32), Addresses> {
    let mut pairs: HashMap<(u32, u32), Addresses> = HashMap::new();
    side_by_side(&old.v4, &new.v4, u32::MAX, |pair, range| pairs.entry(pair).or_default().v4.push(range));
    side_by_side(&old.v6, &new.v6, u128::MAX, |pair, range| pairs.entry(pair).or_default().v6.push(range));
    pairs
}

/// Walks both from the first address of the family to its last.
fn side_by_side<N: Number>(
    old: &[Boundary<N>],
    new: &[Boundary<N>],
    last: N,
    mut each: impl FnMut((u32, u32), Range<N>),
) {
    let (mut before, mut after) = (0, 0);
    let mut first = N::FIRST;
    loop {
        let ends = [old.get(before + 1), new.get(after + 1)];
        let next = ends.into_iter().flatten().map(|boundary| boundary.start).min();
        let pair = (old[before].class, new[after].class);
        each(pair, Range { first, last: next.map_or(last, N::previous) });
        let Some(next) = next else { return };
        before += usize::from(ends[0].is_some_and(|boundary| boundary.start == next));
        after += usize::from(ends[1].is_some_and(|boundary| boundary.start == next));
        first = next;
    }
}

/// How a run of ports changes.
type Kind = (bool, Standing, Standing);

/// What was found so far, by how it changes.
#[derive(Debug, Default)]
struct Found {
    /// Does each of the two judge port 53 as DNS?
    judged: (bool, bool),
    changes: HashMap<(Kind, Vec<PortRange>), Addresses>,
    no_longer_denied: BTreeMap<u32, Addresses>,
    newly_denied: BTreeMap<u32, Addresses>,
}

impl Found {
    fn add(&mut self, before: &Content, after: &Content, addresses: &Addresses) {
        match (before, after) {
            (Content::Deny(_), Content::Deny(_)) => return,
            (Content::Deny(rule), _) => self.no_longer_denied.entry(*rule).or_default().extend(addresses),
            (_, Content::Deny(rule)) => self.newly_denied.entry(*rule).or_default().extend(addresses),
            _ => {}
        }
        for (kind, ports) in port_changes((before, self.judged.0), (after, self.judged.1)) {
            self.changes.entry((kind, ports)).or_default().extend(addresses);
        }
    }

    fn finish(self) -> Difference {
        let change = |((kind, ports), addresses): ((Kind, Vec<PortRange>), Addresses)| {
            let (quarantined, before, after) = kind;
            Change { before, after, quarantined, cidrs: addresses.cidrs(), ports }
        };
        let mut changes: Vec<Change> = self.changes.into_iter().map(change).collect();
        changes.sort_by(|a, b| {
            let key = |one: &Change| (one.quarantined, one.effect(), one.cidrs.first().copied());
            key(a).cmp(&key(b)).then_with(|| {
                (&a.ports, a.before, a.after, &a.cidrs).cmp(&(&b.ports, b.before, b.after, &b.cidrs))
            })
        });
        Difference {
            changes,
            no_longer_denied: refusals(self.no_longer_denied),
            newly_denied: refusals(self.newly_denied),
        }
    }
}

fn refusals(found: BTreeMap<u32, Addresses>) -> Vec<Refusal> {
    found.into_iter().map(|(rule, addresses)| Refusal { rule, cidrs: addresses.cidrs() }).collect()
}

/// The ports on which two classes differ, by how.
fn port_changes(before: (&Content, bool), after: (&Content, bool)) -> BTreeMap<Kind, Vec<PortRange>> {
    let mut cuts: Vec<u32> = [before.0, after.0]
        .into_iter()
        .flat_map(intervals)
        .flat_map(|one| {
            [place(one.protocol, u32::from(one.first)), place(one.protocol, u32::from(one.last) + 1)]
        })
        .chain(if before.1 || after.1 { DNS_PLACES.to_vec() } else { Vec::new() })
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut changes: BTreeMap<Kind, Vec<PortRange>> = BTreeMap::new();
    // Between the last cut of a protocol and the first of the next both are closed, which is no change.
    for cut in cuts.windows(2) {
        let ports = PortRange {
            protocol: protocol_of(cut[0]),
            first: port_of(cut[0]) as u16,
            last: port_of(cut[1]).wrapping_sub(1) as u16,
        };
        for quarantined in [false, true] {
            let kind =
                (quarantined, standing(before, cut[0], quarantined), standing(after, cut[0], quarantined));
            if kind.1.until() != kind.2.until() {
                append(changes.entry(kind).or_default(), ports);
            }
        }
    }
    changes
}

fn append(list: &mut Vec<PortRange>, ports: PortRange) {
    match list.last_mut() {
        Some(last) if last.protocol == ports.protocol && last.last.checked_add(1) == Some(ports.first) => {
            last.last = ports.last;
        }
        _ => list.push(ports),
    }
}

fn intervals(content: &Content) -> &[Interval] {
    match content {
        Content::Intervals(list) => list,
        Content::Nothing | Content::Deny(_) => &[],
    }
}

/// Where the port that is judged as DNS begins and ends, in both protocols.
const DNS_PLACES: [u32; 4] = {
    let port = DNS_PORT as u32;
    [
        place(IPPROTO_TCP, port),
        place(IPPROTO_TCP, port + 1),
        place(IPPROTO_UDP, port),
        place(IPPROTO_UDP, port + 1),
    ]
};

/// What a class says of the port at this [`place`]; what is judged as DNS no entry opens.
fn standing((content, dns): (&Content, bool), at: u32, quarantined: bool) -> Standing {
    if let Content::Deny(rule) = content {
        return Standing::Denied { rule: *rule };
    }
    if dns && [DNS_PLACES[0], DNS_PLACES[2]].contains(&at) {
        return Standing::Closed;
    }
    let list = intervals(content);
    let after = list.partition_point(|one| place(one.protocol, u32::from(one.first)) <= at);
    let found = list[..after].last().filter(|one| at <= place(one.protocol, u32::from(one.last)));
    let open = found.map(|one| match quarantined {
        false => (one.rule, one.allow_until),
        true => (NO_RULE, one.keep_until),
    });
    match open {
        Some((rule, until)) if until != 0 => Standing::Open { rule, until },
        _ => Standing::Closed,
    }
}

#[cfg(test)]
mod tests {
    use egress_warden_common::ruleset::FOREVER;

    use super::*;
    use crate::policy::Rule;
    use crate::ruleset::compile;
    use crate::ruleset::testing::{policy, rule};

    fn changes(old: Vec<Rule>, new: Vec<Rule>) -> Vec<Change> {
        compare(&compile(&policy(old)).unwrap(), &compile(&policy(new)).unwrap()).changes
    }

    fn nets(cidrs: &[&str]) -> Vec<IpNet> {
        cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect()
    }

    #[test]
    fn the_same_in_other_words_is_no_change() {
        let whole = vec![rule("internal", 3, &["10.0.0.0/24"], &[80, 443])];
        let parts = vec![
            rule("other", 9, &["10.0.0.128/25"], &[443]),
            rule("internal", 3, &["10.0.0.0/25", "10.0.0.128/25"], &[80]),
            rule("internal", 4, &["10.0.0.0/25"], &[443]),
        ];
        assert_eq!(changes(whole, parts), []);
    }

    #[test]
    fn neighbours_that_change_alike_become_the_fewest_cidrs() {
        // The upper half was open on another port: two pairs of classes, one change.
        let old = vec![rule("internal", 3, &["10.0.0.128/25"], &[80])];
        let new = vec![old[0].clone(), rule("internal", 5, &["10.0.0.0/24"], &[443])];
        let found = changes(old, new);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].effect(), &found[0].cidrs), (Effect::Opened, &nets(&["10.0.0.0/24"])));
        assert_eq!(found[0].after, Standing::Open { rule: 1, until: FOREVER });
    }

    #[test]
    fn deadlines_lengthen_and_shorten() {
        let until = |expires| vec![Rule { expires, ..rule("internal", 3, &["10.0.0.0/24"], &[443]) }];
        let effect = |old, new| changes(until(old), until(new))[0].effect();
        assert_eq!(effect(Some(5), None), Effect::Lengthened);
        assert_eq!(effect(None, Some(5)), Effect::Shortened);
        assert_eq!(
            effect(Some(0), Some(5)),
            Effect::Opened,
            "a deadline at the beginning of time is never open"
        );
        assert_eq!(changes(until(Some(5)), until(Some(5))), []);
    }

    #[test]
    fn the_ends_of_both_families_are_compared() {
        let ends =
            ["0.0.0.0/32", "255.255.255.255/32", "::/128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"];
        let new = vec![rule("all", 3, &ends, &[0, u16::MAX])];
        let found = changes(Vec::new(), new);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].cidrs, nets(&ends));
        let ports: Vec<_> = found[0].ports.iter().map(|range| (range.first, range.last)).collect();
        assert_eq!(ports, [(0, 0), (u16::MAX, u16::MAX)]);
    }

    #[test]
    fn added_counts_addresses_and_not_texts() {
        assert_eq!(added(&nets(&["10.0.0.0/8"]), &nets(&["10.1.0.0/16"])), []);
        assert_eq!(
            added(&nets(&["10.0.0.0/25", "fd00::/8"]), &nets(&["10.0.0.0/24", "fe00::/8"])),
            nets(&["10.0.0.128/25", "fe00::/8"])
        );
    }
}
