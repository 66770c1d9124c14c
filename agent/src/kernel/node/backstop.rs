//! The backstop: which interfaces of the agent's own network namespace lead to which workloads.
//!
//! An interface is listed before it gets its programs and loses them before it is taken off the list: a program that finds
//! its interface in no list drops everything.

use std::collections::BTreeSet;

use egress_warden_common::Address;
use egress_warden_common::limits::{INTERFACE_ADDRESSES, INTERFACE_WORKLOADS};
use egress_warden_common::state::{Interface, Note};

use nix::net::if_::if_nameindex;

use super::{Node, NodeError, tc};
use crate::kernel::attach::INTERFACE_HOOKS;
use crate::kernel::{NetworkInterface, OtherEnd, OwnNamespace};

/// What stands on the other end of an interface by which a workload reaches the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backstop {
    /// The interface, as the workload calls it.
    pub interface: NetworkInterface,
    /// Why there is no backstop on its other end; `None` where there is.
    pub missing: Option<String>,
}

impl Node {
    /// Puts the backstop on every interface that leads to the workload's network namespace, and takes it off those that do
    /// no more. What cannot get one is told with the reason; the programs on the cgroup enforce all the same.
    pub(super) fn set_backstop(
        &mut self,
        cgroup_id: u64,
        namespace: &OwnNamespace,
    ) -> Result<Vec<Backstop>, NodeError> {
        let slot = self.slot(cgroup_id)?;
        let mut found = Vec::new();
        let mut ends = BTreeSet::new();
        for interface in &namespace.interfaces {
            let missing = match &interface.end {
                OtherEnd::Inside => continue,
                OtherEnd::Host(index) => {
                    ends.insert(*index);
                    self.guard(*index, slot, namespace).err().map(|error| error.to_string())
                }
                OtherEnd::Elsewhere => {
                    Some("its other end is not in the agent's network namespace".to_owned())
                }
                OtherEnd::Other(kind) => Some(format!("it is no veth but a {kind}")),
            };
            found.push(Backstop { interface: interface.clone(), missing });
        }
        for index in self.interfaces_of(slot) {
            if ends.contains(&index) {
                continue;
            }
            match self.moved(cgroup_id, index) {
                Some(moved) => found.push(moved),
                None => self.unguard(index, slot)?,
            }
        }
        Ok(found)
    }

    /// The backstop of an interface that the workload's namespace does not show any more, although its end here is still
    /// there: it was moved on. Root inside can do that, into a namespace of its own, so what it was guarded by stays. (Where
    /// it was moved to another workload, that one will be listed as well.)
    fn moved(&self, cgroup_id: u64, index: u32) -> Option<Backstop> {
        let exists = if_nameindex().is_ok_and(|all| all.iter().any(|one| one.index() == index));
        let before = self.workloads.get(&cgroup_id)?.backstops.as_deref().unwrap_or_default();
        let known = before.iter().find(|one| one.interface.end == OtherEnd::Host(index));
        let interface = known.map_or_else(
            || NetworkInterface { index: 0, name: "moved".to_owned(), end: OtherEnd::Host(index) },
            |one| one.interface.clone(),
        );
        exists.then_some(Backstop { interface, missing: None })
    }

    /// Takes the backstop off whatever only this slot's workload was behind.
    pub(super) fn clear_backstop(&mut self, slot: u32) -> Result<(), NodeError> {
        self.interfaces_of(slot).into_iter().try_for_each(|index| self.unguard(index, slot))
    }

    fn interfaces_of(&self, slot: u32) -> Vec<u32> {
        let has = |interface: &Interface| interface.slots.contains(&(slot + 1));
        self.interfaces.iter().filter(|(_, found)| has(found)).map(|(index, _)| *index).collect()
    }

    fn guard(&mut self, index: u32, slot: u32, namespace: &OwnNamespace) -> Result<(), NodeError> {
        let before = self.interfaces.get(&index).copied();
        let entry = entry(before.as_ref(), slot, namespace).ok_or(NodeError::Shared(INTERFACE_WORKLOADS))?;
        if before.as_ref().is_none_or(|before| differs(before, &entry)) {
            self.maps.list_interface(index, entry)?;
            self.interfaces.insert(index, entry);
        }
        let done = self.attach_backstop(index);
        if done.is_err() && before.is_none() {
            // The first error tells what is wrong.
            let _ = self.unguard(index, slot);
        }
        done
    }

    pub(super) fn attach_backstop(&self, index: u32) -> Result<(), NodeError> {
        let pins = self.directory.interface(index);
        tc::make(&pins)?;
        for (hook, program, id) in self.programs.of_interface() {
            tc::attach(&pins, index, hook, program, id)?;
        }
        Ok(())
    }

    fn unguard(&mut self, index: u32, slot: u32) -> Result<(), NodeError> {
        let Some(mut entry) = self.interfaces.get(&index).copied() else { return Ok(()) };
        let mut others: Vec<u32> =
            entry.slots.into_iter().filter(|other| *other != 0 && *other != slot + 1).collect();
        if others.is_empty() {
            return self.remove_backstop(index);
        }
        others.resize(INTERFACE_WORKLOADS, 0);
        entry.slots.copy_from_slice(&others);
        self.maps.list_interface(index, entry)?;
        self.interfaces.insert(index, entry);
        Ok(())
    }

    /// Takes the programs off an interface, and it off the list.
    pub(super) fn remove_backstop(&mut self, index: u32) -> Result<(), NodeError> {
        let pins = self.directory.interface(index);
        for hook in &INTERFACE_HOOKS {
            tc::detach(&pins, index, hook)?;
        }
        self.directory.remove_interface(index)?;
        self.maps.unlist_interface(index)?;
        self.interfaces.remove(&index);
        Ok(())
    }

    /// Takes over the interfaces that are listed or pinned, and clears what leads to no workload.
    pub(super) fn adopt_backstops(&mut self, taken: impl Fn(u32) -> bool) -> Result<(), NodeError> {
        let listed = self.maps.listed_interfaces()?;
        let pinned = self.directory.guarded()?;
        for index in pinned.into_iter().filter(|index| !listed.contains_key(index)) {
            self.remove_backstop(index)?;
        }
        for (index, mut entry) in listed {
            let mut slots: Vec<u32> =
                entry.slots.into_iter().filter(|slot| *slot != 0 && taken(*slot - 1)).collect();
            if slots.is_empty() {
                self.remove_backstop(index)?;
                continue;
            }
            slots.resize(INTERFACE_WORKLOADS, 0);
            if entry.slots[..] != slots[..] {
                entry.slots.copy_from_slice(&slots);
                self.maps.list_interface(index, entry)?;
            }
            self.interfaces.insert(index, entry);
            // Of an interface that is gone nothing is left to put it on; its workload's network will be told anew.
            if self.attach_backstop(index).is_err() {
                self.remove_backstop(index)?;
            }
        }
        Ok(())
    }
}

/// What is listed for an interface. `None` where too many workloads share it.
fn entry(before: Option<&Interface>, slot: u32, namespace: &OwnNamespace) -> Option<Interface> {
    let mut slots = before.map_or([0; INTERFACE_WORKLOADS], |before| before.slots);
    if !slots.contains(&(slot + 1)) {
        *slots.iter_mut().find(|place| **place == 0)? = slot + 1;
    }
    let mut addresses = [[0; 16]; INTERFACE_ADDRESSES];
    let own = namespace.addresses.iter().filter(|address| !address.is_loopback());
    let mut count = 0;
    for address in own {
        if let Some(place) = addresses.get_mut(count) {
            *place = Address::from(*address).to_bytes();
        }
        count += 1;
    }
    let notes = [Note::default(); _];
    Some(Interface { slots, namespace: namespace.number, count: count as u32, addresses, notes })
}

fn differs(one: &Interface, other: &Interface) -> bool {
    (one.slots, one.namespace, one.count, one.addresses)
        != (other.slots, other.namespace, other.count, other.addresses)
}
