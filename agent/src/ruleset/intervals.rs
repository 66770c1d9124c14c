//! From a set of rules that cover the same addresses to disjoint intervals of ports.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use egress_warden_common::ruleset::FOREVER;

use crate::policy::PortRange;

/// What the kernel reads for a run of ports of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Interval {
    pub(super) protocol: u8,
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) rule: u32,
    pub(super) allow_until: u64,
    pub(super) keep_until: u64,
}

impl Interval {
    fn continues(&self, before: &Self) -> bool {
        self.protocol == before.protocol
            && before.last.checked_add(1) == Some(self.first)
            && (self.rule, self.allow_until, self.keep_until)
                == (before.rule, before.allow_until, before.keep_until)
    }
}

/// What a rule says of ports: its ranges without overlap, and how long they stay open.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    /// Protocol with first port, and the same with one past the last port; see [`place`].
    runs: Vec<(u32, u32)>,
    pub(super) allow_until: u64,
    pub(super) keep_until: u64,
}

/// One number for protocol and port. A protocol has room for one port past its last, where its last run ends.
pub(super) const fn place(protocol: u8, port: u32) -> u32 {
    (protocol as u32) << 17 | port
}

pub(super) const fn protocol_of(place: u32) -> u8 {
    (place >> 17) as u8
}

pub(super) const fn port_of(place: u32) -> u32 {
    place & 0x1_ffff
}

impl Ports {
    pub(super) fn new(ports: &[PortRange], expires: Option<u64>, keep: bool) -> Self {
        let mut runs: Vec<(u32, u32)> = ports
            .iter()
            .filter(|range| range.first <= range.last)
            .map(|range| {
                let first = place(range.protocol, u32::from(range.first));
                (first, place(range.protocol, u32::from(range.last) + 1))
            })
            .collect();
        runs.sort_unstable();
        runs.dedup_by(|next, kept| {
            let joins = next.0 <= kept.1;
            if joins {
                kept.1 = kept.1.max(next.1);
            }
            joins
        });
        // The kernel reads the largest number as "no deadline", which no real deadline may become.
        let allow_until = expires.map_or(FOREVER, |expires| expires.min(FOREVER - 1));
        Self { runs, allow_until, keep_until: if keep { allow_until } else { 0 } }
    }
}

/// Flattens what these rules say of ports, without an ICMP that the addresses' family does not have. Where several cover a port it is open as long
/// as the longest of them says, and that one is named; the first written wins a tie.
pub(super) fn flatten(rules: &[u32], ports: &[Ports], foreign_icmp: Option<u8>) -> Vec<Interval> {
    let mut edges: Vec<(u32, u32)> = Vec::new();
    for &rule in rules {
        for &(first, end) in &ports[rule as usize].runs {
            if Some(protocol_of(first)) != foreign_icmp {
                edges.extend([(first, rule), (end, rule)]);
            }
        }
    }
    edges.sort_unstable();

    let mut intervals: Vec<Interval> = Vec::new();
    let mut open = BTreeSet::new();
    let mut kept = BTreeSet::new();
    let mut edges = edges.into_iter().peekable();
    while let Some((at, rule)) = edges.next() {
        // The runs of one rule are disjoint, so every second edge of a rule ends what the one before began.
        let Ports { allow_until, keep_until, .. } = ports[rule as usize];
        if !open.remove(&(Reverse(allow_until), rule)) {
            open.insert((Reverse(allow_until), rule));
        }
        if keep_until != 0 && !kept.remove(&(keep_until, rule)) {
            kept.insert((keep_until, rule));
        }
        let Some(&(next, _)) = edges.peek().filter(|(next, _)| *next != at) else { continue };
        let Some(&(Reverse(allow_until), rule)) = open.first() else { continue };
        let interval = Interval {
            protocol: protocol_of(at),
            first: port_of(at) as u16,
            last: (port_of(next) - 1) as u16,
            rule,
            allow_until,
            keep_until: kept.last().map_or(0, |(until, _)| *until),
        };
        match intervals.last_mut().filter(|before| interval.continues(before)) {
            Some(before) => before.last = interval.last,
            None => intervals.push(interval),
        }
    }
    intervals
}
