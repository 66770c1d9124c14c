//! The addresses that names opened: told, and removed once they have ended.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use tracing::warn;

use super::reconciler::Reconciler;
use super::snapshot::GrantStatus;
use crate::kernel::OpenAddress;
use crate::kernel::clock::boot_ns;

/// Room is given back this often.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

impl Reconciler {
    /// Removes what has ended, if it is time to.
    pub(super) fn sweep_grants(&mut self) {
        if self.swept.is_some_and(|at| at.elapsed() < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(Instant::now());
        let done = boot_ns().map_err(Into::into).and_then(|now| self.node.sweep_grants(now));
        if let Err(error) = done {
            warn!(%error, "addresses that names opened and that have ended stay listed; nothing is open by that");
        }
    }

    /// What is open now, by cgroup. What cannot be read is not told: the figures of maps are missing as well then.
    pub(super) fn grants(&self) -> BTreeMap<u64, Vec<GrantStatus>> {
        let (Ok(now), Ok(open)) = (boot_ns(), self.node.grants()) else { return BTreeMap::new() };
        let wall = SystemTime::now();
        let told = |open: OpenAddress| {
            let ago = Duration::from_nanos(now.saturating_sub(open.since));
            let left = Duration::from_nanos(open.until.saturating_sub(now));
            GrantStatus {
                address: open.address,
                name: open.name,
                since: wall.checked_sub(ago).unwrap_or(wall),
                until: wall.checked_add(left).unwrap_or(wall),
            }
        };
        let sorted = |open: Vec<OpenAddress>| {
            let mut grants: Vec<GrantStatus> = open.into_iter().map(told).collect();
            grants.sort_by(|a, b| (&a.name, a.address).cmp(&(&b.name, b.address)));
            grants
        };
        open.into_iter().map(|(cgroup, open)| (cgroup, sorted(open))).collect()
    }
}
