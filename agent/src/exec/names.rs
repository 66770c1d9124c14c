//! Names that were asked for and refused, gathered from the records as they come in.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use egress_warden_common::Reason;
use egress_warden_common::decide::DNS_PORT;
use egress_warden_common::reason::IPPROTO_TCP;
use egress_warden_common::state::NamedRecord;

use super::summary::LISTED;
use crate::policy::{Mode, NameRule, Policy};
use crate::records::asked_for;
use crate::ruleset::attempt::NamedAttempt;
use crate::ruleset::near_names::near_names;
use crate::text::visible;

/// Names that are told apart. A command can make up as many as it likes.
const MOST: usize = 4096;

/// Refused names with their reasons.
#[derive(Debug, Default)]
pub struct RefusedNames {
    by_name: BTreeMap<(String, Reason), u64>,
    /// Records of names beyond those.
    beyond: u64,
}

impl RefusedNames {
    /// Takes one record, if it is of a query.
    pub fn add(&mut self, record: &NamedRecord) {
        if record.record.port != DNS_PORT {
            return;
        }
        let (Some(name), Some(reason)) = (asked_for(record), Reason::from_number(record.record.reason))
        else {
            return;
        };
        let key = (name, reason);
        if self.by_name.len() >= MOST && !self.by_name.contains_key(&key) {
            self.beyond += 1;
        } else {
            *self.by_name.entry(key).or_default() += 1;
        }
    }

    /// Those that an entry with `domains` would allow.
    pub fn to_allow(&self) -> impl Iterator<Item = &str> {
        let names = self.by_name.keys().filter(|(_, reason)| *reason == Reason::DnsName);
        names.map(|(name, _)| name.as_str())
    }

    /// The names with their counts, the most frequent first, and what came nearest. `all` are the entries by name of every
    /// Destinations document.
    pub fn write(&self, out: &mut String, policy: &Policy, all: &[NameRule]) -> fmt::Result {
        if self.by_name.is_empty() {
            return Ok(());
        }
        let what = if policy.mode == Mode::Audit { "that would be refused" } else { "asked for in vain" };
        writeln!(out, "  names        {what}, by records")?;
        let mut rows: Vec<_> = self.by_name.iter().collect();
        rows.sort_by_key(|(key, count)| (Reverse(**count), *key));
        for ((name, reason), count) in rows.iter().take(LISTED) {
            writeln!(out, "    {count:>6}  {}  {}", visible(name), reason.name())?;
            // What it would have been asked for nobody knows yet.
            let attempt = NamedAttempt { name: name.clone(), protocol: IPPROTO_TCP, v4: None, v6: None };
            for miss in near_names(policy, all, &attempt, *reason).iter().take(1) {
                writeln!(out, "            nearest: {}", visible(miss))?;
            }
        }
        let more = rows.len().saturating_sub(LISTED);
        let rest = rows.iter().skip(LISTED).map(|(_, count)| **count).sum::<u64>() + self.beyond;
        match (more, self.beyond) {
            (0, 0) => Ok(()),
            (more, 0) => writeln!(out, "    {rest:>6}  for {more} more"),
            (more, _) => writeln!(out, "    {rest:>6}  for more than {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use egress_warden_common::limits::NAME_ROOM;
    use egress_warden_common::reason::IPPROTO_UDP;
    use egress_warden_common::state::{Process, Record};

    use super::*;
    use crate::ruleset::testing::{name_rule, policy};

    fn record(name: &str, reason: Reason) -> NamedRecord {
        let mut text = [0; NAME_ROOM];
        text[..name.len()].copy_from_slice(name.as_bytes());
        let record = Record {
            time: 0,
            source: [0; 16],
            destination: [1; 16],
            process: Process::default(),
            slot: 0,
            generation: 1,
            rule: 0,
            source_port: 0,
            port: 53,
            protocol: IPPROTO_UDP,
            reason: reason as u8,
            audit: 0,
            crossed: 0,
            name_length: u32::try_from(name.len()).unwrap(),
        };
        NamedRecord { record, name: text }
    }

    #[test]
    fn names_are_counted_listed_and_proposed() {
        let mut names = RefusedNames::default();
        for (name, reason, count) in [
            ("a.example", Reason::DnsName, 2),
            ("registry.example", Reason::DnsType, 3),
            ("b.models.example", Reason::DnsName, 1),
            ("", Reason::NotAllowlisted, 9),
        ] {
            (0..count).for_each(|_| names.add(&record(name, reason)));
        }
        let mut policy = policy(Vec::new());
        policy.names = vec![name_rule("models", 10, &["models.example"], &[443])];
        let mut out = String::new();
        names.write(&mut out, &policy, &policy.names).unwrap();
        assert_eq!(
            out,
            "  names        asked for in vain, by records\n\
             \x20        3  registry.example  dns_type\n\
             \x20        2  a.example  dns_name\n\
             \x20        1  b.models.example  dns_name\n\
             \x20           nearest: models.example of lists.yaml:10:5 (models) is for that name alone, not for what is below it\n"
        );
        assert_eq!(names.to_allow().collect::<Vec<_>>(), ["a.example", "b.models.example"]);
    }

    #[test]
    fn a_command_that_makes_up_names_fills_no_memory() {
        let mut names = RefusedNames::default();
        (0..MOST + 5).for_each(|number| names.add(&record(&format!("n{number}.example"), Reason::DnsName)));
        assert_eq!((names.by_name.len(), names.beyond), (MOST, 5));
        let mut out = String::new();
        names.write(&mut out, &policy(Vec::new()), &[]).unwrap();
        assert!(out.ends_with(&format!("for more than {} more\n", MOST - LISTED)), "{out}");
    }
}
