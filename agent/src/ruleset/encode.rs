//! Writes a ruleset down. The layout is told in [`egress_warden_common::ruleset`].

use egress_warden_common::ruleset::{
    CLASS_DENY, CLASS_INTERVALS, CLASS_NONE, CLASSES, FLAG_AUDIT, FLAG_LOOPBACK_ALLOW, FLAG_LOOPBACK_DENY,
    FLAGS, FLAGS_MARK, HEADER_WORDS, INTERVAL_WORDS, INTERVALS, LENGTH, QUARANTINE, RAW, RAW_WORDS, V4, V6,
    V6_WORDS, VERSION, interval_key,
};

use super::intervals::Interval;
use super::sweep::{Boundary, ClassTable, Content};
use crate::policy::{Loopback, Mode, Policy};

/// The parts of a ruleset, within their limits.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) v4: Vec<Boundary<u32>>,
    pub(super) v6: Vec<Boundary<u128>>,
    pub(super) classes: ClassTable,
}

/// Writes the parts behind a header.
pub(super) fn encode(policy: &Policy, parts: &Parts) -> Vec<u64> {
    let intervals = parts.classes.intervals();
    let length = HEADER_WORDS as usize
        + parts.v4.len()
        + parts.v6.len() * V6_WORDS as usize
        + parts.classes.len()
        + intervals * INTERVAL_WORDS as usize
        + RAW_WORDS as usize;
    let mut words = Vec::with_capacity(length);
    words.resize(HEADER_WORDS as usize, 0);

    words[V4 as usize] = place(&words, parts.v4.len());
    words.extend(parts.v4.iter().map(|boundary| u64::from(boundary.start) << 32 | u64::from(boundary.class)));
    words[V6 as usize] = place(&words, parts.v6.len());
    for Boundary { start, class } in &parts.v6 {
        words.extend([(start >> 64) as u64, *start as u64, u64::from(*class)]);
    }
    words[CLASSES as usize] = place(&words, parts.classes.len());
    let mut first = 0;
    for content in parts.classes.iter() {
        words.push(match content {
            Content::Nothing => CLASS_NONE << 56,
            Content::Deny(rule) => CLASS_DENY << 56 | u64::from(*rule),
            Content::Intervals(list) => CLASS_INTERVALS << 56 | (list.len() as u64) << 32 | first,
        });
        if let Content::Intervals(list) = content {
            first += list.len() as u64;
        }
    }
    words[INTERVALS as usize] = place(&words, intervals);
    for content in parts.classes.iter() {
        if let Content::Intervals(list) = content {
            words.extend(list.iter().flat_map(interval));
        }
    }
    if !policy.raw.is_empty() {
        words[RAW as usize] = place(&words, RAW_WORDS as usize);
        words.extend(raw_protocols(policy));
    }
    header(policy, &mut words);
    words
}

/// One bit for each protocol.
fn raw_protocols(policy: &Policy) -> [u64; RAW_WORDS as usize] {
    let mut set = [0; RAW_WORDS as usize];
    for protocol in &policy.raw {
        set[usize::from(protocol / 64)] |= 1 << (protocol % 64);
    }
    set
}

fn place(words: &[u64], count: usize) -> u64 {
    (words.len() as u64) << 32 | count as u64
}

fn interval(interval: &Interval) -> [u64; INTERVAL_WORDS as usize] {
    let key = u64::from(interval_key(interval.protocol, interval.first));
    let ports = key << 32 | u64::from(interval.last) << 16;
    [ports, u64::from(interval.rule), interval.allow_until, interval.keep_until]
}

fn header(policy: &Policy, words: &mut [u64]) {
    words[0] = VERSION;
    let mode = match policy.mode {
        Mode::Enforce => 0,
        Mode::Audit => FLAG_AUDIT,
    };
    let loopback = match policy.loopback {
        Loopback::ByNamespace => 0,
        Loopback::Allow => FLAG_LOOPBACK_ALLOW,
        Loopback::Deny => FLAG_LOOPBACK_DENY,
    };
    words[FLAGS as usize] = FLAGS_MARK | mode | loopback;
    words[LENGTH as usize] = words.len() as u64;
    let rules = words[QUARANTINE as usize..HEADER_WORDS as usize].chunks_exact_mut(2);
    for (place, rule) in rules.zip(&policy.quarantine) {
        place.copy_from_slice(&[u64::from(rule.violations), rule.within_ns]);
    }
}
