//! The table in which a name is found by its hash.

use std::collections::HashMap;

use egress_warden_common::limits::NAME_PROBES;
use egress_warden_common::names::{hash, slot};

use super::super::Unfit;

/// A slot: the hash of a name, and the number of its entry plus 1. Zeros where it is free.
pub(super) type Slot = (u64, u32);

/// How often the table is doubled before names are called alike. With hashes that are not made to collide one doubling is
/// rare.
const DOUBLINGS: usize = 5;

/// Places the names: of power-of-two size, at most half full, and so that no search is longer than the kernel's.
pub(super) fn of(texts: &[&str]) -> Result<Vec<Slot>, Unfit> {
    let collision =
        |one: usize, other: usize| Unfit::Collision { one: texts[one].into(), other: texts[other].into() };
    let hashes: Vec<u64> = texts.iter().map(|text| hash(text)).collect();
    let mut known: HashMap<u64, usize> = HashMap::with_capacity(texts.len());
    for (number, hash) in hashes.iter().enumerate() {
        if let Some(other) = known.insert(*hash, number) {
            return Err(collision(other, number));
        }
    }
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    let smallest = (texts.len() * 2).next_power_of_two();
    let mut crowded = (0, 0);
    for doublings in 0..=DOUBLINGS {
        match placed(&hashes, smallest << doublings) {
            Ok(table) => return Ok(table),
            Err(pair) => crowded = pair,
        }
    }
    Err(collision(crowded.0, crowded.1))
}

/// The table of this size. The error: a name without a place, and one that has the place where it was looked for first.
fn placed(hashes: &[u64], slots: usize) -> Result<Vec<Slot>, (usize, usize)> {
    let mut table: Vec<Slot> = vec![(0, 0); slots];
    for (number, hash) in hashes.iter().enumerate() {
        let first = slot(*hash, slots as u32) as usize;
        let free = (0..NAME_PROBES as usize)
            .map(|step| (first + step) & (slots - 1))
            .find(|place| table[*place].1 == 0);
        match free {
            Some(place) => table[place] = (*hash, number as u32 + 1),
            None => return Err((table[first].1 as usize - 1, number)),
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two texts with one 64-bit FNV-1a hash, written backwards as names are read.
    const ALIKE: [&str; 2] = ["kqPwB-4jIlHYKCYi0ny8", "QK3Vzy9gfqMw4MrULeRG"];

    #[test]
    fn names_with_one_hash_are_refused() {
        assert_eq!(hash(ALIKE[0]), hash(ALIKE[1]));
        let refused = of(&["a.example", ALIKE[0], ALIKE[1]]).unwrap_err();
        let Unfit::Collision { one, other } = refused else { panic!("{refused:?}") };
        assert_eq!([one.as_str(), other.as_str()], ALIKE);
    }

    #[test]
    fn no_search_is_longer_than_the_kernels() {
        for count in [1, 2, 3, 100, 5000] {
            let texts: Vec<String> = (0..count).map(|number| format!("host-{number}.example")).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let table = of(&texts).unwrap();
            assert!(table.len().is_power_of_two() && table.len() >= count * 2);
            for (place, (hash, number)) in table.iter().enumerate().filter(|(_, (_, number))| *number != 0) {
                assert_eq!(*hash, egress_warden_common::names::hash(texts[*number as usize - 1]));
                let steps = (place + table.len() - slot(*hash, table.len() as u32) as usize) % table.len();
                assert!(steps < NAME_PROBES as usize, "{count}: {steps}");
            }
        }
    }

    #[test]
    fn the_table_grows_where_places_are_crowded_and_gives_up_where_they_stay_so() {
        // Alike in the bits that choose a slot of a small table.
        let crowded = |step: u64| (0..32u64).map(|number| number * step).collect::<Vec<u64>>();
        assert_eq!(placed(&crowded(64), 64).unwrap_err(), (0, 16));
        assert!(placed(&crowded(64), 128).is_ok());
        assert!(placed(&crowded(1 << 32 | 1), 1 << 16).is_err());
    }
}
