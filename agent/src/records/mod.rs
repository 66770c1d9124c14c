//! A violation as people and programs read it: the same keys in the file of `exec --events`, in the agent's audit log and
//! in `watch --json`.
#![forbid(unsafe_code)]

pub mod audit_log;

use std::net::IpAddr;

use egress_warden_common::reason::Protocol;
use egress_warden_common::state::{NamedRecord, Process};
use egress_warden_common::{Address, Reason};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ruleset::RuleInfo;

pub use audit_log::AuditLog;

/// What a record does not tell of itself.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// What the workload is called.
    pub workload: &'a str,
    /// Unix time minus boot time, in nanoseconds.
    pub clock_offset: i64,
}

/// One violation, with the keys of the contract; null where unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// RFC 3339, UTC.
    pub time: String,
    /// The pod's UID or the path of the cgroup.
    pub workload: String,
    /// Thread, in the initial PID namespace.
    pub pid: Option<u32>,
    /// Process, in the initial PID namespace.
    pub tgid: Option<u32>,
    /// The process's name.
    pub comm: Option<String>,
    /// Source.
    pub src: Option<IpAddr>,
    /// Destination.
    pub dst: Option<IpAddr>,
    /// Destination port, or ICMP type.
    pub port: Option<u16>,
    /// Protocol by name.
    pub protocol: String,
    /// The name that was asked for, or by which the destination was found.
    pub name: Option<String>,
    /// Why it was refused.
    pub reason: String,
    /// The rule that refused or came nearest.
    pub rule: Option<String>,
    /// `enforce` or `audit`.
    pub mode: String,
}

impl Event {
    /// From what the kernel wrote. `rule` tells what the number of a rule means under the record's generation.
    #[must_use]
    pub fn new(named: &NamedRecord, origin: &Origin<'_>, rule: impl FnOnce(u32) -> Option<String>) -> Self {
        let record = &named.record;
        let reason = Reason::from_number(record.reason).unwrap_or(Reason::Malformed);
        let destination = known(record.destination);
        Self {
            time: wall_time(record.time, origin.clock_offset),
            workload: origin.workload.to_owned(),
            pid: number(record.process.pid),
            tgid: number(record.process.tgid),
            comm: name_of(&record.process),
            src: known(record.source),
            dst: destination,
            port: destination.map(|_| record.port),
            protocol: Protocol::from_ip(record.protocol).name().to_owned(),
            name: asked_for(named),
            reason: reason.name().to_owned(),
            rule: rule(record.rule),
            mode: if record.audit == 0 { "enforce" } else { "audit" }.to_owned(),
        }
    }

    /// As a line of JSON, with its end.
    pub fn line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// What a record says of a rule: where it was written, or what a built-in refusal protects.
#[must_use]
pub fn rule_text(rule: &RuleInfo) -> String {
    match &rule.origin {
        Some(origin) => origin.to_string(),
        None => rule.why.clone(),
    }
}

/// The process's name, `None` where the kernel could not tell.
#[must_use]
pub fn name_of(process: &Process) -> Option<String> {
    let name: Vec<u8> = process.comm.iter().copied().take_while(|byte| *byte != 0).collect();
    if name.is_empty() { None } else { Some(String::from_utf8_lossy(&name).into_owned()) }
}

/// The name that a query asked for, or by which the destination was found; `None` where there is none.
#[must_use]
pub fn asked_for(record: &NamedRecord) -> Option<String> {
    let text = record.name.get(..record.record.name_length as usize)?;
    if text.is_empty() { None } else { Some(String::from_utf8_lossy(text).into_owned()) }
}

/// An address of a record, `None` where it was not known.
#[must_use]
pub fn known(bytes: [u8; 16]) -> Option<IpAddr> {
    if bytes == [0; 16] { None } else { Some(Address::from_bytes(bytes).into()) }
}

const fn number(number: u32) -> Option<u32> {
    if number == 0 { None } else { Some(number) }
}

fn wall_time(boot: u64, offset: i64) -> String {
    let nanoseconds = i128::from(boot) + i128::from(offset);
    // A time that no calendar holds says so itself; a record is never dropped for its time.
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| nanoseconds.to_string())
}
