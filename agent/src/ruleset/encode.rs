//! Writes a ruleset down. The layout is told in [`egress_warden_common::ruleset`].

use egress_warden_common::ruleset::{
    CLASS_DENY, CLASS_INTERVALS, CLASS_NONE, CLASSES, FLAG_AUDIT, FLAG_DNS, FLAG_LOOPBACK_ALLOW,
    FLAG_LOOPBACK_DENY, FLAG_OWN_RESOLVERS, FLAGS, FLAGS_MARK, HEADER_WORDS, INTERVAL_WORDS, INTERVALS,
    LENGTH, NAMES, QUARANTINE, RAW, RAW_WORDS, V4, V6, V6_WORDS, VERSION, interval_key,
};

use super::intervals::Interval;
use super::names::Names;
use super::sweep::{Boundary, ClassTable, Content};
use crate::policy::{Loopback, Mode, Policy};

/// The parts of a ruleset, within their limits.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) v4: Vec<Boundary<u32>>,
    pub(super) v6: Vec<Boundary<u128>>,
    pub(super) classes: ClassTable,
    /// Absent where the policy says nothing of names.
    pub(super) names: Option<Names>,
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

    v4_boundaries(V4, &parts.v4, &mut words);
    v6_boundaries(V6, &parts.v6, &mut words);
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
    if let Some(names) = &parts.names {
        names.encode(&policy.dns, &mut words);
    }
    header(policy, &mut words);
    words
}

pub(super) fn v4_boundaries(part: u32, boundaries: &[Boundary<u32>], words: &mut Vec<u64>) {
    words[part as usize] = place(words, boundaries.len());
    words.extend(boundaries.iter().map(|one| u64::from(one.start) << 32 | u64::from(one.class)));
}

pub(super) fn v6_boundaries(part: u32, boundaries: &[Boundary<u128>], words: &mut Vec<u64>) {
    words[part as usize] = place(words, boundaries.len());
    for Boundary { start, class } in boundaries {
        words.extend([(start >> 64) as u64, *start as u64, u64::from(*class)]);
    }
}

/// One bit for each protocol.
fn raw_protocols(policy: &Policy) -> [u64; RAW_WORDS as usize] {
    let mut set = [0; RAW_WORDS as usize];
    for protocol in &policy.raw {
        set[usize::from(protocol / 64)] |= 1 << (protocol % 64);
    }
    set
}

/// Where the next part stands, and how long it is.
pub(super) fn place(words: &[u64], count: usize) -> u64 {
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
    let dns = match (policy.dns.judged, &policy.dns.resolvers) {
        (false, _) => 0,
        (true, Some(_)) => FLAG_DNS,
        (true, None) => FLAG_DNS | FLAG_OWN_RESOLVERS,
    };
    words[FLAGS as usize] = FLAGS_MARK | mode | loopback | dns;
    words[LENGTH as usize] = words.len() as u64;
    let rules = words[QUARANTINE as usize..NAMES as usize].chunks_exact_mut(2);
    for (place, rule) in rules.zip(&policy.quarantine) {
        place.copy_from_slice(&[u64::from(rule.violations), rule.within_ns]);
    }
}
