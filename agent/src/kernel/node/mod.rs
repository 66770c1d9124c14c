//! Enforcement that outlives the agent: maps, programs and links are pinned, and whoever opens them next goes on where
//! the last one stopped.
//!
//! The kernel is the only truth. What an agent knows of slots and rulesets it reads out of the maps when it starts; it
//! keeps no file of its own. Whatever a killed agent left half-done is finished or taken back then.

mod adopt;
mod backstop;
mod cgroup;
mod clsact;
mod directory;
mod error;
mod grace;
mod kept;
mod link;
mod names;
mod programs;
mod read;
mod regions;
mod rewriters;
mod slots;
mod tc;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use aya::maps::{MapData, RingBuf};
use egress_warden_common::Address;
use egress_warden_common::limits::{MAX_REFUSED_DESTINATIONS, MAX_WORKLOADS};
use egress_warden_common::ruleset::{FLAGS, FLAGS_MARK, HEADER_WORDS, LENGTH, VERSION};
use egress_warden_common::state::{
    Binding, Interface, Kept, KeptKey, LocalKey, NODE_SLOT, RESOLVER_INTERFACE, UPLINK_BACKSTOP, UPLINK_BARE,
};

use self::directory::Directory;
use self::programs::Programs;
use self::regions::{Region, Regions};
use self::slots::Slots;
use self::watch::Watch;
use super::attach::Ancestor;
use super::clock::boot_ns;
use super::maps::{Maps, binding_flags, local_keys};
use super::object::Logger;
use super::{KernelError, OtherProgram, OwnNamespace, Sizes, others};

pub use adopt::Adopted;
pub use backstop::Backstop;
pub use error::NodeError;
pub use kept::{How, Older};
pub use read::BY_HAND;

/// Where the pins are and how large the maps are made.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Where the BPF file system is mounted; where none is, one will be.
    pub bpffs: PathBuf,
    /// The directory in it.
    pub directory: String,
    /// Sizes of maps that are not pinned yet; those that are keep theirs.
    pub sizes: Sizes,
    /// The programs' own diagnostics.
    pub log: bool,
}

impl Default for NodeOptions {
    fn default() -> Self {
        let sizes = Sizes {
            words: 1 << 21,
            workloads: MAX_WORKLOADS,
            refused_destinations: MAX_REFUSED_DESTINATIONS,
            names: true,
        };
        Self { bpffs: "/sys/fs/bpf".into(), directory: "egress-warden".into(), sizes, log: false }
    }
}

/// What is pinned, held by the one agent that may write to it. Dropping it changes nothing in the kernel.
pub struct Node {
    directory: Directory,
    programs: Programs,
    maps: Maps,
    records: RingBuf<MapData>,
    watch: Option<Watch>,
    logger: Option<Logger>,
    regions: Regions,
    slots: Slots,
    workloads: BTreeMap<u64, Bound>,
    /// The node's own addresses, as they are listed.
    own: Vec<LocalKey>,
    /// The host's ends of workloads' wires, as they are listed.
    interfaces: BTreeMap<u32, Interface>,
}

/// What is known of a workload beside its binding.
#[derive(Debug)]
struct Bound {
    slot: u32,
    locals: Vec<LocalKey>,
    /// `None` while its network is not known.
    backstops: Option<Vec<Backstop>>,
    /// Flows that are older than its enforcement, as they are listed.
    kept: Vec<(KeptKey, Kept)>,
}

impl Bound {
    const fn new(slot: u32) -> Self {
        Self { slot, locals: Vec::new(), backstops: None, kept: Vec::new() }
    }
}

impl Node {
    /// Would all these rulesets fit beside those in force? What is in force stays until the last workload has left it.
    pub fn reserve(&self, rulesets: &[&[u64]]) -> Result<(), KernelError> {
        let (mut kept, mut missing) = (Vec::new(), Vec::new());
        for words in rulesets.iter().copied().collect::<BTreeSet<_>>() {
            match self.find(words, hash(words))? {
                Some(region) => kept.push(region),
                None => missing.push(words.len() as u32),
            }
        }
        let (wanted, capacity) = (self.regions.room_for(missing, &kept), self.regions.capacity());
        if wanted > u64::from(capacity) {
            return Err(KernelError::Full {
                map: "WORDS",
                wanted: wanted as usize,
                capacity: capacity as usize,
            });
        }
        Ok(())
    }

    /// Enforces a ruleset on a cgroup. `path` is for messages. While the network namespace is not known, nothing inbound is
    /// learnt and loopback counts as the node's own. Fails wholly or not at all.
    pub fn enforce(
        &mut self,
        cgroup_id: u64,
        cgroup: BorrowedFd<'_>,
        path: &Path,
        words: &[u64],
        namespace: Option<&OwnNamespace>,
    ) -> Result<(), NodeError> {
        self.enforce_beside(cgroup_id, cgroup, path, words, namespace, &Older::NONE).map(drop)
    }

    /// The same with connections that are older; tells how many of them found no place, and are judged like any other. Where
    /// the cgroup is enforced already, nothing is older.
    pub fn enforce_beside(
        &mut self,
        cgroup_id: u64,
        cgroup: BorrowedFd<'_>,
        path: &Path,
        words: &[u64],
        namespace: Option<&OwnNamespace>,
        older: &Older<'_>,
    ) -> Result<usize, NodeError> {
        if self.workloads.contains_key(&cgroup_id) {
            self.swap(cgroup_id, words)?;
            return namespace.map_or(Ok(0), |namespace| self.set_namespace(cgroup_id, namespace).map(|()| 0));
        }
        let failed = |source| NodeError::Cgroup { cgroup: cgroup_id, source };
        for ancestor in Ancestor::of(cgroup).map_err(failed)? {
            ancestor.refuse_exclusive()?;
        }
        // The slot first: to find one may free every ruleset that no binding points at.
        let slot = self.take_slot(cgroup_id)?;
        let region = match self.place(words) {
            Ok(region) => region,
            Err(error) => {
                self.slots.retire(slot);
                return Err(error);
            }
        };
        self.regions.refer(region.base);
        self.workloads.insert(cgroup_id, Bound::new(slot));
        // Bound before attached: a program that runs finds its workload complete.
        // And what is older than its enforcement is known before anything judges it, the backstop included.
        let done = self.keep(cgroup_id, older).and_then(|left_out| {
            self.bind(cgroup_id, slot, region.base, namespace)?;
            self.programs.link(&self.directory.links_of(cgroup_id), cgroup_id, cgroup, path)?;
            Ok(left_out)
        });
        if done.is_err() {
            // The first error tells what is wrong; should taking back fail as well, the next start finishes it.
            let _ = self.release(cgroup_id);
        }
        done
    }

    /// Gives a workload another ruleset; from the next packet on it is judged by that. False when it has it already.
    pub fn swap(&mut self, cgroup_id: u64, words: &[u64]) -> Result<bool, NodeError> {
        Ok(self.swap_all(&[cgroup_id], words)? > 0)
    }

    /// Gives several workloads the same ruleset, which is written and compared once. Tells how many did not have it. Checks
    /// all before it changes one.
    pub fn swap_all(&mut self, cgroup_ids: &[u64], words: &[u64]) -> Result<usize, NodeError> {
        let slots = cgroup_ids.iter().map(|id| self.slot(*id)).collect::<Result<Vec<_>, _>>()?;
        let region = self.place(words)?;
        let mut swapped = 0;
        for slot in slots {
            let before = self.maps.bindings.get(slot)?;
            if region.base != before.ruleset {
                self.maps.bindings.swap(slot, region.base, next(before.generation))?;
                self.regions.refer(region.base);
                self.regions.forget(before.ruleset);
                swapped += 1;
            }
        }
        Ok(swapped)
    }

    /// Tells the programs of the workload's network namespace.
    pub fn set_namespace(&mut self, cgroup_id: u64, namespace: &OwnNamespace) -> Result<(), NodeError> {
        let slot = self.slot(cgroup_id)?;
        let bound = self.workloads.get_mut(&cgroup_id).ok_or(NodeError::NotEnforced(cgroup_id))?;
        let resolvers = bound.locals.iter().filter(|key| key.interface == RESOLVER_INTERFACE);
        let resolvers: Vec<LocalKey> = resolvers.copied().collect();
        let mut keys = local_keys(slot, namespace)?;
        // Read once: root inside may write the file.
        if !resolvers.is_empty() {
            keys.retain(|key| key.interface != RESOLVER_INTERFACE);
            keys.extend(resolvers);
        }
        // New ones first: an address that stays is never missing.
        for key in &keys {
            if !bound.locals.contains(key) {
                self.maps.list_local(*key, UPLINK_BARE)?;
                bound.locals.push(*key);
            }
        }
        let binding = self.maps.bindings.get(slot)?;
        let flags = binding_flags(namespace.is_host);
        let changed = Binding { netns_cookie: namespace.cookie, flags, ..binding };
        if changed != binding {
            self.maps.bindings.set(slot, changed)?;
        }
        let (stay, gone): (Vec<_>, Vec<_>) = bound.locals.drain(..).partition(|key| keys.contains(key));
        bound.locals = stay;
        gone.iter().try_for_each(|key| self.maps.unlist_local(*key))?;
        let backstops = self.set_backstop(cgroup_id, namespace)?;
        for backstop in &backstops {
            let key = LocalKey { address: [0; 16], slot, interface: backstop.interface.index };
            if namespace.uplinks.contains(&key.interface) {
                let answered = if backstop.missing.is_none() { UPLINK_BACKSTOP } else { UPLINK_BARE };
                self.maps.list_local(key, answered)?;
            }
        }
        if let Some(bound) = self.workloads.get_mut(&cgroup_id) {
            bound.backstops = Some(backstops);
        }
        Ok(())
    }

    /// The interfaces by which a workload reaches the world, each with its backstop or why it has none; `None` while its
    /// network is not known.
    pub fn backstops(&self, cgroup_id: u64) -> Option<&[Backstop]> {
        self.workloads.get(&cgroup_id)?.backstops.as_deref()
    }

    /// Tells the programs the node's own addresses: its probes are answered in quarantine as well.
    pub fn set_own_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), NodeError> {
        let own = addresses.iter().filter(|address| !address.is_loopback());
        let keys: Vec<LocalKey> = own
            .map(|address| LocalKey {
                address: Address::from(*address).to_bytes(),
                slot: NODE_SLOT,
                interface: 0,
            })
            .collect();
        for key in keys.iter().filter(|key| !self.own.contains(key)) {
            self.maps.list_local(*key, UPLINK_BARE)?;
        }
        let gone = std::mem::replace(&mut self.own, keys);
        for key in gone.iter().filter(|key| !self.own.contains(key)) {
            self.maps.unlist_local(*key)?;
        }
        Ok(())
    }

    /// Ends the enforcement of a cgroup, whether that still exists or not.
    pub fn release(&mut self, cgroup_id: u64) -> Result<(), NodeError> {
        let slot = self.slot(cgroup_id)?;
        let asked = self.maps.state(slot)?.grants > 0;
        // First: what it guards would otherwise be judged by a policy that is gone, which refuses everything.
        self.clear_backstop(slot)?;
        self.maps.remove_backends(slot)?;
        self.maps.remove_pendings(slot)?;
        self.directory.remove_links(cgroup_id)?;
        self.maps.unlist_workload(cgroup_id)?;
        let binding = self.maps.bindings.get(slot)?;
        self.maps.bindings.set(slot, Binding { netns_cookie: 0, flags: 0, ..binding })?;
        self.regions.forget(binding.ruleset);
        self.forget_kept(cgroup_id, |_| true)?;
        if let Some(bound) = self.workloads.remove(&cgroup_id) {
            bound.locals.iter().try_for_each(|key| self.maps.unlist_local(*key))?;
        }
        self.maps.forget_refused(|other| other == slot)?;
        self.slots.retire(slot);
        // Nothing was opened for who asked for nothing: then nobody looks through everybody's.
        if asked { self.sweep_grants(boot_ns()?) } else { Ok(()) }
    }

    /// Takes all enforcement of this version out of the kernel; tells of how many cgroups.
    pub fn detach_all(self) -> Result<usize, NodeError> {
        self.directory.remove(false)
    }

    /// Other people's programs on these cgroups, at the hooks that the agent uses. What is gone has none.
    #[must_use]
    pub fn others_on<'p>(&self, cgroups: impl IntoIterator<Item = &'p Path>) -> Vec<OtherProgram> {
        let own = self.programs.ids();
        cgroups.into_iter().flat_map(|cgroup| others::on(cgroup, &own).unwrap_or_default()).collect()
    }

    /// Are the pins still in view? Without them enforcement ends with whoever holds it open, at the latest with this agent.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.directory.is_there()
    }

    fn slot(&self, cgroup_id: u64) -> Result<u32, NodeError> {
        Ok(self.workloads.get(&cgroup_id).ok_or(NodeError::NotEnforced(cgroup_id))?.slot)
    }

    fn bind(
        &mut self,
        cgroup_id: u64,
        slot: u32,
        ruleset: u32,
        namespace: Option<&OwnNamespace>,
    ) -> Result<(), NodeError> {
        let before = self.maps.bindings.get(slot)?;
        let binding = Binding {
            ruleset,
            generation: next(before.generation),
            netns_cookie: 0,
            flags: binding_flags(true),
            serial: next(before.serial),
            grants_ended: 0,
        };
        self.maps.bindings.set(slot, binding)?;
        self.maps.add_pendings(slot, binding.serial)?;
        if let Some(namespace) = namespace {
            self.set_namespace(cgroup_id, namespace)?;
        }
        Ok(self.maps.list_workload(cgroup_id, slot)?)
    }

    /// A slot in which nothing is left of whoever had it before.
    fn take_slot(&mut self, cgroup_id: u64) -> Result<u32, NodeError> {
        if self.slots.needs_reclaim() {
            self.reclaim()?;
        }
        let capacity = self.slots.capacity();
        let full = KernelError::Full { map: "WORKLOADS", wanted: capacity + 1, capacity };
        let slot = self.slots.take(cgroup_id).ok_or(full)?;
        self.maps.clear_state(slot)?;
        Ok(slot)
    }

    /// Where the ruleset stands. It is written there if it stands nowhere yet.
    fn place(&mut self, words: &[u64]) -> Result<Region, NodeError> {
        if length_in(words) != Some(words.len()) {
            return Err(NodeError::Malformed(words.len()));
        }
        let hash = hash(words);
        if let Some(region) = self.find(words, hash)? {
            return Ok(region);
        }
        let length = words.len() as u32;
        if let Some(region) = self.regions.take(length, hash) {
            return self.write(region, words);
        }
        self.reserve(&[words])?;
        self.reclaim()?;
        let full = KernelError::Full {
            map: "WORDS",
            wanted: self.regions.in_force() as usize + words.len(),
            capacity: self.regions.capacity() as usize,
        };
        let region = self.regions.take(length, hash).ok_or(full)?;
        self.write(region, words)
    }

    fn write(&self, region: Region, words: &[u64]) -> Result<Region, NodeError> {
        self.maps.words.write(region.base, words)?;
        Ok(region)
    }

    fn find(&self, words: &[u64], hash: u64) -> Result<Option<Region>, KernelError> {
        for region in self.regions.candidates(words.len(), hash) {
            if self.maps.words.are(region.base, words)? {
                return Ok(Some(region));
            }
        }
        Ok(None)
    }

    /// Makes everything available again that was freed: one wait for all of it.
    fn reclaim(&mut self) -> Result<(), NodeError> {
        grace::wait().map_err(NodeError::Grace)?;
        self.regions.free_unused();
        let retired = self.slots.reclaim();
        // A program that was still running may have counted something after the workload's end.
        self.maps.forget_refused(|slot| retired.contains(&slot)).map_err(NodeError::from)
    }
}

/// Takes enforcement out of the kernel without an agent; tells of how many cgroups. Refuses while an agent runs.
pub fn detach(bpffs: &Path, directory: &str, all_versions: bool) -> Result<usize, NodeError> {
    Directory::existing(bpffs, directory)?.map_or(Ok(0), |directory| directory.remove(all_versions))
}

/// The next number; 0 stands for "none".
fn next(number: u32) -> u32 {
    number.checked_add(1).unwrap_or(1)
}

/// How long the ruleset that begins with these words says that it is.
fn length_in(header: &[u64]) -> Option<usize> {
    let whole = header.len() >= HEADER_WORDS as usize
        && header[0] == VERSION
        && header[FLAGS as usize] >> 32 == FLAGS_MARK >> 32;
    let length = usize::try_from(*header.get(LENGTH as usize)?).ok()?;
    (whole && length >= HEADER_WORDS as usize).then_some(length)
}

/// Finds equal rulesets again; they are compared as well.
fn hash(words: &[u64]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(super::memory::bytes(words));
    hasher.finish()
}
