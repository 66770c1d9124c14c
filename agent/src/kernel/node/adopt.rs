//! Taking over what is pinned.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::PathBuf;

use aya::Ebpf;
use aya::maps::MapInfo;
use egress_warden_common::ruleset::HEADER_WORDS;
use egress_warden_common::state::{BINDING_ACTIVE, Binding, LocalKey, NODE_SLOT};

use super::cgroup::Cgroups;
use super::directory::Directory;
use super::programs::Programs;
use super::regions::{Region, Regions};
use super::slots::Slots;
use super::watch::Watch;
use super::{Bound, Node, NodeError, NodeOptions, hash, length_in};
use crate::kernel::clock::boot_ns;
use crate::kernel::maps::Maps;
use crate::kernel::object::{load_object, take_ring};
use crate::kernel::{KernelError, Preparation, Sizes};
use crate::ruleset;

/// The maps that are pinned: whatever the programs remember between two runs. Not `SCRATCH`: the last lookup in it is known by
/// numbers that begin anew with `BINDINGS`, so that one must never outlive the other.
const MAPS: [&str; 17] = [
    "WORKLOADS",
    "BINDINGS",
    "STATES",
    "WORDS",
    "LOCALS",
    "INTERFACES",
    "BACKENDS",
    "KEPT",
    "REFUSED",
    "RECORDS",
    "CLOCK",
    "SOCKETS",
    "NAMED",
    "UDP_FLOWS",
    "PENDINGS",
    "GRANTS",
    "GRANTED_NAMES",
];

/// A workload that an earlier agent left enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Id of its cgroup.
    pub cgroup: u64,
    /// Boot time in nanoseconds since when it is in quarantine; 0 when it is not.
    pub quarantined_at: u64,
    /// Hash of its ruleset as [`ruleset::hash`] makes it; 0 where no ruleset could be read, which refuses everything.
    pub hash: u64,
    /// Do the programs know its network namespace?
    pub namespace_known: bool,
}

impl Node {
    /// Takes over what is pinned, or begins with nothing. Nothing that is counted is lost, and nothing is let through
    /// meanwhile.
    pub fn open(options: &NodeOptions) -> Result<(Self, Vec<Adopted>), NodeError> {
        let preparation = Preparation::begin();
        let directory = Directory::open(&options.bpffs, &options.directory)?;
        directory.refuse_other_versions()?;
        directory.make_layout()?;
        let pins = MAPS.map(|map| (map, directory.maps().join(map)));
        let sizes = pinned_sizes(&directory, options.sizes);
        let (mut ebpf, logger) = load_object(preparation, sizes, options.log, &pins)?;
        let maps = Maps::take(&mut ebpf)?;
        let records = take_ring(&mut ebpf, "RECORDS")?;
        let programs = Programs::choose(&ebpf, &directory, &ids(&pins)?, options.log)?;
        let mut node = Self {
            regions: Regions::new(maps.words.capacity()),
            slots: Slots::new(maps.bindings.capacity(), BTreeMap::new()),
            workloads: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            own: Vec::new(),
            watch: None,
            directory,
            programs,
            maps,
            records,
            logger,
        };
        let adopted = node.adopt()?;
        node.finish(&mut ebpf)?;
        Ok((node, adopted))
    }

    fn finish(&mut self, ebpf: &mut Ebpf) -> Result<(), NodeError> {
        self.programs.pin(ebpf, &self.directory)?;
        self.watch = Watch::start(ebpf);
        Ok(())
    }

    fn adopt(&mut self) -> Result<Vec<Adopted>, NodeError> {
        let listed = self.maps.listed_workloads()?;
        let linked = self.directory.linked()?;
        self.adopt_slots(&listed)?;
        let taken: BTreeSet<u32> = self.workloads.values().map(|bound| bound.slot).collect();
        self.adopt_backstops(|slot| taken.contains(&slot))?;
        self.adopt_rewriters(|slot| taken.contains(&slot))?;
        let kept: BTreeSet<u64> = self.workloads.keys().copied().collect();
        for cgroup in linked.iter().filter(|cgroup| !kept.contains(cgroup)) {
            self.directory.remove_links(*cgroup)?;
        }
        let hashes = self.adopt_rulesets()?;
        if !kept.is_empty() {
            let cgroups = Cgroups::find().map_err(NodeError::NoCgroups)?;
            for cgroup in kept {
                self.repair(cgroup, &cgroups)?;
            }
        }
        // Whatever ran when the last agent ended has to have ended as well before its slots and words are given away.
        if !listed.is_empty() || !linked.is_empty() {
            self.reclaim()?;
        }
        self.sweep_grants(boot_ns()?)?;
        self.workloads.iter().map(|(cgroup, bound)| self.adopted(*cgroup, bound, &hashes)).collect()
    }

    /// Gives every listed workload its slot, and clears what belongs to none.
    fn adopt_slots(&mut self, listed: &BTreeMap<u64, u32>) -> Result<(), NodeError> {
        let capacity = self.maps.bindings.capacity();
        let mut owners = BTreeMap::new();
        for (cgroup, slot) in listed {
            if *slot < capacity && !owners.contains_key(slot) {
                owners.insert(*slot, *cgroup);
                self.workloads.insert(*cgroup, Bound::new(*slot));
            } else {
                self.maps.unlist_workload(*cgroup)?;
            }
        }
        for slot in (0..capacity).filter(|slot| !owners.contains_key(slot)) {
            let binding = self.maps.bindings.get(slot)?;
            if binding.flags != 0 {
                self.maps.bindings.set(slot, Binding { flags: 0, netns_cookie: 0, ..binding })?;
            }
        }
        for key in self.maps.listed_locals()? {
            self.adopt_local(key, &owners)?;
        }
        self.adopt_kept(&owners)?;
        self.maps.forget_refused(|slot| !owners.contains_key(&slot))?;
        self.slots = Slots::new(capacity, owners);
        Ok(())
    }

    fn adopt_local(&mut self, key: LocalKey, owners: &BTreeMap<u32, u64>) -> Result<(), NodeError> {
        if key.slot == NODE_SLOT {
            self.own.push(key);
            return Ok(());
        }
        match owners.get(&key.slot).and_then(|cgroup| self.workloads.get_mut(cgroup)) {
            Some(bound) => bound.locals.push(key),
            None => self.maps.unlist_local(key)?,
        }
        Ok(())
    }

    /// Finds the rulesets in force by the bindings that point at them; tells the hash of each.
    fn adopt_rulesets(&mut self) -> Result<BTreeMap<u32, u64>, NodeError> {
        let mut hashes = BTreeMap::new();
        for bound in self.workloads.values() {
            let base = self.maps.bindings.get(bound.slot)?.ruleset;
            if !hashes.contains_key(&base)
                && let Some(words) = self.ruleset_at(base)?
                && self.regions.adopt(Region { base, length: words.len() as u32 }, hash(&words))
            {
                hashes.insert(base, ruleset::hash(&words));
            }
            self.regions.refer(base);
        }
        Ok(hashes)
    }

    fn ruleset_at(&self, base: u32) -> Result<Option<Vec<u64>>, KernelError> {
        let room = (self.maps.words.capacity() as usize).saturating_sub(base as usize);
        if room < HEADER_WORDS as usize {
            return Ok(None);
        }
        let header = self.maps.words.read(base, HEADER_WORDS as usize)?;
        match length_in(&header).filter(|length| *length <= room) {
            Some(length) => self.maps.words.read(base, length).map(Some),
            None => Ok(None),
        }
    }

    /// Finishes what was begun with a cgroup that is still there; takes back the rest.
    fn repair(&mut self, cgroup: u64, cgroups: &Cgroups) -> Result<(), NodeError> {
        let found = cgroups.open(cgroup).map_err(|source| NodeError::Cgroup { cgroup, source })?;
        let binding = self.maps.bindings.get(self.slot(cgroup)?)?;
        let Some(directory) = found.filter(|_| binding.flags & BINDING_ACTIVE != 0) else {
            return self.release(cgroup);
        };
        let links = self.directory.links_of(cgroup);
        let name = PathBuf::from(format!("with id {cgroup}"));
        match self.programs.link(&links, cgroup, directory.as_fd(), &name) {
            // It was removed this very moment.
            Err(_) if matches!(cgroups.open(cgroup), Ok(None)) => self.release(cgroup),
            done => done,
        }
    }

    fn adopted(&self, cgroup: u64, bound: &Bound, hashes: &BTreeMap<u32, u64>) -> Result<Adopted, NodeError> {
        let binding = self.maps.bindings.get(bound.slot)?;
        Ok(Adopted {
            cgroup,
            quarantined_at: self.maps.state(bound.slot)?.quarantined_at,
            hash: hashes.get(&binding.ruleset).copied().unwrap_or_default(),
            namespace_known: binding.netns_cookie != 0,
        })
    }
}

/// The kernel's numbers of the pinned maps.
fn ids(pins: &[(&'static str, PathBuf)]) -> Result<Vec<u32>, KernelError> {
    pins.iter().map(|(map, pin)| Ok(MapInfo::from_pin(pin).map_err(KernelError::map(map))?.id())).collect()
}

/// A map that is pinned keeps its size.
fn pinned_sizes(directory: &Directory, wanted: Sizes) -> Sizes {
    let pinned = |map: &str| Some(MapInfo::from_pin(directory.maps().join(map)).ok()?.max_entries());
    Sizes {
        words: pinned("WORDS").unwrap_or(wanted.words),
        workloads: pinned("BINDINGS").unwrap_or(wanted.workloads),
        refused_destinations: pinned("REFUSED").unwrap_or(wanted.refused_destinations),
        names: wanted.names,
    }
}
