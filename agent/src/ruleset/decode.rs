//! Reads a ruleset back into its parts: the other direction of [`super::encode`].

use std::collections::HashSet;

use egress_warden_common::Address;
use egress_warden_common::ruleset::{
    CLASS_DENY, CLASS_INTERVALS, CLASSES, FLAG_DNS, FLAGS, INTERVAL_WORDS, INTERVALS, POINTS_V4, POINTS_V6,
    V4, V6, V6_WORDS,
};

use super::Compiled;
use super::intervals::Interval;
use super::sweep::{Boundary, Content};

/// The parts of a ruleset.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) v4: Vec<Boundary<u32>>,
    pub(super) v6: Vec<Boundary<u128>>,
    /// The classes, in the order of their number.
    pub(super) classes: Vec<Content>,
    /// Is port 53 judged as DNS?
    pub(super) dns: bool,
}

/// Reads what [`super::compile`] made.
pub(super) fn decode(compiled: &Compiled) -> Decoded {
    let words = &compiled.words;
    let v4 = part(words, V4, 1).map(|word| Boundary { start: (word[0] >> 32) as u32, class: word[0] as u32 });
    let v6 = part(words, V6, V6_WORDS).map(|words| Boundary {
        start: u128::from(words[0]) << 64 | u128::from(words[1]),
        class: words[2] as u32,
    });
    let intervals: Vec<Interval> = part(words, INTERVALS, INTERVAL_WORDS).map(interval).collect();
    let classes = part(words, CLASSES, 1).map(|word| content(word[0], &intervals));
    let dns = words[FLAGS as usize] & FLAG_DNS != 0;
    Decoded { v4: v4.collect(), v6: v6.collect(), classes: classes.collect(), dns }
}

/// The first address of each set of places that names may point to, in each family.
pub(super) fn points(compiled: &Compiled) -> Vec<Address> {
    let words = &compiled.words;
    let v4 = part(words, POINTS_V4, 1).map(|word| (Address::v4((word[0] >> 32) as u32), word[0] as u32));
    let v6 = part(words, POINTS_V6, V6_WORDS)
        .map(|words| (Address { high: words[0], low: words[1] }, words[2] as u32));
    let mut known = HashSet::new();
    let first = |(address, set): &(Address, u32)| known.insert((address.as_v4().is_some(), *set));
    v4.chain(v6).filter(first).map(|(address, _)| address).collect()
}

/// The elements of a part, each of so many words.
fn part(words: &[u64], part: u32, width: u32) -> std::slice::ChunksExact<'_, u64> {
    let place = words[part as usize];
    let (first, count) = ((place >> 32) as usize, place as u32 as usize);
    let width = width as usize;
    words[first..first + count * width].chunks_exact(width)
}

fn interval(words: &[u64]) -> Interval {
    Interval {
        protocol: (words[0] >> 48) as u8,
        first: (words[0] >> 32) as u16,
        last: (words[0] >> 16) as u16,
        rule: words[1] as u32,
        allow_until: words[2],
        keep_until: words[3],
    }
}

fn content(word: u64, intervals: &[Interval]) -> Content {
    match word >> 56 {
        CLASS_INTERVALS => {
            let (first, count) = (word as u32 as usize, (word >> 32) as usize & 0x00ff_ffff);
            Content::Intervals(intervals[first..first + count].to_vec())
        }
        CLASS_DENY => Content::Deny(word as u32),
        _ => Content::Nothing,
    }
}
