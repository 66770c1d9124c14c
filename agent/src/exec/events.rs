//! The file of `exec --events`: one violation a line.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use egress_warden_common::state::NamedRecord;
use nix::fcntl::OFlag;
use nix::libc;

use crate::records::{Event, Origin, rule_text};
use crate::ruleset::Compiled;

/// Writes a record as a line of JSON.
pub fn write_line(
    out: &mut impl Write,
    record: &NamedRecord,
    origin: &Origin<'_>,
    compiled: &Compiled,
) -> io::Result<()> {
    let event = Event::new(record, origin, |rule| compiled.rule(rule).map(rule_text));
    // In one piece: where there is no room for it, no half of a line is written.
    out.write_all(&event.line()?).map_err(explain)
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
