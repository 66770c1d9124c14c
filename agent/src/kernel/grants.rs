//! What the programs remember of names: queries on their way, addresses that answers opened, and for which names.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use aya::maps::{IterableMap, MapError};
use egress_warden_common::decide::DNS_PORT;
use egress_warden_common::grant::{Grant, GrantKey, Granted, GrantedName, NameKey, Pending, Pendings};
use egress_warden_common::limits::{GRANTS_PER_WORKLOAD, MAX_GRANTED_NAMES, MAX_GRANTS};
use egress_warden_common::names::{NO_CLASS, may_open};
use egress_warden_common::state::NamedRecord;
use egress_warden_common::{Address, Reason};

use super::maps::{Maps, Wire};
use super::tables::{capacity, full_or, gone};
use super::{Enforcer, KernelError};

/// How long an address that is no longer open is left alone: an answer may open it again at any moment.
const LEFT_ALONE_NS: u64 = 60_000_000_000;
/// How long it stays while there is room; a name as well, for under another ruleset its rights are looked up by it.
const REMEMBERED_NS: u64 = 3_600_000_000_000;

/// An address that is open for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenAddress {
    /// The address.
    pub address: IpAddr,
    /// The name, where it is still known.
    pub name: Option<String>,
    /// Boot time in nanoseconds when it was opened first.
    pub since: u64,
    /// Boot time in nanoseconds up to which it is open.
    pub until: u64,
    /// The generation of the ruleset under which it was opened.
    pub generation: u32,
}

impl Maps {
    /// Room for the queries of a slot's workload.
    pub(super) fn add_pendings(&mut self, slot: u32, serial: u32) -> Result<(), KernelError> {
        let sets = [[Pending::default(); _]; _];
        let done =
            self.pendings.insert(slot, Wire(Pendings { serial, reserved: 0, refused: [0; _], sets }), 0);
        done.map_err(|error| full_or(error, self.pendings.map(), "PENDINGS"))
    }

    pub(super) fn remove_pendings(&mut self, slot: u32) -> Result<(), KernelError> {
        gone(self.pendings.remove(&slot)).map_err(KernelError::map("PENDINGS"))
    }

    /// Every address that was opened and not removed since.
    fn grant_keys(&self) -> Result<Vec<GrantKey>, KernelError> {
        let keys: Result<Vec<_>, _> = self.grants.keys().collect();
        Ok(keys.map_err(KernelError::map("GRANTS"))?.into_iter().map(|key: Wire<GrantKey>| key.0).collect())
    }

    fn grant(&self, key: GrantKey) -> Result<Option<Grant>, KernelError> {
        match self.grants.get(&Wire(key), 0) {
            Ok(grant) => Ok(Some(grant.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(KernelError::map("GRANTS")(error)),
        }
    }

    /// Entries and capacity of the tables of addresses, names and queries on their way.
    pub(super) fn names_usage(&self) -> Result<[(&'static str, u64, u64); 3], KernelError> {
        let count = |keys: usize| keys as u64;
        Ok([
            ("grants", count(self.grants.keys().count()), capacity(self.grants.map(), "GRANTS")?),
            (
                "granted_names",
                count(self.granted_names.keys().count()),
                capacity(self.granted_names.map(), "GRANTED_NAMES")?,
            ),
            ("pendings", count(self.pendings.keys().count()), capacity(self.pendings.map(), "PENDINGS")?),
        ])
    }

    fn granted_names(&self) -> Result<HashMap<NameKey, GrantedName>, KernelError> {
        let mut found = HashMap::new();
        for key in self.granted_names.keys() {
            let key: Wire<NameKey> = key.map_err(KernelError::map("GRANTED_NAMES"))?;
            match self.granted_names.get(&key, 0) {
                Ok(name) => drop(found.insert(key.0, name.0)),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(KernelError::map("GRANTED_NAMES")(error)),
            }
        }
        Ok(found)
    }

    /// Writes into a record by which name its destination was found, where one led there before: of several, the one that was
    /// answered last. Whichever of the workload's processes asked.
    pub(super) fn name_destination(&self, named: &mut NamedRecord) {
        let record = &mut named.record;
        let is_by_address = Reason::from_number(record.reason)
            .is_some_and(|reason| may_open(reason) || reason == Reason::Denied);
        if !is_by_address || record.port == DNS_PORT || record.destination == [0; 16] {
            return;
        }
        // What cannot be read is not told: the record is as good without.
        let Ok(serial) = self.bindings.get(record.slot).map(|binding| binding.serial) else { return };
        let Ok(Some(grant)) = self.grant(GrantKey { address: record.destination, slot: record.slot, serial })
        else {
            return;
        };
        // Applications keep an answer for longer than it says; what was answered later led nobody there.
        let led = |granted: &&Granted| {
            granted.since <= record.time && record.time <= granted.until.saturating_add(LEFT_ALONE_NS)
        };
        let known = grant.names.iter().filter(led).filter_map(|granted| {
            let key = NameKey { hash: granted.name, slot: record.slot, serial };
            self.granted_names.get(&Wire(key), 0).ok()
        });
        if let Some(name) = known.max_by_key(|name| name.0.heard) {
            (record.name_length, named.name) = (name.0.length, name.0.text);
        }
    }

    /// Did an answer come meanwhile for a name that lasted until then?
    fn is_renewed(&self, key: NameKey, until: u64) -> Result<bool, KernelError> {
        match self.granted_names.get(&Wire(key), 0) {
            Ok(name) => Ok(name.0.until != until),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(KernelError::map("GRANTED_NAMES")(error)),
        }
    }

    /// The addresses that answers opened and that have not ended at a boot time in nanoseconds, by slot and serial; at 0, also
    /// those that have ended and are remembered. What opens nothing is left out.
    pub(super) fn open_addresses(
        &self,
        now: u64,
    ) -> Result<BTreeMap<(u32, u32), Vec<OpenAddress>>, KernelError> {
        let keys = self.grant_keys()?;
        // Names are remembered for longer than anything is open for them.
        let names = if keys.is_empty() { HashMap::new() } else { self.granted_names()? };
        let mut found: BTreeMap<_, Vec<OpenAddress>> = BTreeMap::new();
        for key in keys {
            let grant = self.grant(key)?.unwrap_or_default();
            let opened = grant.names.iter().filter(|granted| granted.class != NO_CLASS);
            for granted in opened.filter(|granted| granted.until > now) {
                let name = names.get(&NameKey { hash: granted.name, slot: key.slot, serial: key.serial });
                let name = name.and_then(|name| name.text.get(..name.length as usize));
                found.entry((key.slot, key.serial)).or_default().push(OpenAddress {
                    address: Address::from_bytes(key.address).into(),
                    name: name.map(|text| String::from_utf8_lossy(text).into_owned()),
                    since: granted.since,
                    until: granted.until,
                    generation: granted.generation,
                });
            }
        }
        Ok(found)
    }

    /// Removes what ended some time ago, and what belongs to none of these slots with their serials; gives the others back
    /// the room for it. While there is room, what has ended stays: a connection that outlives its grant is judged by it after
    /// a reload.
    pub(super) fn sweep_grants(&mut self, now: u64, slots: &BTreeMap<u32, u32>) -> Result<(), KernelError> {
        // Read before the table: what is opened meanwhile must not count as ended, for what ended is never more than was
        // written.
        let written: Result<Vec<(u32, u64)>, KernelError> =
            slots.keys().map(|slot| Ok((*slot, self.state(*slot)?.grants))).collect();
        let written = written?;
        let belongs = |slot: u32, serial: u32| slots.get(&slot) == Some(&serial);
        let (names, keys) = (self.granted_names()?, self.grant_keys()?);
        let mut taken: HashMap<u32, u64> = HashMap::new();
        for slot in keys.iter().map(|key| key.slot).chain(names.keys().map(|key| key.slot)) {
            *taken.entry(slot).or_default() += 1;
        }
        let all_crowded =
            keys.len() > MAX_GRANTS as usize / 2 || names.len() > MAX_GRANTED_NAMES as usize / 2;
        let is_crowded = |slot: u32| all_crowded || taken[&slot] > GRANTS_PER_WORKLOAD / 2;
        let mut left: HashMap<u32, u64> = HashMap::new();
        let mut named = HashSet::new();
        for key in keys {
            let Some(grant) = self.grant(key)? else { continue };
            // No connection lives by what opens nothing.
            let opens = grant.names.iter().any(|granted| granted.class != NO_CLASS);
            let rest = if opens && !is_crowded(key.slot) { REMEMBERED_NS } else { LEFT_ALONE_NS };
            let before = now.saturating_sub(rest);
            let lasts = grant.names.iter().any(|granted| granted.until >= before);
            if lasts && belongs(key.slot, key.serial) {
                *left.entry(key.slot).or_default() += 1;
                let names = grant.names.iter().map(|granted| granted.name);
                named.extend(names.map(|hash| NameKey { hash, slot: key.slot, serial: key.serial }));
            } else {
                gone(self.grants.remove(&Wire(key))).map_err(KernelError::map("GRANTS"))?;
            }
        }
        // Names that lead to nothing any more are of no use to a ruleset to come.
        let before = now.saturating_sub(LEFT_ALONE_NS);
        for (key, name) in names {
            let lasts = named.contains(&key)
                || name.until >= before && !is_crowded(key.slot)
                || self.is_renewed(key, name.until)?;
            if lasts && belongs(key.slot, key.serial) {
                *left.entry(key.slot).or_default() += 1;
            } else {
                gone(self.granted_names.remove(&Wire(key))).map_err(KernelError::map("GRANTED_NAMES"))?;
            }
        }
        for (slot, written) in written {
            let left = left.get(&slot).copied().unwrap_or_default();
            self.bindings.end_grants(slot, written.saturating_sub(left))?;
        }
        Ok(())
    }
}

impl Enforcer {
    /// Removes the addresses of a workload that were open some time ago. `now` is the boot time in nanoseconds.
    pub fn sweep_grants(&mut self, slot: u32, now: u64) -> Result<(), KernelError> {
        let serial = self.maps.bindings.get(slot)?.serial;
        self.maps.sweep_grants(now, &BTreeMap::from([(slot, serial)]))
    }
}
