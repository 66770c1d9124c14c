//! Records of violations as JSON, one line each.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use egress_warden_common::reason::Protocol;
use egress_warden_common::state::{Process, Record};
use egress_warden_common::{Address, Reason};
use nix::fcntl::OFlag;
use nix::libc;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ruleset::Compiled;

/// What every line of a run has in common.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The workload: its cgroup, as a path under the mount of cgroup2.
    pub workload: String,
    /// Unix time minus boot time, in nanoseconds.
    pub clock_offset: i64,
}

/// One violation, with the keys of the contract; null where unknown.
#[derive(Debug, Serialize)]
struct Event<'a> {
    time: String,
    workload: &'a str,
    pid: Option<u32>,
    tgid: Option<u32>,
    comm: Option<String>,
    src: Option<IpAddr>,
    dst: Option<IpAddr>,
    port: Option<u16>,
    protocol: &'static str,
    name: Option<&'a str>,
    reason: &'static str,
    rule: Option<String>,
    mode: &'static str,
}

/// Writes a record as a line of JSON.
pub fn write_line(
    out: &mut impl Write,
    record: &Record,
    origin: &Origin,
    compiled: &Compiled,
) -> io::Result<()> {
    let reason = Reason::from_number(record.reason).unwrap_or(Reason::Malformed);
    let destination = known(record.destination);
    let event = Event {
        time: wall_time(record.time, origin.clock_offset),
        workload: &origin.workload,
        pid: number(record.process.pid),
        tgid: number(record.process.tgid),
        comm: name_of(&record.process),
        src: known(record.source),
        dst: destination,
        port: destination.map(|_| record.port),
        protocol: Protocol::from_ip(record.protocol).name(),
        name: None,
        reason: reason.name(),
        rule: compiled.rule(record.rule).map(|rule| match &rule.origin {
            Some(origin) => origin.to_string(),
            None => rule.why.clone(),
        }),
        mode: if record.audit == 0 { "enforce" } else { "audit" },
    };
    // In one piece: where there is no room for it, no half of a line is written.
    let mut line = serde_json::to_vec(&event)?;
    line.push(b'\n');
    out.write_all(&line).map_err(explain)
}

/// The file of `--events`. Made before the command starts, so that a place that cannot be written stops the run. It may
/// be a FIFO: no reader makes enforcement wait. Refused if it is one of the `allowlists` that were read.
pub fn create(path: &Path, allowlists: &[PathBuf]) -> io::Result<BufWriter<File>> {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    if let Some(found) = identity(path)
        && let Some(list) = allowlists.iter().find(|list| identity(list) == Some(found))
    {
        let message =
            format!("this is the allowlist {}, which would be lost; name another file", list.display());
        return Err(io::Error::other(message));
    }
    let mut options = File::options();
    options.write(true).create(true).truncate(true).custom_flags(OFlag::O_NONBLOCK.bits());
    options.open(path).map(BufWriter::new).map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => io::Error::other("nobody reads from this FIFO; start its reader first"),
        _ => error,
    })
}

/// Writes what is still to be written, as far as it is taken at once.
pub fn close(mut events: BufWriter<File>) -> io::Result<()> {
    events.flush().map_err(explain)
}

fn explain(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::other("its reader does not keep up, and records are missing"),
        _ => error,
    }
}

/// The process's name, `None` where the kernel could not tell.
#[must_use]
pub fn name_of(process: &Process) -> Option<String> {
    let name: Vec<u8> = process.comm.iter().copied().take_while(|byte| *byte != 0).collect();
    if name.is_empty() { None } else { Some(String::from_utf8_lossy(&name).into_owned()) }
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
