//! What a self-test found.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Version of what `selftest --json` prints.
pub const SCHEMA: u32 = 1;

/// What came of one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It was tried, and the programs held it.
    Closed,
    /// It is a way out.
    Open,
    /// It could not be tried, or what was seen proves nothing.
    NotTestable,
}

/// One way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The way's name.
    pub way: String,
    /// What it is, in words.
    pub means: String,
    /// What came of it.
    pub verdict: Verdict,
    /// The reason with which the kernel has to refuse it.
    pub reason: String,
    /// Why it is not closed.
    pub why: Option<String>,
}

/// A whole self-test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Is none open, and at least one closed?
    pub passed: bool,
    /// Were the running agent's own programs tested?
    pub by_agent: bool,
    /// The kernel's release.
    pub kernel: String,
    /// When it ended, as RFC 3339 writes it.
    pub at: String,
    /// How long it took.
    pub milliseconds: u64,
    /// Every way.
    pub ways: Vec<Finding>,
}

/// The last self-test of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastSelftest {
    /// When it ended, and what was wrong: ways that are open, or why it could not run.
    pub last: Option<(SystemTime, Result<String, String>)>,
    /// When one last passed.
    pub passed_at: Option<SystemTime>,
}

impl Report {
    /// How many came to this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.ways.iter().filter(|found| found.verdict == verdict).count()
    }

    /// In one sentence.
    #[must_use]
    pub fn summary(&self) -> String {
        let (closed, open) = (self.count(Verdict::Closed), self.count(Verdict::Open));
        let untested = self.count(Verdict::NotTestable);
        format!("{closed} ways out closed, {open} open, {untested} not testable here")
    }

    /// The names of those that are open.
    #[must_use]
    pub fn open(&self) -> Vec<&str> {
        let open = self.ways.iter().filter(|found| found.verdict == Verdict::Open);
        open.map(|found| found.way.as_str()).collect()
    }
}
