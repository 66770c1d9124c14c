//! What has to survive the agent and is not in the kernel: the sums of workloads that are gone, and under which policy the
//! others count. A file in the state directory, replaced whole.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::member::Member;
use super::totals::{Counts, NO_COUNTS, Totals, Under};
use crate::kernel::Adopted;
use crate::state_file::{any_path, replace};
use crate::workload::Workload;

const FILE: &str = "agent.json";

/// The file, and what was in it at the start.
#[derive(Debug)]
pub struct Saved {
    path: PathBuf,
    boot: String,
    content: Content,
    changed: bool,
    /// The last attempt to write failed; told once.
    failing: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    /// Ids of cgroups mean something only until the machine boots again.
    boot: String,
    totals: Totals,
    members: BTreeMap<u64, SavedMember>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedMember {
    #[serde(with = "any_path")]
    path: PathBuf,
    under: Under,
    /// Unix time in seconds.
    since: u64,
    baseline: Option<Counts>,
}

impl Saved {
    /// Reads the file. One that cannot be read is put aside: what it held is lost, and said to be.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(state_dir)?;
        let path = state_dir.join(FILE);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let content = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                let aside = path.with_extension("json.unreadable");
                warn!(file = %path.display(), %error, aside = %aside.display(), "cannot be read; counters of workloads that are gone begin at zero");
                let _ = fs::rename(&path, &aside);
                Content::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(error),
        };
        let content =
            if content.boot == boot { content } else { Content { boot: boot.clone(), ..Content::default() } };
        Ok(Self { path, boot, content, changed: false, failing: false })
    }

    pub(super) fn totals(&self) -> Totals {
        self.content.totals.clone()
    }

    /// A workload that an earlier agent left enforced.
    pub(super) fn member(&self, adopted: &Adopted) -> Member {
        let saved = self.content.members.get(&adopted.cgroup);
        let path = saved
            .map_or_else(|| PathBuf::from(format!("/cgroup-{}", adopted.cgroup)), |one| one.path.clone());
        let since = saved.map_or_else(SystemTime::now, |one| UNIX_EPOCH + Duration::from_secs(one.since));
        let unknown = Under { policy: String::new(), audit: false };
        Member {
            workload: Workload { cgroup: adopted.cgroup, path, pod: None },
            effective: None,
            under: saved.map_or(unknown, |one| one.under.clone()),
            baseline: saved.and_then(|one| one.baseline).unwrap_or(NO_COUNTS),
            ruleset: adopted.hash,
            enforced_since: Some(since),
            failure: None,
            lacking: None,
            namespace: None,
            reach: None,
            quarantine_seen: false,
        }
    }

    /// Something changed.
    pub(super) fn mark(&mut self) {
        self.changed = true;
    }

    /// Writes what changed since the last time.
    pub(super) fn flush(&mut self, members: &BTreeMap<u64, Member>, totals: &Totals) {
        if !self.changed {
            return;
        }
        let enforced = members.values().filter_map(|member| {
            let since = member.enforced_since?.duration_since(UNIX_EPOCH).ok()?.as_secs();
            let baseline = Some(member.baseline).filter(|baseline| *baseline != NO_COUNTS);
            let path = member.workload.path.clone();
            Some((member.workload.cgroup, SavedMember { path, under: member.under.clone(), since, baseline }))
        });
        let content =
            Content { boot: self.boot.clone(), totals: totals.clone(), members: enforced.collect() };
        match serde_json::to_vec(&content)
            .map_err(io::Error::from)
            .and_then(|bytes| replace(&self.path, &bytes))
        {
            Ok(()) => {
                self.changed = false;
                self.failing = false;
            }
            Err(error) if !self.failing => {
                self.failing = true;
                warn!(file = %self.path.display(), %error, "cannot be written; enforcement goes on, sums may be lost at a restart");
            }
            Err(_) => {}
        }
    }
}
