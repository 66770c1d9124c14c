//! Enforcement that outlives the agent: programs, links and maps that are pinned, and what may be done with them.
//!
//! The kernel's tables are the only truth. An agent that starts reads them, takes over every link that still attaches,
//! puts its own programs in place of the old ones without a gap, completes what was left half-made, and removes what
//! belongs to nobody. It resets nothing.

mod adopt;
mod links;
mod pins;
mod programs;
mod regions;
mod slots;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use aya::maps::{Map, MapData, RingBuf};
use egress_warden_common::limits::{MAX_LOCALS, MAX_REFUSED_DESTINATIONS, MAX_WORKLOADS};
use egress_warden_common::state::{
    BINDING_ACTIVE, CGROUP_MADE, CgroupEvent, Record, RefusedKey, State, WallClock,
};

use super::bpf::GracePeriod;
use super::clock::boot_ns;
use super::maps::{Maps, locals_of};
use super::object::{Logger, drain_records, load_object, take};
use super::{Ancestor, KernelError, OwnNamespace, Preparation, Sizes};
use pins::{Pins, make};
use programs::Programs;
use regions::Regions;
use slots::Slots;

/// Words that all rulesets of a node may have together: 16 MiB.
const NODE_WORDS: u32 = 1 << 21;
/// Stands for the number of a quarantine rule where a person did it.
const BY_HAND: u64 = u64::MAX;

/// Where the pins are, and where cgroups are.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Where bpffs is, or is to be mounted.
    pub bpffs: PathBuf,
    /// Name of the directory in it.
    pub directory: String,
    /// Where cgroup2 is mounted.
    pub cgroups: PathBuf,
    /// How large the maps are made.
    pub sizes: Sizes,
    /// Turns on the programs' own diagnostics.
    pub log: bool,
}

impl NodeOptions {
    /// The sizes of a node.
    #[must_use]
    pub fn new(bpffs: &Path, directory: &str, cgroups: &Path) -> Self {
        let sizes = Sizes {
            words: NODE_WORDS,
            workloads: MAX_WORKLOADS,
            refused_destinations: MAX_REFUSED_DESTINATIONS,
        };
        let (bpffs, cgroups) = (bpffs.to_owned(), cgroups.to_owned());
        Self { bpffs, directory: directory.to_owned(), cgroups, sizes, log: false }
    }
}

/// A workload that an earlier agent left enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Id of its cgroup.
    pub cgroup: u64,
    /// Boot time in nanoseconds when it was quarantined; 0 when it is not.
    pub quarantined_at: u64,
    /// Hash of its ruleset, as [`crate::ruleset::Compiled::hash`] gives it.
    pub hash: u64,
}

/// What the kernel tells of a cgroup, of any hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupHint {
    /// Made, or removed.
    pub made: bool,
    /// Path from the hierarchy's root.
    pub path: String,
    /// Boot time in nanoseconds.
    pub time: u64,
}

/// The node's enforcement, held by this agent alone.
pub struct Node {
    pins: Pins,
    cgroups: PathBuf,
    programs: Programs,
    maps: Maps,
    records: RingBuf<MapData>,
    hints: RingBuf<MapData>,
    /// Why the kernel does not tell of cgroups.
    no_hints: Option<String>,
    logger: Option<Logger>,
    slots: Slots,
    regions: Regions,
    grace: GracePeriod,
}

impl Node {
    /// Takes over what is pinned, or begins.
    pub fn open(options: &NodeOptions) -> Result<(Self, Vec<Adopted>), KernelError> {
        let preparation = Preparation::begin();
        let pins = Pins::take(&options.bpffs, &options.directory)?;
        pins.refuse_others()?;
        for directory in [pins.version(), pins.maps(), pins.links()] {
            make(&directory)?;
        }
        let (mut ebpf, logger) = load_object(preparation, options.sizes, options.log, Some(&pins.maps()))?;
        let maps = Maps::take(&mut ebpf)?;
        let records = ring(&mut ebpf, "RECORDS")?;
        let hints = ring(&mut ebpf, "CGROUPS")?;
        let mut programs = Programs::new(ebpf);
        let no_hints = programs.watch_cgroups().err();
        programs.pin(&pins.programs())?;
        let grace =
            GracePeriod::new().map_err(|source| KernelError::Mapping { map: "a map of maps", source })?;
        let capacity = maps.words().capacity();
        let slots = Slots::new(maps.bindings().len(), &maps.workloads()?, maps.locals()?);
        let mut node = Self {
            pins,
            cgroups: options.cgroups.clone(),
            programs,
            maps,
            records,
            hints,
            no_hints,
            logger,
            slots,
            regions: Regions::new(capacity),
            grace,
        };
        let adopted = node.adopt()?;
        Ok((node, adopted))
    }

    /// Do these rulesets fit beside what is in force? Those that stand there already take no room.
    pub fn reserve(&self, rulesets: &[&[u64]]) -> Result<(), KernelError> {
        let mut plan = self.regions.clone();
        plan.grace_passed();
        let free = u64::from(self.maps.words().capacity()) - plan.words();
        let mut wanted = 0;
        for words in rulesets {
            let (hash, length) = (hash(words), length_of(words)?);
            if self.find(hash, words)?.is_some() {
                continue;
            }
            wanted += u64::from(length);
            if plan.place(length, hash).is_none() {
                let (wanted, capacity) = (wanted as usize, free as usize);
                return Err(KernelError::Full { map: "WORDS", wanted, capacity });
            }
        }
        Ok(())
    }

    /// Enforces a ruleset on a cgroup. Everything is told to the programs before the first of them is attached; when
    /// one cannot be, nothing of it stays.
    pub fn enforce(
        &mut self,
        cgroup: u64,
        directory: BorrowedFd<'_>,
        path: &Path,
        words: &[u64],
        namespace: Option<&OwnNamespace>,
    ) -> Result<(), KernelError> {
        for ancestor in Ancestor::between(&self.cgroups, path) {
            ancestor.refuse_exclusive()?;
        }
        let base = self.ruleset(words)?;
        self.regions.hold(base);
        let slot = match self.slot(cgroup) {
            Ok(slot) => slot,
            Err(full) => {
                self.regions.let_go(base);
                return Err(full);
            }
        };
        let generation = next(self.maps.bindings().get(slot).generation);
        self.maps.bindings().set_ruleset(slot, base, generation);
        self.maps.bindings().activate(slot);
        let cleared = self.maps.clear_state(slot);
        let attached = cleared.and_then(|()| self.tell(slot, namespace)).and_then(|()| {
            self.maps.insert_workload(cgroup, slot)?;
            links::attach(&self.pins.links_of(cgroup), &self.programs, directory, path)
        });
        if attached.is_err() {
            // What can be undone is; the first failure is the one to tell.
            let _ = self.release(cgroup);
        }
        attached
    }

    /// Gives an enforced workload another ruleset. False where it has these words already.
    pub fn swap(&mut self, cgroup: u64, words: &[u64]) -> Result<bool, KernelError> {
        let slot = self.slots.of(cgroup)?;
        let binding = self.maps.bindings().get(slot);
        let base = self.ruleset(words)?;
        if base == binding.ruleset {
            return Ok(false);
        }
        self.regions.hold(base);
        self.maps.bindings().set_ruleset(slot, base, next(binding.generation));
        self.regions.let_go(binding.ruleset);
        Ok(true)
    }

    /// Tells the programs which network namespace is the workload's own.
    pub fn set_namespace(&mut self, cgroup: u64, namespace: &OwnNamespace) -> Result<(), KernelError> {
        let slot = self.slots.of(cgroup)?;
        self.tell(slot, Some(namespace))
    }

    fn tell(&mut self, slot: u32, namespace: Option<&OwnNamespace>) -> Result<(), KernelError> {
        let Some(namespace) = namespace else { return Ok(()) };
        let keys = locals_of(slot, namespace);
        let (wanted, capacity) = (self.slots.locals() + keys.len(), MAX_LOCALS as usize);
        if wanted > capacity {
            return Err(KernelError::Full { map: "LOCALS", wanted, capacity });
        }
        self.maps.tell_network(slot, namespace)?;
        let before = self.slots.replace_locals(slot, keys.clone());
        for key in before.into_iter().filter(|key| !keys.contains(key)) {
            self.maps.forget_local(key);
        }
        Ok(())
    }

    /// Ends enforcement of a workload, and forgets it.
    pub fn release(&mut self, cgroup: u64) -> Result<(), KernelError> {
        let slot = self.slots.of(cgroup)?;
        // First the links: without its entry a program that is still attached would refuse everything.
        links::detach(&self.pins.links_of(cgroup))?;
        self.forget(cgroup, slot)
    }

    fn forget(&mut self, cgroup: u64, slot: u32) -> Result<(), KernelError> {
        self.maps.remove_workload(cgroup);
        let binding = self.maps.bindings().get(slot);
        self.maps.bindings().deactivate(slot);
        if binding.flags & BINDING_ACTIVE != 0 {
            self.regions.let_go(binding.ruleset);
        }
        for key in self.slots.replace_locals(slot, Vec::new()) {
            self.maps.forget_local(key);
        }
        if self.maps.state(slot)?.violations > 0 {
            for (key, _) in self.maps.refused()?.into_iter().filter(|(key, _)| key.slot == slot) {
                self.maps.forget_refused(key);
            }
        }
        self.slots.give_back(cgroup);
        Ok(())
    }

    /// What is counted of a workload.
    pub fn state(&self, cgroup: u64) -> Result<State, KernelError> {
        self.maps.state(self.slots.of(cgroup)?)
    }

    /// Which of its rulesets a workload has.
    pub fn generation(&self, cgroup: u64) -> Result<u32, KernelError> {
        Ok(self.maps.bindings().get(self.slots.of(cgroup)?).generation)
    }

    /// Puts a workload into quarantine, if it is not in one.
    pub fn quarantine(&mut self, cgroup: u64) -> Result<(), KernelError> {
        let state = self.maps.live_state(self.slots.of(cgroup)?)?;
        let now = boot_ns()?;
        let set = state.quarantined_at().compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst);
        if set.is_ok() {
            state.quarantine_rule().store(BY_HAND, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Ends a quarantine. The violations up to now count toward no threshold any more.
    pub fn forgive(&mut self, cgroup: u64) -> Result<(), KernelError> {
        let state = self.maps.live_state(self.slots.of(cgroup)?)?;
        state.forgiven().store(state.violations().load(Ordering::SeqCst), Ordering::SeqCst);
        state.would_quarantine_at().store(0, Ordering::SeqCst);
        state.quarantined_at().store(0, Ordering::SeqCst);
        Ok(())
    }

    /// The refused destinations, with the number of attempts.
    pub fn refused(&self) -> Result<Vec<(u64, RefusedKey, u64)>, KernelError> {
        let entries = self.maps.refused()?.into_iter();
        Ok(entries.filter_map(|(key, count)| Some((self.slots.cgroup(key.slot)?, key, count))).collect())
    }

    /// How full the maps are: name, entries, capacity.
    pub fn usage(&self) -> Result<Vec<(&'static str, u64, u64)>, KernelError> {
        Ok(vec![
            ("locals", self.slots.locals() as u64, MAX_LOCALS.into()),
            ("refused", self.maps.refused_count(), MAX_REFUSED_DESTINATIONS.into()),
            ("words", self.regions.words(), self.maps.words().capacity().into()),
            ("workloads", self.slots.len() as u64, self.slots.capacity() as u64),
        ])
    }

    /// A descriptor that becomes readable when there are records.
    pub fn records_fd(&self) -> Result<OwnedFd, KernelError> {
        duplicate(self.records.as_fd())
    }

    /// The records written since the last call. Of a workload that is gone nobody is left to tell.
    pub fn drain_records(&mut self, mut each: impl FnMut(u64, &Record)) {
        let slots = &self.slots;
        drain_records(&mut self.records, |record| {
            if let Some(cgroup) = slots.cgroup(record.slot) {
                each(cgroup, record);
            }
        });
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// A descriptor that becomes readable when cgroups were made or removed, or why there is none.
    pub fn hints_fd(&self) -> Result<Result<OwnedFd, String>, KernelError> {
        match &self.no_hints {
            Some(reason) => Ok(Err(reason.clone())),
            None => duplicate(self.hints.as_fd()).map(Ok),
        }
    }

    /// The cgroups that were made or removed since the last call.
    pub fn drain_hints(&mut self) -> Vec<CgroupHint> {
        let mut hints = Vec::new();
        while let Some(bytes) = self.hints.next() {
            if bytes.len() != size_of::<CgroupEvent>() {
                continue;
            }
            // SAFETY: the length was checked, every bit pattern is a valid event, and it is read unaligned.
            let event = unsafe { bytes.as_ptr().cast::<CgroupEvent>().read_unaligned() };
            let path = event.path.get(..event.length as usize).unwrap_or_default();
            let path = String::from_utf8_lossy(path).into_owned();
            hints.push(CgroupHint { made: event.kind == CGROUP_MADE, path, time: event.time });
        }
        hints
    }

    /// Tells the programs the wall clock.
    pub fn set_clock(&mut self, clock: WallClock) -> Result<(), KernelError> {
        self.maps.set_clock(clock)
    }

    /// A place for a workload; cleared of everybody who had it before.
    fn slot(&mut self, cgroup: u64) -> Result<u32, KernelError> {
        if let Ok(slot) = self.slots.of(cgroup) {
            return Ok(slot);
        }
        if let Some(slot) = self.slots.take(cgroup) {
            return Ok(slot);
        }
        if self.slots.is_leaving() {
            self.wait()?;
        }
        let full = KernelError::Full {
            map: "WORKLOADS",
            wanted: self.slots.len() + 1,
            capacity: self.slots.capacity(),
        };
        self.slots.take(cgroup).ok_or(full)
    }

    /// Where these words stand, after they were written if they stood nowhere.
    fn ruleset(&mut self, words: &[u64]) -> Result<u32, KernelError> {
        let (hash, length) = (hash(words), length_of(words)?);
        if let Some(base) = self.find(hash, words)? {
            return Ok(base);
        }
        let mut base = self.regions.place(length, hash);
        if base.is_none() && self.regions.is_leaving() {
            self.wait()?;
            base = self.regions.place(length, hash);
        }
        let free = u64::from(self.maps.words().capacity()) - self.regions.words();
        let (wanted, capacity) = (words.len(), free as usize);
        let base = base.ok_or(KernelError::Full { map: "WORDS", wanted, capacity })?;
        self.maps.words().write(base, words)?;
        Ok(base)
    }

    fn find(&self, hash: u64, words: &[u64]) -> Result<Option<u32>, KernelError> {
        let length = length_of(words)?;
        for base in self.regions.candidates(hash, length) {
            // A hash decides nothing: whoever finds two rulesets with the same one must not get the other's.
            if self.maps.words().read(base, length)? == words {
                return Ok(Some(base));
            }
        }
        Ok(None)
    }

    /// Waits until no program runs that began before, and gives free what was left for that.
    fn wait(&mut self) -> Result<(), KernelError> {
        self.grace.wait().map_err(|source| KernelError::Mapping { map: "a map of maps", source })?;
        self.slots.grace_passed();
        self.regions.grace_passed();
        Ok(())
    }
}

pub use adopt::detach;

fn ring(ebpf: &mut aya::Ebpf, name: &'static str) -> Result<RingBuf<MapData>, KernelError> {
    let map: Map = take(ebpf, name)?;
    RingBuf::try_from(map).map_err(KernelError::map(name))
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, KernelError> {
    fd.try_clone_to_owned().map_err(|source| KernelError::Mapping { map: "a ring buffer", source })
}

/// Never 0, which stands for "nothing is remembered".
const fn next(generation: u32) -> u32 {
    if generation == u32::MAX { 1 } else { generation + 1 }
}

fn hash(words: &[u64]) -> u64 {
    crate::ruleset::hash(words)
}

fn length_of(words: &[u64]) -> Result<u32, KernelError> {
    let full = |_| KernelError::Full { map: "WORDS", wanted: words.len(), capacity: u32::MAX as usize };
    u32::try_from(words.len()).map_err(full)
}
