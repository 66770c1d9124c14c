//! The sweep over the address space: which set of rules covers which run of addresses.
//!
//! A boundary costs one remembered step from one set of rules to the next, however many rules are in the set; only a
//! set that was never seen before is written out and flattened.

use std::collections::{BTreeSet, HashMap};

use super::intervals::{Interval, Ports, flatten};
use super::ranges::Number;
use super::{Excess, Figure};

/// A rule begins to cover at this address, or stops to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Toggle<N> {
    pub(super) at: N,
    pub(super) rule: u32,
}

/// The class of the addresses from `start` to the next boundary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boundary<N> {
    pub(super) start: N,
    pub(super) class: u32,
}

/// What a class says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Content {
    Nothing,
    Deny(u32),
    Intervals(Vec<Interval>),
}

impl Content {
    fn of(intervals: Vec<Interval>) -> Self {
        if intervals.is_empty() { Self::Nothing } else { Self::Intervals(intervals) }
    }
}

/// The finished classes, in the order of their number.
#[derive(Debug)]
pub(super) struct ClassTable(Vec<Content>);

impl ClassTable {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Content> {
        self.0.iter()
    }

    /// The number of all intervals.
    pub(super) fn intervals(&self) -> usize {
        self.0.iter().map(|content| if let Content::Intervals(list) = content { list.len() } else { 0 }).sum()
    }
}

/// Gives equal contents one number, and stops where they become too many.
#[derive(Debug)]
pub(super) struct Classes<'a> {
    ports: &'a [Ports],
    numbers: HashMap<Content, u32>,
    intervals: usize,
}

impl<'a> Classes<'a> {
    pub(super) fn new(ports: &'a [Ports]) -> Self {
        Self { ports, numbers: HashMap::new(), intervals: 0 }
    }

    pub(super) fn finish(self) -> ClassTable {
        let mut contents: Vec<(u32, Content)> =
            self.numbers.into_iter().map(|(content, number)| (number, content)).collect();
        contents.sort_unstable_by_key(|(number, _)| *number);
        ClassTable(contents.into_iter().map(|(_, content)| content).collect())
    }

    /// Walks one family from its first address to its last.
    pub(super) fn sweep<N: Number>(&mut self, toggles: &[Toggle<N>]) -> Result<Vec<Boundary<N>>, Excess> {
        let mut sets = Sets::new();
        let mut set = Sets::EMPTY;
        let mut refusing = BTreeSet::new();
        let mut class_of_set: HashMap<u32, u32> = HashMap::new();
        let mut boundaries = Vec::new();
        let mut toggles = toggles.iter().peekable();
        let mut start = N::FIRST;
        let mut changed = Vec::new();
        loop {
            changed.clear();
            while let Some(toggle) = toggles.next_if(|toggle| toggle.at == start) {
                if (toggle.rule as usize) < self.ports.len() {
                    changed.push(toggle.rule);
                } else if !refusing.remove(&toggle.rule) {
                    refusing.insert(toggle.rule);
                }
            }
            set = sets.step(set, &changed);
            let class = match (refusing.first(), class_of_set.get(&set)) {
                (Some(rule), _) => self.number(Content::Deny(*rule))?,
                (None, Some(class)) => *class,
                (None, None) => {
                    let intervals = flatten(sets.members(set), self.ports, Some(N::FOREIGN_ICMP));
                    *class_of_set.entry(set).or_insert(self.number(Content::of(intervals))?)
                }
            };
            if boundaries.last().is_none_or(|before: &Boundary<N>| before.class != class) {
                boundaries.push(Boundary { start, class });
            }
            let Some(next) = toggles.peek() else { return Ok(boundaries) };
            start = next.at;
        }
    }

    /// The class of what these rules open at addresses of either family.
    pub(super) fn of_rules(&mut self, rules: &[u32]) -> Result<u32, Excess> {
        let intervals = flatten(rules, self.ports, None);
        self.number(Content::of(intervals))
    }

    /// What a rule says of ports.
    pub(super) fn ports(&self, rule: u32) -> &Ports {
        &self.ports[rule as usize]
    }

    fn number(&mut self, content: Content) -> Result<u32, Excess> {
        if let Some(number) = self.numbers.get(&content) {
            return Ok(*number);
        }
        if let Content::Intervals(list) = &content {
            Excess::check(Figure::IntervalsOfClass, list.len())?;
            self.intervals += list.len();
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(content, number);
        for (figure, found) in [(Figure::Classes, self.numbers.len()), (Figure::Intervals, self.intervals)] {
            Excess::check(figure, found).map_err(|excess| Excess { at_least: true, ..excess })?;
        }
        Ok(number)
    }
}

/// Sets of rules with a number each, and the steps between them. All rules are in ascending order.
#[derive(Debug)]
struct Sets {
    members: Vec<Vec<u32>>,
    numbers: HashMap<Vec<u32>, u32>,
    /// For each set: where a change of these rules leads.
    steps: Vec<HashMap<Box<[u32]>, u32>>,
}

impl Sets {
    /// The set without rules.
    const EMPTY: u32 = 0;

    fn new() -> Self {
        Self {
            members: vec![Vec::new()],
            numbers: HashMap::from([(Vec::new(), Self::EMPTY)]),
            steps: vec![HashMap::new()],
        }
    }

    fn members(&self, set: u32) -> &[u32] {
        &self.members[set as usize]
    }

    /// The set after these rules began or stopped to cover.
    fn step(&mut self, set: u32, changed: &[u32]) -> u32 {
        if changed.is_empty() {
            return set;
        }
        if let Some(known) = self.steps[set as usize].get(changed) {
            return *known;
        }
        let members = symmetric_difference(self.members(set), changed);
        let number = *self.numbers.entry(members).or_insert_with_key(|members| {
            self.members.push(members.clone());
            self.steps.push(HashMap::new());
            self.members.len() as u32 - 1
        });
        self.steps[set as usize].insert(changed.into(), number);
        number
    }
}

/// What is in one of the two ascending lists but not in both.
fn symmetric_difference(left: &[u32], right: &[u32]) -> Vec<u32> {
    let mut all = [left, right].concat();
    all.sort();
    let mut kept = Vec::with_capacity(all.len());
    for number in all {
        if kept.last() == Some(&number) {
            kept.pop();
        } else {
            kept.push(number);
        }
    }
    kept
}
