//! Where rulesets stand in the array of words. Equal ones stand there once.

use std::collections::BTreeMap;

/// One ruleset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) length: u32,
    /// Of its words.
    pub(super) hash: u64,
    /// Bindings that point at it.
    pub(super) users: u32,
}

/// All of them, by the index of their first word.
#[derive(Clone, Debug)]
pub(super) struct Regions {
    capacity: u32,
    used: BTreeMap<u32, Region>,
    /// No binding points at these any more, but a program that began before may still read them.
    leaving: BTreeMap<u32, u32>,
}

impl Regions {
    pub(super) const fn new(capacity: u32) -> Self {
        Self { capacity, used: BTreeMap::new(), leaving: BTreeMap::new() }
    }

    /// A binding was found to point here.
    pub(super) fn adopt(&mut self, base: u32, length: u32, hash: u64) {
        self.used.entry(base).or_insert(Region { length, hash, users: 0 }).users += 1;
    }

    /// Where rulesets with this hash and length stand.
    pub(super) fn candidates(&self, hash: u64, length: u32) -> impl Iterator<Item = u32> {
        self.used
            .iter()
            .filter(move |(_, region)| region.hash == hash && region.length == length)
            .map(|(base, _)| *base)
    }

    pub(super) fn hash_at(&self, base: u32) -> Option<u64> {
        self.used.get(&base).map(|region| region.hash)
    }

    pub(super) fn length_at(&self, base: u32) -> Option<u32> {
        self.used.get(&base).map(|region| region.length)
    }

    pub(super) fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// A place for a ruleset that nobody uses yet, in the first gap that it fits into.
    pub(super) fn place(&mut self, length: u32, hash: u64) -> Option<u32> {
        let base = self.gap(length)?;
        self.used.insert(base, Region { length, hash, users: 0 });
        Some(base)
    }

    fn gap(&self, length: u32) -> Option<u32> {
        let mut taken: Vec<(u32, u32)> = self
            .used
            .iter()
            .map(|(base, region)| (*base, region.length))
            .chain(self.leaving.iter().map(|(base, length)| (*base, *length)))
            .collect();
        taken.sort_unstable();
        let mut free = 0;
        for (base, taken) in taken {
            if base - free >= length {
                return Some(free);
            }
            free = base + taken;
        }
        (self.capacity - free >= length).then_some(free)
    }

    pub(super) fn hold(&mut self, base: u32) {
        if let Some(region) = self.used.get_mut(&base) {
            region.users += 1;
        }
    }

    /// A binding stops to point here.
    pub(super) fn let_go(&mut self, base: u32) {
        let Some(region) = self.used.get_mut(&base) else { return };
        region.users = region.users.saturating_sub(1);
        if region.users == 0 {
            let length = region.length;
            self.used.remove(&base);
            self.leaving.insert(base, length);
        }
    }

    /// No program that began before reads them any more.
    pub(super) fn grace_passed(&mut self) {
        self.leaving.clear();
    }

    /// Words in use.
    pub(super) fn words(&self) -> u64 {
        self.used.values().map(|region| u64::from(region.length)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_filled_only_when_nobody_can_read_it() {
        let mut regions = Regions::new(100);
        let bases: Vec<u32> = [40, 30, 30].iter().map(|length| regions.place(*length, 7).unwrap()).collect();
        assert_eq!((bases.as_slice(), regions.place(1, 7)), ([0, 40, 70].as_slice(), None));
        bases.iter().for_each(|base| regions.hold(*base));
        regions.let_go(40);
        assert_eq!((regions.words(), regions.place(30, 7)), (70, None), "it may still be read");
        regions.grace_passed();
        assert_eq!((regions.place(31, 7), regions.place(30, 8)), (None, Some(40)));
        assert_eq!(regions.candidates(7, 30).collect::<Vec<_>>(), [70]);
    }

    #[test]
    fn the_last_user_frees() {
        let mut regions = Regions::new(10);
        regions.adopt(0, 10, 1);
        regions.adopt(0, 10, 1);
        regions.let_go(0);
        assert_eq!(regions.words(), 10);
        regions.let_go(0);
        assert_eq!((regions.words(), regions.is_leaving()), (0, true));
    }
}
