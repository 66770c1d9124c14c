//! What the records say for an entry.

use std::collections::BTreeSet;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::records::Event;
use crate::text::visible;

/// Processes that are named; the rest are counted.
const NAMED: usize = 5;

/// How often, why, by whom and when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    records: u64,
    reasons: BTreeSet<String>,
    processes: BTreeSet<String>,
    unknown_process: bool,
    span: Span,
}

/// From when to when.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span(Option<(OffsetDateTime, OffsetDateTime)>);

impl Evidence {
    pub(crate) fn add(&mut self, event: &Event) {
        self.records += 1;
        self.reasons.insert(event.reason.clone());
        match &event.comm {
            Some(comm) => drop(self.processes.insert(process(comm))),
            None => self.unknown_process = true,
        }
        self.span.add(&event.time);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.records += other.records;
        self.reasons.extend(other.reasons.iter().cloned());
        self.processes.extend(other.processes.iter().cloned());
        self.unknown_process |= other.unknown_process;
        self.span.merge(&other.span);
    }

    pub(crate) const fn records(&self) -> u64 {
        self.records
    }

    /// `3 records to 443/tcp: not_allowlisted, by curl, at 2026-…`. `to` may be empty.
    pub(crate) fn line(&self, to: &str) -> String {
        let reasons: Vec<&str> = self.reasons.iter().map(String::as_str).collect();
        format!(
            "{}{to}: {}, by {}{}",
            counted(self.records, "record"),
            reasons.join(", "),
            self.by(),
            self.span.text()
        )
    }

    /// Who did it, for people.
    pub(crate) fn by(&self) -> String {
        let mut names: Vec<String> = self.processes.iter().take(NAMED).cloned().collect();
        match self.processes.len().saturating_sub(NAMED) {
            0 => {}
            more => names.push(format!("{more} more")),
        }
        if self.unknown_process {
            names.push("a process that is not known".to_owned());
        }
        match names.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        }
    }
}

/// A process chooses its own name: one that could pass for a part of the sentence is quoted.
fn process(comm: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:/+@-".contains(&byte);
    if !comm.is_empty() && comm.bytes().all(plain) { comm.to_owned() } else { format!("{:?}", visible(comm)) }
}

impl Span {
    /// Takes a time of a record. One that no calendar holds is left out.
    pub(crate) fn add(&mut self, time: &str) {
        if let Ok(time) = OffsetDateTime::parse(time, &Rfc3339) {
            self.merge(&Self(Some((time, time))));
        }
    }

    fn merge(&mut self, other: &Self) {
        self.0 = match (self.0, other.0) {
            (Some((first, last)), Some((from, to))) => Some((first.min(from), last.max(to))),
            (one, None) | (None, one) => one,
        };
    }

    /// Ready to stand behind something else.
    pub(crate) fn text(&self) -> String {
        match self.0.map(|(first, last)| (second(first), second(last))) {
            None => String::new(),
            Some((first, last)) if first == last => format!(", at {first}"),
            Some((first, last)) => format!(", {first} to {last}"),
        }
    }
}

fn second(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC).replace_nanosecond(0).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}

/// `1 record`, `2 records`.
pub(crate) fn counted(number: u64, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}
