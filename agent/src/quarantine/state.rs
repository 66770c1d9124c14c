//! Which quarantines last, kept over a restart of the agent: who, why, and until when. That a workload is in quarantine
//! the kernel knows by itself.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Begin, bounded};
use crate::allowlist::Action;
use crate::enforce::snapshot::QuarantineStatus;
use crate::state_file;

/// The file's name in the state directory.
const NAME: &str = "quarantines.json";

/// A quarantine that lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lasting {
    /// Path of the workload's cgroup under the mount of cgroup2.
    #[serde(with = "state_file::any_path")]
    pub path: PathBuf,
    /// What people call the workload.
    pub workload: String,
    /// Its policy.
    pub policy: String,
    /// What is done with it.
    pub action: Action,
    /// Was it done? Else it is tried again after a restart.
    pub done: bool,
    /// Must it be undone at release? Set before the cgroup is frozen.
    pub frozen: bool,
    /// Who did it: `kernel`, or the user who asked.
    pub who: String,
    /// Why.
    pub why: String,
    /// Boot time in nanoseconds, as the kernel has it.
    pub quarantined_at: u64,
    /// Boot time in nanoseconds when it ends by itself.
    pub until: Option<u64>,
    /// Violations when it began.
    pub violations: u64,
    /// Seconds since 1970 at which it began, and nanoseconds.
    since: (u64, u32),
}

impl Lasting {
    pub(super) fn new(begin: &Begin<'_>, since: SystemTime) -> Self {
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            path: begin.path.to_owned(),
            workload: begin.workload.to_owned(),
            policy: begin.policy.to_owned(),
            action: begin.action,
            done: false,
            frozen: begin.action == Action::Freeze,
            who: bounded(begin.who),
            why: bounded(begin.why),
            quarantined_at: begin.quarantined_at,
            until: begin.release.map(|release| begin.quarantined_at.saturating_add(release)),
            violations: begin.violations,
            since: (since.as_secs(), since.subsec_nanos()),
        }
    }

    /// As others want to know it.
    #[must_use]
    pub fn status(&self) -> QuarantineStatus {
        let since = SystemTime::UNIX_EPOCH.checked_add(Duration::new(self.since.0, self.since.1));
        let since = since.unwrap_or(SystemTime::UNIX_EPOCH);
        let lasts = self.until.map(|until| Duration::from_nanos(until.saturating_sub(self.quarantined_at)));
        QuarantineStatus {
            since,
            action: self.action,
            who: self.who.clone(),
            why: self.why.clone(),
            until: lasts.and_then(|lasts| since.checked_add(lasts)),
        }
    }
}

/// The file's content. Ids of cgroups, and boot times, are of one boot.
#[derive(Debug, Serialize, Deserialize)]
struct Content<T> {
    boot: String,
    quarantines: T,
}

/// The file.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    boot: String,
}

impl Store {
    pub(super) fn new(directory: &Path, boot: String) -> Self {
        Self { path: directory.join(NAME), boot }
    }

    /// The quarantines of this boot, by id of the cgroup.
    pub(super) fn load(&self) -> io::Result<BTreeMap<u64, Lasting>> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            read => read?,
        };
        let content: Content<BTreeMap<u64, Lasting>> = serde_json::from_slice(&bytes)?;
        Ok(if content.boot == self.boot { content.quarantines } else { BTreeMap::new() })
    }

    pub(super) fn save(&self, quarantines: &BTreeMap<u64, Lasting>) -> io::Result<()> {
        let content = Content { boot: self.boot.clone(), quarantines };
        state_file::replace(&self.path, &serde_json::to_vec(&content)?)
    }
}

/// The id of this boot.
///
/// # Errors
/// Without `/proc`.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
