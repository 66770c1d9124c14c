//! Flows that are older than the enforcement of their workload.

use std::collections::{BTreeMap, HashSet};

use egress_warden_common::Address;
use egress_warden_common::limits::KEPT_PER_WORKLOAD;
use egress_warden_common::state::{KEPT_ENDS, KEPT_GOES_ON, Kept, KeptKey};

use super::{Node, NodeError};
use crate::kernel::diag::Connection;

/// Connections that a workload had before it was enforced.
#[derive(Clone, Copy, Debug)]
pub struct Older<'a> {
    /// Those.
    pub connections: &'a [Connection],
    /// What becomes of them.
    pub how: How,
}

/// What becomes of a connection that is older than the enforcement of its workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It goes on, whether its destination is allowed or not.
    GoesOn,
    /// It is about to be ended, and may tell its far end so.
    Ends,
}

impl Older<'_> {
    /// There are none, or all are judged.
    pub const NONE: Self = Self { connections: &[], how: How::GoesOn };
}

impl How {
    const fn number(self) -> u64 {
        match self {
            Self::GoesOn => KEPT_GOES_ON,
            Self::Ends => KEPT_ENDS,
        }
    }
}

impl Node {
    /// Tells the programs of older connections, before they are attached. Tells how many found no place.
    pub(super) fn keep(&mut self, cgroup_id: u64, older: &Older<'_>) -> Result<usize, NodeError> {
        let bound = self.workloads.get_mut(&cgroup_id).ok_or(NodeError::NotEnforced(cgroup_id))?;
        for connection in older.connections.iter().take(KEPT_PER_WORKLOAD) {
            let entry =
                (key(bound.slot, connection), Kept { cookie: connection.cookie, how: older.how.number() });
            if !self.maps.list_kept(entry.0, entry.1)? {
                break;
            }
            bound.kept.push(entry);
        }
        Ok(older.connections.len() - bound.kept.len())
    }

    /// What is still written down of a workload's older connections, by their sockets.
    #[must_use]
    pub fn older(&self, cgroup_id: u64, how: How) -> HashSet<u64> {
        let kept = self.workloads.get(&cgroup_id).map(|bound| bound.kept.as_slice()).unwrap_or_default();
        kept.iter().filter(|(_, kept)| kept.how == how.number()).map(|(_, kept)| kept.cookie).collect()
    }

    /// From now on a workload's older connections of this kind are judged like any other.
    pub fn forget_older(&mut self, cgroup_id: u64, how: How) -> Result<(), NodeError> {
        self.forget_kept(cgroup_id, |kept| kept.how == how.number())
    }

    pub(super) fn forget_kept(
        &mut self,
        cgroup_id: u64,
        which: impl Fn(&Kept) -> bool,
    ) -> Result<(), NodeError> {
        let bound = self.workloads.get_mut(&cgroup_id).ok_or(NodeError::NotEnforced(cgroup_id))?;
        let (gone, stay): (Vec<_>, Vec<_>) = bound.kept.drain(..).partition(|(_, kept)| which(kept));
        bound.kept = stay;
        Ok(gone.iter().try_for_each(|(key, _)| self.maps.unlist_kept(*key))?)
    }

    /// Takes over what is listed, and clears what belongs to no workload.
    pub(super) fn adopt_kept(&mut self, owners: &BTreeMap<u32, u64>) -> Result<(), NodeError> {
        for (key, kept) in self.maps.listed_kept()? {
            match owners.get(&key.slot).and_then(|cgroup| self.workloads.get_mut(cgroup)) {
                Some(bound) => bound.kept.push((key, kept)),
                None => self.maps.unlist_kept(key)?,
            }
        }
        Ok(())
    }
}

fn key(slot: u32, connection: &Connection) -> KeptKey {
    KeptKey {
        local: Address::from(connection.local).to_bytes(),
        remote: Address::from(connection.remote).to_bytes(),
        slot,
        local_port: connection.local_port,
        remote_port: connection.remote_port,
        protocol: connection.protocol,
        reserved: [0; 7],
    }
}
