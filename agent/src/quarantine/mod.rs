//! What follows a quarantine in user space: live connections end, the workload is frozen or killed, somebody is told who
//! did it and why, and when it is over.
//!
//! The quarantine itself is a state in the kernel, made there; nothing here is needed for it to hold.
#![forbid(unsafe_code)]

mod actions;
mod history;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::allowlist::Action;
use crate::enforce::snapshot::QuarantineStatus;
use crate::kernel::OwnNamespace;
use crate::ruleset::Compiled;
pub use actions::ActionError;
pub use history::{Entry, History, What};

const FILE: &str = "quarantines.json";

/// A quarantine as it begins.
#[derive(Debug)]
pub struct Begin<'a> {
    /// Id of the cgroup.
    pub cgroup: u64,
    /// Directory of the cgroup.
    pub directory: &'a Path,
    /// What metrics call the workload.
    pub label: &'a str,
    /// Its policy.
    pub policy: &'a str,
    /// What is done.
    pub action: Action,
    /// Who did it.
    pub who: &'a str,
    /// Why.
    pub why: &'a str,
    /// When it ends by itself.
    pub until: Option<SystemTime>,
    /// By which connections are judged; where it is not known, all that leave the host end.
    pub ruleset: Option<&'a Compiled>,
    /// Its network.
    pub namespace: Option<&'a OwnNamespace>,
}

/// The quarantines that last, and those that were.
#[derive(Debug)]
pub struct Quarantines {
    file: PathBuf,
    boot: String,
    current: BTreeMap<u64, Lasting>,
    history: History,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lasting {
    label: String,
    policy: String,
    action: String,
    who: String,
    why: String,
    /// Unix time in seconds.
    since: u64,
    /// The same.
    until: Option<u64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    boot: String,
    quarantines: BTreeMap<u64, Lasting>,
}

impl Quarantines {
    /// Reads what an earlier agent wrote into the state directory.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let file = state_dir.join(FILE);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let content: Content = match fs::read(&file) {
            // Only who and why are lost with a file that cannot be read: the kernel knows who is in quarantine.
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(error),
        };
        let current = if content.boot == boot { content.quarantines } else { BTreeMap::new() };
        Ok(Self { file, boot, current, history: History::new(state_dir) })
    }

    /// Takes over the quarantines that the kernel has. Of one that nothing was written of, it is known only that it is.
    pub fn adopt(&mut self, quarantined: &[u64]) {
        self.current.retain(|cgroup, _| quarantined.contains(cgroup));
    }

    /// Was this one followed up by an earlier agent?
    #[must_use]
    pub fn knows(&self, cgroup: u64) -> bool {
        self.current.contains_key(&cgroup)
    }

    /// Does what follows, notes it, and says what of it could not be done.
    pub fn begin(&mut self, begin: &Begin<'_>) -> Result<(), ActionError> {
        let lasting = Lasting {
            label: begin.label.to_owned(),
            policy: begin.policy.to_owned(),
            action: begin.action.name().to_owned(),
            who: begin.who.to_owned(),
            why: begin.why.to_owned(),
            since: unix(SystemTime::now()),
            until: begin.until.map(unix),
        };
        self.note(&lasting, What::Quarantined, begin.who, begin.why);
        self.current.insert(begin.cgroup, lasting.clone());
        self.save();
        let done = actions::begin(begin);
        if let Err(error) = &done {
            self.note(&lasting, What::Failed, "agent", &error.to_string());
        }
        done
    }

    /// The quarantine is over: what was frozen goes on.
    pub fn end(&mut self, cgroup: u64, directory: &Path, who: &str, why: &str) -> Result<(), ActionError> {
        let Some(lasting) = self.current.remove(&cgroup) else { return actions::thaw(directory) };
        self.save();
        self.note(&lasting, What::Released, who, why);
        actions::thaw(directory)
    }

    /// The workload is gone.
    pub fn forget(&mut self, cgroup: u64) {
        if self.current.remove(&cgroup).is_some() {
            self.save();
        }
    }

    /// Those whose time has come.
    #[must_use]
    pub fn due(&self, now: SystemTime) -> Vec<u64> {
        let now = unix(now);
        let due = self.current.iter().filter(|(_, one)| one.until.is_some_and(|until| until <= now));
        due.map(|(cgroup, _)| *cgroup).collect()
    }

    /// What is known of a workload's quarantine.
    #[must_use]
    pub fn status(&self, cgroup: u64) -> Option<QuarantineStatus> {
        let one = self.current.get(&cgroup)?;
        Some(QuarantineStatus {
            since: UNIX_EPOCH + Duration::from_secs(one.since),
            action: Action::from_name(&one.action).unwrap_or_default(),
            who: one.who.clone(),
            why: one.why.clone(),
            until: one.until.map(|until| UNIX_EPOCH + Duration::from_secs(until)),
        })
    }

    /// What was done, the newest last.
    pub fn history(&self) -> io::Result<Vec<Entry>> {
        self.history.read()
    }

    fn note(&mut self, lasting: &Lasting, what: What, who: &str, why: &str) {
        let entry = Entry {
            time: crate::text::rfc3339(SystemTime::now()),
            workload: lasting.label.clone(),
            policy: lasting.policy.clone(),
            what,
            action: lasting.action.clone(),
            who: who.to_owned(),
            why: why.to_owned(),
        };
        if let Err(error) = self.history.add(&entry) {
            tracing::warn!(%error, workload = entry.workload, "the history of quarantines is not complete");
        }
    }

    fn save(&self) {
        let content = Content { boot: self.boot.clone(), quarantines: self.current.clone() };
        if let Err(error) = crate::state_file::replace(&self.file, &content) {
            tracing::warn!(%error, file = %self.file.display(), "who and why of quarantines would be lost at a restart");
        }
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
