//! Which words of the array of words belong to which ruleset.

use std::collections::BTreeMap;

/// A ruleset's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// Index of its first word.
    pub(super) base: u32,
    /// Its words.
    pub(super) length: u32,
}

#[derive(Clone, Copy, Debug)]
struct Use {
    length: u32,
    /// Of the words; equal words have equal ones.
    hash: u64,
    /// Bindings that point here. With none its words stay: a program may still be reading them, and the same ruleset may
    /// come again.
    references: u32,
}

/// All places that are taken.
#[derive(Debug)]
pub(super) struct Regions {
    capacity: u32,
    taken: BTreeMap<u32, Use>,
}

impl Regions {
    pub(super) fn new(capacity: u32) -> Self {
        Self { capacity, taken: BTreeMap::new() }
    }

    /// How many words there are.
    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many words belong to a ruleset in force.
    pub(super) fn in_force(&self) -> u64 {
        self.taken.values().filter(|found| found.references > 0).map(|found| u64::from(found.length)).sum()
    }

    /// Places at which this ruleset may stand already.
    pub(super) fn candidates(&self, length: usize, hash: u64) -> impl Iterator<Item = Region> {
        self.taken.iter().filter_map(move |(base, found)| {
            let same = found.hash == hash && found.length as usize == length;
            same.then_some(Region { base: *base, length: found.length })
        })
    }

    /// Takes the first free place that is long enough.
    pub(super) fn take(&mut self, length: u32, hash: u64) -> Option<Region> {
        let base = first_fit(&self.gaps(|_| true), length)?;
        if base.checked_add(length)? > self.capacity {
            return None;
        }
        self.taken.insert(base, Use { length, hash, references: 0 });
        Some(Region { base, length })
    }

    /// Notes a ruleset that stands there already. False when the place is no place, or taken.
    pub(super) fn adopt(&mut self, region: Region, hash: u64) -> bool {
        let Region { base, length } = region;
        let Some(end) = base.checked_add(length).filter(|end| *end <= self.capacity && length > 0) else {
            return false;
        };
        let overlaps =
            self.taken.range(..end).next_back().is_some_and(|(at, found)| at + found.length > base);
        if !overlaps {
            self.taken.insert(base, Use { length, hash, references: 0 });
        }
        !overlaps
    }

    /// The place that begins there.
    pub(super) fn at(&self, base: u32) -> Option<Region> {
        self.taken.get(&base).map(|found| Region { base, length: found.length })
    }

    /// One more binding points there.
    pub(super) fn refer(&mut self, base: u32) {
        if let Some(found) = self.taken.get_mut(&base) {
            found.references += 1;
        }
    }

    /// One binding less does.
    pub(super) fn forget(&mut self, base: u32) {
        if let Some(found) = self.taken.get_mut(&base) {
            found.references = found.references.saturating_sub(1);
        }
    }

    /// Frees what no binding points at. No program may be reading it any more.
    pub(super) fn free_unused(&mut self) {
        self.taken.retain(|_, found| found.references > 0);
    }

    /// Where the last word would stand if these were put beside what is in force: more than [`Regions::capacity`] when
    /// they do not fit.
    pub(super) fn room_for(&self, lengths: impl IntoIterator<Item = u32>, kept: &[Region]) -> u64 {
        let keep = |base: u32| kept.iter().any(|region| region.base == base);
        let mut gaps = self.gaps(keep);
        let mut end =
            self.taken.iter().map(|(base, found)| u64::from(base + found.length)).max().unwrap_or(0);
        let mut beyond = u64::from(self.capacity);
        for length in lengths {
            match gaps.iter_mut().find(|gap| gap.1 >= length) {
                Some(gap) => {
                    *gap = (gap.0 + length, gap.1 - length);
                    end = end.max(u64::from(gap.0));
                }
                None => {
                    beyond += u64::from(length);
                    end = beyond;
                }
            }
        }
        end
    }

    /// Base and length of every free range, ascending. What no binding points at counts as free, unless it is to be kept.
    fn gaps(&self, keep: impl Fn(u32) -> bool) -> Vec<(u32, u32)> {
        let mut gaps = Vec::new();
        let mut next = 0;
        for (base, found) in &self.taken {
            if found.references == 0 && !keep(*base) {
                continue;
            }
            if *base > next {
                gaps.push((next, base - next));
            }
            next = base + found.length;
        }
        if next < self.capacity {
            gaps.push((next, self.capacity - next));
        }
        gaps
    }
}

fn first_fit(gaps: &[(u32, u32)], length: u32) -> Option<u32> {
    gaps.iter().find(|gap| gap.1 >= length).map(|gap| gap.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_again_only_when_it_was_freed() {
        let mut regions = Regions::new(100);
        let first = regions.take(60, 1).unwrap();
        regions.refer(first.base);
        let second = regions.take(40, 2).unwrap();
        assert_eq!((first.base, second.base), (0, 60));
        regions.forget(first.base);
        assert_eq!(regions.take(1, 3), None);
        assert_eq!(regions.candidates(60, 1).next(), Some(first), "it may come again");
        regions.refer(second.base);
        regions.free_unused();
        assert_eq!(regions.take(1, 3).map(|region| region.base), Some(0));
        assert_eq!(regions.in_force(), 40);
    }

    #[test]
    fn what_is_adopted_overlaps_nothing() {
        let mut regions = Regions::new(100);
        assert!(regions.adopt(Region { base: 10, length: 20 }, 1));
        for (base, length) in [(0, 11), (29, 1), (15, 2), (10, 20), (90, 11), (u32::MAX, 2), (50, 0)] {
            assert!(!regions.adopt(Region { base, length }, 1), "{base} {length}");
        }
        assert!(regions.adopt(Region { base: 0, length: 10 }, 1));
        assert!(regions.adopt(Region { base: 30, length: 70 }, 1));
    }

    #[test]
    fn room_is_reckoned_with_the_holes_that_there_are() {
        let mut regions = Regions::new(100);
        for (length, hash) in [(30, 1), (30, 2), (30, 3)] {
            let base = regions.take(length, hash).unwrap().base;
            regions.refer(base);
        }
        regions.forget(30);
        assert!(regions.room_for([30, 10], &[]) <= 100);
        assert!(regions.room_for([31], &[]) > 100, "the two holes do not touch");
        let kept = [regions.at(30).unwrap()];
        assert!(regions.room_for([30], &kept) > 100);
    }
}
