//! What happened: one line of JSON for each quarantine, release and failure, kept over restarts.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::allowlist::Action;
use crate::state_file;

/// The file's name in the state directory.
const NAME: &str = "quarantine-history.jsonl";
/// So many lines are kept.
pub const KEEP: usize = 10_000;
/// So many more are let stand before the file is written anew: rewriting at every line would cost megabytes each time.
const SLACK: usize = KEEP / 10;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// RFC 3339, UTC.
    pub time: String,
    /// The pod's UID or the path of the cgroup.
    pub workload: String,
    /// Path of its cgroup under the mount of cgroup2.
    pub path: PathBuf,
    /// Its policy.
    pub policy: String,
    /// What happened.
    pub what: What,
    /// What was done with the workload.
    pub action: Action,
    /// Who did it: `kernel`, `agent`, or the user who asked.
    pub who: String,
    /// Why; of a failure also what failed.
    pub why: String,
    /// The workload's violations so far.
    pub violations: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It was quarantined.
    Quarantined,
    /// It was let out.
    Released,
    /// Something about it did not work.
    Failed,
}

/// The file. Opened for each line, so whoever moves it away gets a new one.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    keep: usize,
    slack: usize,
    /// Lines in the file, as far as known.
    lines: usize,
}

impl History {
    /// The history in this directory. The file may be missing.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn open(directory: &Path) -> io::Result<Self> {
        Self::with_limits(directory, KEEP, SLACK)
    }

    /// The same without having looked: for a file that cannot be read now.
    pub(super) fn unread(directory: &Path) -> Self {
        Self { path: directory.join(NAME), keep: KEEP, slack: SLACK, lines: 0 }
    }

    fn with_limits(directory: &Path, keep: usize, slack: usize) -> io::Result<Self> {
        let mut history = Self { path: directory.join(NAME), keep, slack, lines: 0 };
        history.lines = history.each_line(|_| ())?;
        Ok(history)
    }

    /// Adds a line. When this returns it is on the disk.
    ///
    /// # Errors
    /// When it is not.
    pub fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .mode(state_file::MODE)
            .open(&self.path)?;
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        // What a crash or a full disk cut off must not swallow this line too.
        if is_torn(&mut file)? {
            line.insert(0, b'\n');
        }
        file.write_all(&line)?;
        file.sync_data()?;
        self.lines += 1;
        if self.lines > self.keep + self.slack { self.shorten() } else { Ok(()) }
    }

    /// The newest entries, the oldest of them first. Lines that cannot be read are passed over.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn newest(&self, limit: usize) -> io::Result<Vec<Entry>> {
        let limit = limit.min(self.keep);
        let mut entries = VecDeque::new();
        self.each_line(|line| {
            if let Ok(entry) = serde_json::from_slice(line) {
                push_bounded(&mut entries, entry, limit);
            }
        })?;
        Ok(entries.into())
    }

    fn shorten(&mut self) -> io::Result<()> {
        let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
        self.each_line(|line| {
            if serde_json::from_slice::<Entry>(line).is_ok() {
                push_bounded(&mut kept, line.to_vec(), self.keep);
            }
        })?;
        let mut bytes = Vec::new();
        for line in &kept {
            bytes.extend(line);
            bytes.push(b'\n');
        }
        state_file::replace(&self.path, &bytes)?;
        self.lines = kept.len();
        Ok(())
    }

    /// Calls `each` with every line, without its end; tells how many there were.
    fn each_line(&self, mut each: impl FnMut(&[u8])) -> io::Result<usize> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            opened => opened?,
        };
        let (mut lines, mut reader, mut line) = (0, BufReader::new(file), Vec::new());
        while reader.read_until(b'\n', &mut line)? > 0 {
            each(line.strip_suffix(b"\n").unwrap_or(&line));
            lines += 1;
            line.clear();
        }
        Ok(lines)
    }
}

/// The newest `limit` stay.
fn push_bounded<T>(all: &mut VecDeque<T>, one: T, limit: usize) {
    all.push_back(one);
    if all.len() > limit {
        all.pop_front();
    }
}

fn is_torn(file: &mut File) -> io::Result<bool> {
    if File::metadata(file)?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn entry(violations: u64) -> Entry {
        Entry {
            time: "2026-01-02T03:04:05Z".into(),
            workload: "/job".into(),
            path: "/job".into(),
            policy: "training".into(),
            what: What::Quarantined,
            action: Action::Isolate,
            who: "kernel".into(),
            why: "20 violations\nwithin 60s".into(),
            violations,
        }
    }

    fn numbers(history: &History, limit: usize) -> Vec<u64> {
        history.newest(limit).unwrap().into_iter().map(|entry| entry.violations).collect()
    }

    #[test]
    fn a_restart_loses_nothing_and_the_keys_are_those_of_the_contract() {
        let directory = tempfile::tempdir().unwrap();
        let mut history = History::open(directory.path()).unwrap();
        assert_eq!(history.newest(5).unwrap(), []);
        history.append(&entry(1)).unwrap();
        drop(history);
        let mut history = History::open(directory.path()).unwrap();
        history.append(&entry(2)).unwrap();
        assert_eq!(numbers(&history, 9), [1, 2]);
        assert_eq!(numbers(&history, 1), [2]);
        assert_eq!(numbers(&history, 0), [0; 0]);
        let text = fs::read_to_string(directory.path().join(NAME)).unwrap();
        assert_eq!(
            text.lines().next().unwrap(),
            r#"{"time":"2026-01-02T03:04:05Z","workload":"/job","path":"/job","policy":"training","what":"quarantined","action":"isolate","who":"kernel","why":"20 violations\nwithin 60s","violations":1}"#
        );
    }

    #[test]
    fn a_line_torn_anywhere_costs_that_line_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        History::open(directory.path()).unwrap().append(&entry(1)).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, [&whole, &whole[..length]].concat()).unwrap();
            let mut history = History::open(directory.path()).unwrap();
            history.append(&entry(7)).unwrap();
            let found = numbers(&history, 9);
            // Cut just before the end of the line it is whole after all.
            let expected = if length == whole.len() - 1 { vec![1, 1, 7] } else { vec![1, 7] };
            assert_eq!(found, expected, "cut after {length}");
        }
        fs::write(&path, [&whole[..], b"\xff\x00garbage\n", &whole[..]].concat()).unwrap();
        assert_eq!(numbers(&History::open(directory.path()).unwrap(), 9), [1, 1]);
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let mut history = History::with_limits(directory.path(), 10, 5).unwrap();
        for number in 0..100 {
            history.append(&entry(number)).unwrap();
            let lines = fs::read_to_string(directory.path().join(NAME)).unwrap().lines().count();
            assert!(lines <= 15, "{lines}");
        }
        assert_eq!(numbers(&history, 10), (90..100).collect::<Vec<_>>());
        // A restart in the middle counts what is there.
        let mut history = History::with_limits(directory.path(), 10, 5).unwrap();
        for number in 100..110 {
            history.append(&entry(number)).unwrap();
        }
        assert_eq!(numbers(&history, 10), (100..110).collect::<Vec<_>>());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_directory_that_is_not_there_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("gone");
        let mut history = History::open(&gone).unwrap();
        assert!(history.append(&entry(1)).is_err());
        fs::create_dir(&gone).unwrap();
        history.append(&entry(2)).unwrap();
        assert_eq!(numbers(&history, 9), [2]);
    }
}
