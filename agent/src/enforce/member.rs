//! A workload as the reconciler holds it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use egress_warden_common::state::Record;

use super::rules::Effective;
use super::totals::{Counts, NO_COUNTS, Under};
use crate::kernel::OwnNamespace;
use crate::policy::Mode;
use crate::reach::Reach;
use crate::ruleset::RuleInfo;
use crate::workload::Workload;

/// A workload that a policy selects, or that an earlier agent left enforced.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) workload: Workload,
    /// What applies to it by the policies in force; `None` while what is pinned stays because there are no valid ones.
    pub(super) effective: Option<Arc<Effective>>,
    /// Under which policy its violations count.
    pub(super) under: Under,
    /// Its counters when it came under that policy.
    pub(super) baseline: Counts,
    /// Hash of the ruleset that the kernel has for it.
    pub(super) ruleset: u64,
    /// Since when it is enforced.
    pub(super) enforced_since: Option<SystemTime>,
    /// Why it is not, and since when it is known.
    pub(super) failure: Option<(String, Instant)>,
    /// Since when it lacks what its policy requires.
    pub(super) lacking: Option<Instant>,
    /// Its network, as far as it was found.
    pub(super) namespace: Option<OwnNamespace>,
    /// What it has in reach beside the network, as it was seen last.
    pub(super) reach: Option<Reach>,
    /// Its quarantine was seen and followed up.
    pub(super) quarantine_seen: bool,
}

impl Member {
    pub(super) fn new(workload: Workload, effective: Arc<Effective>) -> Self {
        let under = under(&effective);
        Self {
            workload,
            effective: Some(effective),
            under,
            baseline: NO_COUNTS,
            ruleset: 0,
            enforced_since: None,
            failure: None,
            lacking: None,
            namespace: None,
            reach: None,
            quarantine_seen: false,
        }
    }

    /// One that is selected and cannot be enforced.
    pub(super) fn failed(workload: Workload, under: Under, reason: String, since: Instant) -> Self {
        Self {
            workload,
            effective: None,
            under,
            baseline: NO_COUNTS,
            ruleset: 0,
            enforced_since: None,
            failure: Some((reason, since)),
            lacking: None,
            namespace: None,
            reach: None,
            quarantine_seen: false,
        }
    }

    /// The rule that a record names, in words; `None` where the record was written under another ruleset.
    pub(super) fn rule(&self, record: &Record, generation: u32) -> Option<String> {
        let effective = self.effective.as_ref().filter(|_| record.generation == generation)?;
        effective.compiled.rule(record.rule).map(RuleInfo::place)
    }

    pub(super) fn is_enforced(&self) -> bool {
        self.enforced_since.is_some()
    }
}

pub(super) fn under(effective: &Effective) -> Under {
    Under { policy: effective.name.clone(), audit: effective.mode == Mode::Audit }
}

/// Opens the workload's cgroup. A path may have been given to another cgroup since: only the id tells.
pub(super) fn open(mount: &Path, workload: &Workload) -> io::Result<File> {
    let below = workload.path.strip_prefix("/").unwrap_or(&workload.path);
    let directory = File::open(mount.join(below))?;
    if directory.metadata()?.ino() != workload.cgroup {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    Ok(directory)
}
