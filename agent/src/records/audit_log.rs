//! The agent's audit log: every violation as a line of JSON in a file that somebody else rotates.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::Event;

/// The file, and what became of the events that were meant for it.
///
/// It never stops enforcement: what cannot be written is counted, and told when that begins and when it ends.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    open: Option<Open>,
    lost: u64,
    /// `lost` when writing last worked.
    lost_before: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    identity: (u64, u64),
    /// Does it end within a line? The next one begins with a line end then.
    torn: bool,
}

impl AuditLog {
    /// Opens or makes the file, for root only.
    ///
    /// # Errors
    /// When it cannot be written. To be told before anything is enforced: it is a mistake in the configuration.
    pub fn open(path: &Path) -> io::Result<Self> {
        let open = Some(Open::at(path)?);
        Ok(Self { path: path.to_owned(), open, lost: 0, lost_before: 0 })
    }

    /// Appends an event, or counts it as lost.
    pub fn write(&mut self, event: &Event) {
        match self.append(event) {
            Ok(()) if self.lost > self.lost_before => {
                let missing = self.lost - self.lost_before;
                tracing::warn!(file = %self.path.display(), missing, "the audit log is written again");
                self.lost_before = self.lost;
            }
            Ok(()) => {}
            Err(error) => {
                if self.lost == self.lost_before {
                    tracing::error!(file = %self.path.display(), %error, "the audit log cannot be written");
                }
                self.lost += 1;
            }
        }
    }

    /// Events that were not written.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    fn append(&mut self, event: &Event) -> io::Result<()> {
        let line = event.line()?;
        let there = fs::metadata(&self.path).ok().map(|found| identity(&found));
        let open = match self.open.take() {
            Some(open) if there == Some(open.identity) => open,
            // Moved away by whoever rotates it, or never opened since.
            _ => Open::at(&self.path)?,
        };
        self.open.insert(open).append(line)
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        // Where the file is a FIFO or a device, it is refused and not waited for.
        options.read(true).append(true).create(true).mode(0o600).custom_flags(OFlag::O_NONBLOCK.bits());
        let file = options.open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut last = [b'\n'];
        if found.len() > 0 {
            file.read_exact_at(&mut last, found.len() - 1)?;
        }
        Ok(Self { file, identity: identity(&found), torn: last != [b'\n'] })
    }

    fn append(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        if self.torn {
            line.insert(0, b'\n');
        }
        match self.file.write(&line) {
            Ok(written) if written == line.len() => {
                self.torn = false;
                Ok(())
            }
            Ok(written) => {
                self.torn |= written > 0;
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            Err(error) => Err(error),
        }
    }
}

fn identity(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u32) -> Event {
        Event {
            time: "2026-01-02T03:04:05Z".into(),
            workload: "/a".into(),
            pid: Some(number),
            tgid: None,
            comm: None,
            src: None,
            dst: None,
            port: None,
            protocol: "tcp".into(),
            name: None,
            reason: "denied".into(),
            rule: None,
            mode: "enforce".into(),
        }
    }

    fn pids(path: &Path) -> Vec<u32> {
        let text = fs::read_to_string(path).expect("the log");
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok());
        lines.filter_map(|event| event.pid).collect()
    }

    #[test]
    fn lines_are_appended_for_root_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.jsonl");
        AuditLog::open(&path).expect("open").write(&event(1));
        AuditLog::open(&path).expect("open").write(&event(2));
        assert_eq!(pids(&path), [1, 2]);
        assert_eq!(fs::metadata(&path).expect("the log").mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_file_that_was_moved_away_or_removed_is_made_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, old) = (directory.path().join("audit.jsonl"), directory.path().join("audit.jsonl.1"));
        let mut log = AuditLog::open(&path).expect("open");
        log.write(&event(1));
        fs::rename(&path, &old).expect("rotate");
        log.write(&event(2));
        assert_eq!((pids(&old), pids(&path)), (vec![1], vec![2]));
        fs::remove_file(&path).expect("remove");
        log.write(&event(3));
        assert_eq!((pids(&path), log.lost()), (vec![3], 0));
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_log_goes_on_when_it_can() {
        let directory = tempfile::tempdir().expect("a directory");
        let below = directory.path().join("log");
        let path = below.join("audit.jsonl");
        assert!(AuditLog::open(&path).is_err());
        fs::create_dir(&below).expect("a directory");
        let mut log = AuditLog::open(&path).expect("open");
        fs::remove_dir_all(&below).expect("remove");
        log.write(&event(1));
        log.write(&event(2));
        assert_eq!(log.lost(), 2);
        fs::create_dir(&below).expect("a directory");
        log.write(&event(3));
        assert_eq!((pids(&path), log.lost()), (vec![3], 2));
    }

    #[test]
    fn half_a_line_spoils_only_itself() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.jsonl");
        fs::write(&path, "{\"time\":").expect("write");
        AuditLog::open(&path).expect("open").write(&event(1));
        assert_eq!(pids(&path), [1]);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        assert!(AuditLog::open(Path::new("/dev/null")).is_err());
        assert!(AuditLog::open(Path::new("/")).is_err());
    }
}
