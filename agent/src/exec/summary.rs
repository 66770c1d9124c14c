//! What `exec` tells at the end: what was allowed, what was refused, who did it, and what would allow it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use egress_warden_common::decide::DNS_PORT;
use egress_warden_common::reason::Protocol;
use egress_warden_common::socket::{SOCK_DGRAM, SOCK_RAW, SOCK_STREAM};
use egress_warden_common::state::{NamedRecord, Process, RefusedKey, State};
use egress_warden_common::{Address, Reason};

use super::names::RefusedNames;
use crate::policy::{Mode, NameRule, Policy, Rule};
use crate::records::{asked_for, known, name_of};
use crate::ruleset::Compiled;
use crate::ruleset::attempt::Attempt;
use crate::ruleset::nearest::nearest;
use crate::ruleset::suggest::{is_for_a_name, suggest_entries, suggest_names};
use crate::text::visible;

/// Destinations that are listed; the rest are counted.
pub(super) const LISTED: usize = 12;

/// Who tried to reach what, gathered from the records as they come in.
#[derive(Debug, Default)]
pub struct Culprits {
    by_destination: BTreeMap<Target, Found>,
    crossed: Option<(Process, Target)>,
    names: RefusedNames,
}

/// What records say of a destination.
#[derive(Debug, Default)]
struct Found {
    /// Who tried, and how often.
    by: BTreeMap<String, u32>,
    /// Names that led there.
    names: BTreeSet<String>,
}

/// Targets that are told apart: as many as the kernel's table holds for a command.
const TARGETS: usize = 1024;
/// Names, and processes, that are told apart for each.
const OF_EACH: usize = 16;

/// A refused destination with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    destination: [u8; 16],
    protocol: u8,
    port: u16,
    reason: u8,
}

impl Target {
    const fn of(key: &RefusedKey) -> Self {
        Self { destination: key.destination, protocol: key.protocol, port: key.port, reason: key.reason }
    }
}

impl Culprits {
    /// Takes one record.
    pub fn add(&mut self, record: &NamedRecord) {
        self.names.add(record);
        let name = asked_for(record);
        let record = &record.record;
        let target = Target {
            destination: record.destination,
            protocol: record.protocol,
            port: record.port,
            reason: record.reason,
        };
        if self.by_destination.len() < TARGETS || self.by_destination.contains_key(&target) {
            let found = self.by_destination.entry(target).or_default();
            let who = label(&record.process);
            if found.by.len() < OF_EACH || found.by.contains_key(&who) {
                *found.by.entry(who).or_default() += 1;
            }
            if record.port != DNS_PORT && found.names.len() < OF_EACH {
                found.names.extend(name);
            }
        }
        if record.crossed != 0 {
            self.crossed.get_or_insert((record.process, target));
        }
    }

    fn of(&self, target: &Target) -> Option<String> {
        let names = &self.by_destination.get(target)?.by;
        let (name, _) = names.iter().max_by_key(|(_, count)| **count)?;
        Some(match names.len() {
            1 => name.clone(),
            more => format!("{name} and {} more", more - 1),
        })
    }

    /// The names that led there.
    fn names(&self, target: &Target) -> impl Iterator<Item = &str> {
        self.by_destination.get(target).into_iter().flat_map(|found| &found.names).map(String::as_str)
    }
}

fn label(process: &Process) -> String {
    let name = name_of(process).unwrap_or_else(|| "a process that is not known".to_owned());
    if process.tgid == 0 { name } else { format!("{} (pid {})", visible(&name), process.tgid) }
}

/// Everything that a summary is made of.
#[derive(Debug)]
pub struct Summary<'a> {
    /// The policy that was in force.
    pub policy: &'a Policy,
    /// Its ruleset.
    pub compiled: &'a Compiled,
    /// The entries of all Destinations, for what came nearest.
    pub destinations: &'a [Rule],
    /// Those by name.
    pub named: &'a [NameRule],
    /// The kernel's counters.
    pub state: &'a State,
    /// The kernel's table of refused destinations.
    pub refused: Vec<(RefusedKey, u64)>,
    /// Who did it.
    pub culprits: &'a Culprits,
    /// What the capabilities that were kept leave unjudged.
    pub unjudged: Option<&'a str>,
    /// Boot time in nanoseconds when the command started.
    pub started_at: u64,
    /// How long it ran.
    pub duration: Duration,
}

impl Summary<'_> {
    /// The text, for standard error.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn audit(&self) -> bool {
        self.policy.mode == Mode::Audit
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let mode = if self.audit() { "audit: nothing was refused" } else { "enforce" };
        let seconds = self.duration.as_secs_f64();
        writeln!(out, "egress-warden: policy {} ({mode}), {seconds:.2} s", visible(&self.policy.name))?;
        self.write_allowed(out)?;
        self.write_refused(out)?;
        self.culprits.names.write(out, self.policy, self.named)?;
        self.write_quarantine(out)?;
        self.write_losses(out)?;
        self.write_suggestion(out)
    }

    fn write_allowed(&self, out: &mut String) -> fmt::Result {
        let total: u64 = self.state.allowed.iter().sum();
        if total == 0 {
            return writeln!(out, "  allowed      nothing");
        }
        let parts: Vec<String> = Protocol::ALL
            .iter()
            .zip(self.state.allowed)
            .filter(|(_, count)| *count > 0)
            .map(|(protocol, count)| format!("{count} {}", protocol.name()))
            .collect();
        writeln!(out, "  allowed      {} ({})", plural(total, "flow"), parts.join(", "))
    }

    fn write_refused(&self, out: &mut String) -> fmt::Result {
        let word = if self.audit() { "would refuse" } else { "refused" };
        let total: u64 = self.state.counts.iter().flatten().sum();
        if total == 0 {
            return writeln!(out, "  {word:<12} nothing");
        }
        writeln!(out, "  {word:<12} {}{}", plural(total, "attempt"), self.by_reason())?;
        let mut rows: Vec<&(RefusedKey, u64)> = self.refused.iter().collect();
        rows.sort_by_key(|(key, count)| (std::cmp::Reverse(*count), key.destination, key.port, key.reason));
        for (key, count) in rows.iter().take(LISTED) {
            self.write_row(out, key, *count)?;
        }
        if rows.len() > LISTED {
            let rest: u64 = rows[LISTED..].iter().map(|(_, count)| count).sum();
            let more = plural((rows.len() - LISTED) as u64, "more destination");
            writeln!(out, "    {rest:>6}  to {more}")?;
        }
        Ok(())
    }

    fn by_reason(&self) -> String {
        let sums: Vec<(Reason, u64)> = Reason::ALL
            .iter()
            .map(|reason| (*reason, self.state.counts[*reason as usize].iter().sum()))
            .filter(|(_, count)| *count > 0)
            .collect();
        match sums.as_slice() {
            [(only, _)] => format!(", {}", only.name()),
            several => {
                let parts: Vec<String> =
                    several.iter().map(|(reason, count)| format!("{count} {}", reason.name())).collect();
                format!(": {}", parts.join(", "))
            }
        }
    }

    fn write_row(&self, out: &mut String, key: &RefusedKey, count: u64) -> fmt::Result {
        let reason = Reason::from_number(key.reason).unwrap_or(Reason::Malformed);
        let target = Target::of(key);
        let where_to = match attempt(key) {
            Some(attempt) => match self.culprits.names(&target).collect::<Vec<_>>()[..] {
                [] => attempt.to_string(),
                [name] => format!("{attempt}  {}", visible(name)),
                [name, ref more @ ..] => format!("{attempt}  {} and {} more", visible(name), more.len()),
            },
            None if reason == Reason::SocketType => socket_kind(key),
            None => "an unreadable packet".to_owned(),
        };
        let who = self.culprits.of(&target).map_or_else(String::new, |who| format!("  by {who}"));
        writeln!(out, "    {count:>6}  {where_to}  {}{who}", reason.name())?;
        if let Some(rule) = self.compiled.rule(key.rule).filter(|_| names_its_rule(reason)) {
            writeln!(out, "            rule: {}", visible(&rule.to_string()))?;
        }
        let Some(attempt) = attempt(key) else { return Ok(()) };
        for miss in nearest(self.policy, self.destinations, &attempt, reason).iter().take(1) {
            writeln!(out, "            nearest: {}", visible(&miss.to_string()))?;
        }
        Ok(())
    }

    fn write_quarantine(&self, out: &mut String) -> fmt::Result {
        let (at, word) = if self.audit() {
            (self.state.would_quarantine_at, "would have been quarantined")
        } else {
            (self.state.quarantined_at, "quarantined")
        };
        if at == 0 {
            return Ok(());
        }
        let after = Duration::from_nanos(at.saturating_sub(self.started_at)).as_secs_f64();
        write!(out, "  {word} after {after:.3} s")?;
        if let Some(rule) = self.policy.quarantine.get(self.state.quarantine_rule as usize) {
            let within = Duration::from_nanos(rule.within_ns).as_secs_f64();
            write!(out, ": {} violations within {within} s ({})", rule.violations, rule.origin)?;
        }
        if let Some((process, target)) = &self.culprits.crossed {
            write!(out, ", by {}", label(process))?;
            if let Some(address) = known(target.destination) {
                let attempt = Attempt { address, protocol: target.protocol, port: target.port };
                write!(out, " to {attempt}")?;
            }
        }
        writeln!(out)
    }

    fn write_losses(&self, out: &mut String) -> fmt::Result {
        let losses = [
            (
                self.state.records_lost,
                "records were not written (limited to 100 a second); counts are complete",
            ),
            (
                self.state.destinations_lost,
                "attempts went to destinations beyond the table; totals are complete",
            ),
            (self.state.replies_refused, "answers to callers from outside were refused"),
            (self.state.forged_dropped, "packets claimed to come from outside and did not come by an uplink"),
            (
                self.state.udp_flows_evicted,
                "inbound UDP flows were pushed out by newer ones of the same socket",
            ),
            (self.state.storage_failed, "sockets got no storage and were judged packet by packet"),
        ];
        for (count, what) in losses.iter().filter(|(count, _)| *count > 0) {
            writeln!(out, "  note         {count} {what}")?;
        }
        self.unjudged.map_or(Ok(()), |note| writeln!(out, "  note         {note}"))
    }

    fn write_suggestion(&self, out: &mut String) -> fmt::Result {
        let (mut attempts, mut reached) = (Vec::new(), Vec::new());
        for (key, _) in self.refused.iter().filter(|(key, _)| could_be_allowed(key.reason)) {
            let Some(attempt) = attempt(key) else { continue };
            let target = Target::of(key);
            let before = reached.len();
            let names = self.culprits.names(&target).filter(|name| is_for_a_name(name, &attempt));
            reached.extend(names.map(|name| (name, attempt)));
            if reached.len() == before {
                attempts.push(attempt);
            }
        }
        let suggestion = suggest_entries(&attempts);
        let (by_name, more) = suggest_names(self.culprits.names.to_allow(), reached);
        let yaml = suggestion.yaml + &by_name;
        if !yaml.is_empty() {
            let whole = suggestion.left_out.is_empty() && more == 0;
            let what = if whole { "all of that" } else { "most of that" };
            writeln!(out, "  to allow {what}, add to `spec.to` of a Destinations that the policy allows:")?;
            for line in yaml.lines() {
                writeln!(out, "    {line}")?;
            }
        }
        if more > 0 {
            writeln!(
                out,
                "  {more} more by name: run it with --events FILE, and `egress-warden suggest from-events FILE`"
            )?;
        }
        if !suggestion.left_out.is_empty() {
            let shown: Vec<String> =
                suggestion.left_out.iter().take(LISTED).map(ToString::to_string).collect();
            let more = suggestion.left_out.len() - shown.len();
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            writeln!(out, "  no entry can allow: {}{more}", shown.join(", "))?;
        }
        Ok(())
    }
}

fn attempt(key: &RefusedKey) -> Option<Attempt> {
    let address: IpAddr = known(key.destination)?;
    debug_assert_eq!(Address::from(address).to_bytes(), key.destination, "one spelling for each address");
    Some(Attempt { address, protocol: key.protocol, port: key.port })
}

/// A socket that was refused, as the system call names it.
fn socket_kind(key: &RefusedKey) -> String {
    match u32::from(key.port) {
        SOCK_STREAM => format!("a stream socket of protocol {}", key.protocol),
        SOCK_DGRAM => format!("a datagram socket of protocol {}", key.protocol),
        SOCK_RAW => format!("a raw socket of protocol {}", key.protocol),
        kind => format!("a socket of type {kind} and protocol {}", key.protocol),
    }
}

/// Reasons whose rule is the one that refused, and not one that came near.
const fn names_its_rule(reason: Reason) -> bool {
    matches!(reason, Reason::Denied | Reason::Expired)
}

fn could_be_allowed(reason: u8) -> bool {
    matches!(
        Reason::from_number(reason),
        Some(Reason::NotAllowlisted | Reason::PortNotAllowed | Reason::ProtocolNotAllowed)
    )
}

fn plural(count: u64, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}
