//! Writes what belongs to names behind the rest of a ruleset.

use egress_warden_common::ruleset::{
    NAME_CLASSES, NAME_ENTRIES, NAME_TARGETS, NAME_TEXTS, NAMES, POINT_SETS, POINTS_V4, POINTS_V6,
    QUERY_TYPES, TTL,
};

use super::super::encode::{place, v4_boundaries, v6_boundaries};
use super::Names;
use crate::policy::Dns;

impl Names {
    pub(in super::super) fn encode(&self, dns: &Dns, words: &mut Vec<u64>) {
        if !self.entries.is_empty() {
            self.encode_entries(words);
            self.encode_classes(words);
        }
        v4_boundaries(POINTS_V4, &self.points.v4, words);
        v6_boundaries(POINTS_V6, &self.points.v6, words);
        words[POINT_SETS as usize] = place(words, self.points.sets.len());
        words.extend(&self.points.sets);
        words[QUERY_TYPES as usize] = place(words, dns.types.len());
        words.extend(dns.types.iter().map(|kind| u64::from(*kind) << 32));
        words[TTL as usize] = u64::from(dns.ttl.0) << 32 | u64::from(dns.ttl.1);
    }

    fn encode_entries(&self, words: &mut Vec<u64>) {
        words[NAMES as usize] = place(words, self.table.len());
        words.extend(self.table.iter().flat_map(|(hash, number)| [*hash, u64::from(*number)]));
        words[NAME_ENTRIES as usize] = place(words, self.entries.len());
        let mut first = 0;
        for entry in &self.entries {
            let length = entry.text.len() as u64;
            words.extend([first << 32 | length, u64::from(entry.below) << 32 | u64::from(entry.own)]);
            first += length.div_ceil(8);
        }
        words[NAME_TEXTS as usize] = place(words, first as usize);
        words.extend(self.entries.iter().flat_map(|entry| text(&entry.text)));
    }

    fn encode_classes(&self, words: &mut Vec<u64>) {
        words[NAME_CLASSES as usize] = place(words, self.classes.len());
        let mut first = 0;
        for class in &self.classes {
            let count = class.targets.len() as u64;
            let targets = count << 32 | first;
            words.extend([targets, class.allow_until, class.keep_until, u64::from(class.rule)]);
            first += count;
        }
        words[NAME_TARGETS as usize] = place(words, first as usize);
        let targets = self.classes.iter().flat_map(|class| &class.targets);
        words.extend(targets.map(|(set, class)| u64::from(*set) << 32 | u64::from(*class)));
    }
}

/// A name as it is read: backwards, eight characters a word, the first in the lowest byte.
fn text(name: &str) -> Vec<u64> {
    let backwards: Vec<u8> = name.bytes().rev().collect();
    backwards
        .chunks(8)
        .map(|chunk| chunk.iter().rev().fold(0, |word, character| word << 8 | u64::from(*character)))
        .collect()
}
