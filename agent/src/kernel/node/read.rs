//! What is read out of the kernel, and the few fields that the agent writes beside the programs.

use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use egress_warden_common::state::{CgroupEvent, NamedRecord, RefusedKey, State, WallClock};

use super::{Node, NodeError};
use crate::kernel::clock::boot_ns;
use crate::kernel::memory::SharedState;
use crate::kernel::object::drain_records;
use crate::kernel::tables::pending_records;

/// [`State::quarantine_rule`] of a quarantine that a person ordered.
pub const BY_HAND: u64 = u64::MAX;

impl Node {
    /// What is counted of a workload.
    pub fn state(&self, cgroup_id: u64) -> Result<State, NodeError> {
        Ok(self.maps.state(self.slot(cgroup_id)?)?)
    }

    /// The number of the workload's ruleset, as records carry it.
    pub fn generation(&self, cgroup_id: u64) -> Result<u32, NodeError> {
        Ok(self.maps.bindings.get(self.slot(cgroup_id)?)?.generation)
    }

    /// The workload's ruleset, as the programs read it; empty where there is none that can be read.
    pub fn words_of(&self, cgroup_id: u64) -> Result<Vec<u64>, NodeError> {
        let base = self.maps.bindings.get(self.slot(cgroup_id)?)?.ruleset;
        match self.regions.at(base) {
            Some(region) => Ok(self.maps.words.read(base, region.length as usize)?),
            None => Ok(Vec::new()),
        }
    }

    /// Puts a workload into quarantine. False when it is in one already.
    pub fn quarantine(&mut self, cgroup_id: u64) -> Result<bool, NodeError> {
        let state = self.shared_state(cgroup_id)?;
        let at = state.field(offset_of!(State, quarantined_at));
        let entered = at.compare_exchange(0, boot_ns()?, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if entered {
            state.field(offset_of!(State, quarantine_rule)).store(BY_HAND, Ordering::SeqCst);
        }
        Ok(entered)
    }

    /// Lets a workload out of quarantine, with its violations so far forgiven.
    pub fn forgive(&mut self, cgroup_id: u64) -> Result<(), NodeError> {
        let state = self.shared_state(cgroup_id)?;
        let so_far = state.field(offset_of!(State, violations)).load(Ordering::SeqCst);
        state.field(offset_of!(State, forgiven)).store(so_far, Ordering::SeqCst);
        state.field(offset_of!(State, would_quarantine_at)).store(0, Ordering::SeqCst);
        state.field(offset_of!(State, quarantined_at)).store(0, Ordering::SeqCst);
        Ok(())
    }

    fn shared_state(&self, cgroup_id: u64) -> Result<SharedState, NodeError> {
        Ok(SharedState::new(self.maps.states_map(), self.slot(cgroup_id)?)?)
    }

    /// The refused destinations of all workloads, with the number of attempts.
    pub fn refused(&self) -> Result<Vec<(u64, RefusedKey, u64)>, NodeError> {
        let all = self.maps.refused()?.into_iter();
        Ok(all.filter_map(|(key, count)| Some((self.slots.owner(key.slot)?, key, count))).collect())
    }

    /// Entries and capacity of every map that can be full.
    pub fn usage(&self) -> Result<Vec<(&'static str, u64, u64)>, NodeError> {
        let locals: usize = self.workloads.values().map(|bound| bound.locals.len()).sum();
        let kept: usize = self.workloads.values().map(|bound| bound.kept.len()).sum();
        let (records, records_capacity) = pending_records(self.records.as_fd())?;
        let mut usage = vec![
            ("words", self.regions.in_force(), self.regions.capacity().into()),
            ("workloads", self.workloads.len() as u64, self.slots.capacity() as u64),
            ("locals", locals as u64, self.maps.locals_capacity()?),
            ("kept", kept as u64, self.maps.kept_capacity()?),
            ("refused", self.maps.count_refused()?, self.maps.refused_capacity()?),
            ("records", records, records_capacity),
        ];
        usage.extend(self.maps.names_usage()?);
        Ok(usage)
    }

    /// Becomes readable when there are records.
    pub fn records_fd(&self) -> BorrowedFd<'_> {
        self.records.as_fd()
    }

    /// The records written since the last call, with the workload's cgroup; `None` where that is not enforced any more.
    pub fn drain_records(&mut self, mut each: impl FnMut(Option<u64>, &NamedRecord)) {
        let (slots, maps) = (&self.slots, &self.maps);
        drain_records(&mut self.records, |mut record| {
            maps.name_destination(&mut record);
            each(slots.owner(record.record.slot), &record);
        });
    }

    /// Becomes readable when a cgroup was made or removed; `None` where the kernel does not tell.
    pub fn watch_fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(super::watch::Watch::fd)
    }

    /// The cgroups made and removed since the last call.
    pub fn drain_cgroup_events(&mut self, each: impl FnMut(&CgroupEvent)) {
        if let Some(watch) = &mut self.watch {
            watch.drain(each);
        }
    }

    /// How many of them were not told since this agent started. When it grows, the agent has to look for itself.
    pub fn cgroup_events_lost(&self) -> u64 {
        self.watch.as_ref().and_then(super::watch::Watch::lost).unwrap_or_default()
    }

    /// Becomes readable when there are diagnostics; `None` where they are off.
    pub fn log_fd(&self) -> Option<BorrowedFd<'_>> {
        self.logger.as_ref().map(AsFd::as_fd)
    }

    /// Hands the programs' diagnostics, if they are on, to the [`log`] crate.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// Tells the programs the wall clock.
    pub fn set_clock(&mut self, clock: WallClock) -> Result<(), NodeError> {
        Ok(self.maps.set_clock(clock)?)
    }
}
