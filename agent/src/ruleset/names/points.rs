//! Where names may point: sets of addresses, and which addresses are in which of them.

use std::collections::{BTreeSet, HashMap};

use egress_warden_common::names::RESOLVER_SET;
use ipnet::IpNet;

use super::super::ranges::{Number, Range, joined, merged, subtract};
use super::super::sweep::Boundary;
use super::super::{Excess, Figure};
use crate::policy::{Policy, resolvable};

/// The addresses between boundaries, by the sets that they are in.
#[derive(Debug)]
pub(super) struct Points {
    /// The class of a boundary is a number of [`Self::sets`].
    pub(super) v4: Vec<Boundary<u32>>,
    pub(super) v6: Vec<Boundary<u128>>,
    /// One bit for each set.
    pub(super) sets: Vec<u64>,
    /// The set of each entry by name, in the policy's order.
    of_rules: Vec<u32>,
    places: usize,
}

/// A set of addresses in its one form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    v4: Vec<Range<u32>>,
    v6: Vec<Range<u128>>,
}

impl Place {
    fn of(cidrs: &[IpNet]) -> Self {
        Self { v4: merged(cidrs), v6: merged(cidrs) }
    }

    fn without(self, other: &Self) -> Self {
        Self { v4: subtract(self.v4, &other.v4), v6: subtract(self.v6, &other.v6) }
    }

    fn with(self, other: Self) -> Self {
        Self { v4: joined(self.v4, other.v4), v6: joined(self.v6, other.v6) }
    }
}

impl Points {
    pub(super) fn of(policy: &Policy) -> Result<Self, Excess> {
        let never: Vec<IpNet> = resolvable::never().map(|(network, _)| network).collect();
        let never = Place::of(&never);
        let place =
            |resolves_to: Option<&[IpNet]>| resolves_to.map_or_else(global, Place::of).without(&never);
        let of_rules: Vec<Place> =
            policy.names.iter().map(|rule| place(rule.resolves_to.as_deref())).collect();
        // By content, so that the order of writing does not matter.
        let places: BTreeSet<&Place> = of_rules.iter().collect();
        Excess::check(Figure::PointSets, places.len())?;
        let resolvers = policy.dns.resolvers.as_deref().map(Place::of);
        let numbered: Vec<(u32, &Place)> = (0..)
            .zip(places.iter().copied())
            .chain(resolvers.iter().map(|set| (RESOLVER_SET, set)))
            .collect();
        let mut sets = Sets::default();
        let v4 = sets.walk(numbered.iter().map(|(bit, place)| (*bit, place.v4.as_slice())));
        let v6 = sets.walk(numbered.iter().map(|(bit, place)| (*bit, place.v6.as_slice())));
        Excess::check(Figure::V4Boundaries, v4.len())?;
        Excess::check(Figure::V6Boundaries, v6.len())?;
        let number = |place: &Place| places.iter().take_while(|known| **known < place).count() as u32;
        let (of_rules, places) = (of_rules.iter().map(number).collect(), places.len());
        Ok(Self { v4, v6, sets: sets.finish(), of_rules, places })
    }

    /// The number of the set that an entry's names may point to.
    pub(super) fn of_rule(&self, rule: u32) -> u32 {
        self.of_rules[rule as usize]
    }

    /// The number of different places, resolvers apart.
    pub(super) const fn places(&self) -> usize {
        self.places
    }
}

/// Where an answer may point that no `resolvesTo` narrows.
fn global() -> Place {
    let [unicast, not_global, after_all] = resolvable::global_unicast();
    Place::of(&unicast).without(&Place::of(&not_global)).with(Place::of(&after_all))
}

/// Gives equal sets of bits one number, in the order in which they are met.
#[derive(Debug, Default)]
struct Sets {
    numbers: HashMap<u64, u32>,
    sets: Vec<u64>,
}

impl Sets {
    fn finish(self) -> Vec<u64> {
        self.sets
    }

    /// Walks one family from its first address to its last.
    fn walk<'a, N: Number + 'a>(
        &mut self,
        places: impl Iterator<Item = (u32, &'a [Range<N>])>,
    ) -> Vec<Boundary<N>> {
        let mut changes: Vec<(N, u64)> = vec![(N::FIRST, 0)];
        for (bit, ranges) in places {
            for range in ranges {
                changes.push((range.first, 1 << bit));
                changes.extend(range.last.next().map(|after| (after, 1 << bit)));
            }
        }
        changes.sort_unstable();
        let mut boundaries: Vec<Boundary<N>> = Vec::new();
        let mut bits = 0;
        // The ranges of one place neither overlap nor touch, so every second change of a bit takes it away.
        for together in changes.chunk_by(|one, next| one.0 == next.0) {
            bits = together.iter().fold(bits, |bits, (_, change)| bits ^ change);
            let class = self.number(bits);
            if boundaries.last().is_none_or(|before| before.class != class) {
                boundaries.push(Boundary { start: together[0].0, class });
            }
        }
        boundaries
    }

    fn number(&mut self, bits: u64) -> u32 {
        let sets = &mut self.sets;
        *self.numbers.entry(bits).or_insert_with(|| {
            sets.push(bits);
            sets.len() as u32 - 1
        })
    }
}
