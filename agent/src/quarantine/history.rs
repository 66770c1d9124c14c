//! What was done about workloads, for whoever asks weeks later: lines of JSON in the state directory.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FILE: &str = "quarantine-history.jsonl";
/// How many entries are kept when the file is cut back.
const KEPT: usize = 10_000;
/// Bytes at which it is cut back; an entry has about 250.
const LONGEST: u64 = 8 << 20;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It went into quarantine.
    Quarantined,
    /// It came out.
    Released,
    /// Something that should follow could not be done.
    Failed,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// RFC 3339, UTC.
    pub time: String,
    /// What metrics call the workload.
    pub workload: String,
    /// Its policy.
    pub policy: String,
    /// What happened.
    pub what: What,
    /// `isolate`, `freeze` or `kill`.
    pub action: String,
    /// `kernel`, `agent`, or who asked.
    pub who: String,
    /// Why.
    pub why: String,
}

/// The file.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
}

impl History {
    /// In this state directory.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE) }
    }

    pub(super) fn add(&self, entry: &Entry) -> io::Result<()> {
        let mut file = File::options().create(true).append(true).read(true).open(&self.path)?;
        let length = file.metadata()?.len();
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        // A line that a crash cut short ends here, so that it spoils none but itself.
        if length > 0 && !ends_with_newline(&self.path)? {
            line.insert(0, b'\n');
        }
        file.write_all(&line)?;
        if length > LONGEST { self.cut_back() } else { Ok(()) }
    }

    /// Everything, the newest last. Lines that a crash cut short are left out.
    pub fn read(&self) -> io::Result<Vec<Entry>> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    fn cut_back(&self) -> io::Result<()> {
        let entries = self.read()?;
        let new = self.path.with_extension("jsonl.new");
        let mut file = File::create(&new)?;
        for entry in entries.iter().skip(entries.len().saturating_sub(KEPT)) {
            serde_json::to_writer(&mut file, entry)?;
            file.write_all(b"\n")?;
        }
        fs::rename(new, &self.path)
    }
}

fn ends_with_newline(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path)?;
    let mut last = [0];
    file.read_exact_at(&mut last, file.metadata()?.len() - 1)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: usize) -> Entry {
        Entry {
            time: "2026-01-01T00:00:00Z".into(),
            workload: format!("/jobs/{number}"),
            policy: "training".into(),
            what: What::Quarantined,
            action: "isolate".into(),
            who: "kernel".into(),
            why: "w".repeat(2000),
        }
    }

    #[test]
    fn a_line_cut_short_spoils_none_but_itself() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::new(directory.path());
        assert_eq!(history.read().unwrap(), []);
        history.add(&entry(1)).unwrap();
        let mut file = File::options().append(true).open(directory.path().join(FILE)).unwrap();
        file.write_all(b"{\"time\":\"2026").unwrap();
        history.add(&entry(2)).unwrap();
        assert_eq!(history.read().unwrap(), [entry(1), entry(2)]);
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::new(directory.path());
        let mut all = Vec::new();
        for number in 0..KEPT {
            all.extend(serde_json::to_vec(&entry(number)).unwrap());
            all.push(b'\n');
        }
        fs::write(directory.path().join(FILE), &all).unwrap();
        history.add(&entry(KEPT)).unwrap();
        let kept = history.read().unwrap();
        assert_eq!((kept.len(), &kept[0], &kept[KEPT - 1]), (KEPT, &entry(1), &entry(KEPT)));
    }
}
