//! Maps that are mapped into memory: the words, the bindings, the states.
//!
//! Mapped pages count as resident memory of the agent, so of the large ones only the pages at work are mapped, and only
//! while they are.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Map, MapData};
use egress_warden_common::state::{Binding, State};
use memmap2::{MmapMut, MmapOptions};

use super::KernelError;

const WORD: usize = size_of::<u64>();
const BINDING_WORDS: usize = size_of::<Binding>() / WORD;

/// An array that can be mapped.
pub(super) struct Memory {
    name: &'static str,
    map: MapData,
    entries: u32,
}

impl Memory {
    pub(super) fn new(name: &'static str, map: Map) -> Result<Self, KernelError> {
        let Map::Array(map) = map else { return Err(KernelError::Missing(name)) };
        let entries = map.info().map_err(KernelError::map(name))?.max_entries();
        Ok(Self { name, map, entries })
    }

    /// The pages with so many words from the word `first` on.
    fn map_words(&self, first: usize, count: usize) -> Result<MmapMut, KernelError> {
        map_words(self.name, &self.map, first, count)
    }
}

fn map_words(name: &'static str, map: &MapData, first: usize, count: usize) -> Result<MmapMut, KernelError> {
    let mut options = MmapOptions::new();
    options.offset((first * WORD) as u64).len(count * WORD);
    // SAFETY: the mapping holds the map. What others write into it meanwhile is read and written as atomics only; the
    // words of a ruleset are written by this process alone, while no program reads them.
    unsafe { options.map_mut(map.fd().as_fd().as_raw_fd()) }
        .map_err(|source| KernelError::Mapping { map: name, source })
}

/// The words of all rulesets.
pub(super) struct Words(pub(super) Memory);

impl Words {
    pub(super) fn capacity(&self) -> u32 {
        self.0.entries
    }

    /// Writes a ruleset from index `base` on. No binding may point there.
    pub(super) fn write(&self, base: u32, words: &[u64]) -> Result<(), KernelError> {
        if let Some(mut target) = self.pages(base, words.len())? {
            target.copy_from_slice(bytes(words));
        }
        Ok(())
    }

    /// Reads words from index `base` on.
    pub(super) fn read(&self, base: u32, length: usize) -> Result<Vec<u64>, KernelError> {
        let pages = self.pages(base, length)?;
        let words = pages.iter().flat_map(|pages| pages.chunks_exact(WORD));
        Ok(words.map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())).collect())
    }

    /// Do these words stand there?
    pub(super) fn are(&self, base: u32, words: &[u64]) -> Result<bool, KernelError> {
        Ok(self.pages(base, words.len())?.is_none_or(|pages| *pages == *bytes(words)))
    }

    fn pages(&self, base: u32, length: usize) -> Result<Option<MmapMut>, KernelError> {
        let (wanted, capacity) = (base as usize + length, self.capacity() as usize);
        if wanted > capacity {
            return Err(KernelError::Full { map: "WORDS", wanted, capacity });
        }
        if length == 0 { Ok(None) } else { self.0.map_words(base as usize, length).map(Some) }
    }
}

pub(super) fn bytes(words: &[u64]) -> &[u8] {
    // SAFETY: a word has no padding, and any alignment will do for a byte.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// What the programs know of each workload. Small enough to stay mapped.
pub(super) struct Bindings {
    pages: MmapMut,
}

impl Bindings {
    pub(super) fn new(memory: &Memory) -> Result<Self, KernelError> {
        let pages = memory.map_words(0, memory.entries as usize * BINDING_WORDS)?;
        Ok(Self { pages })
    }

    /// How many there can be.
    pub(super) fn capacity(&self) -> u32 {
        (self.pages.len() / size_of::<Binding>()) as u32
    }

    fn words(&self, slot: u32) -> Result<&[AtomicU64], KernelError> {
        let (wanted, capacity) = (slot as usize + 1, self.capacity() as usize);
        if wanted > capacity {
            return Err(KernelError::Full { map: "BINDINGS", wanted, capacity });
        }
        // SAFETY: the binding is inside the mapping, which starts with a page and is as aligned as its words. The
        // programs only read, and all that is written goes through these atomics.
        Ok(unsafe {
            let first = self.pages.as_ptr().cast::<AtomicU64>().add(slot as usize * BINDING_WORDS);
            std::slice::from_raw_parts(first, BINDING_WORDS)
        })
    }

    pub(super) fn get(&self, slot: u32) -> Result<Binding, KernelError> {
        let words = self.words(slot)?;
        let [swapped, cookie, last, grants_ended] =
            [0, 1, 2, 3].map(|index: usize| words[index].load(Ordering::Acquire));
        let ((ruleset, generation), (flags, serial)) = (halves(swapped), halves(last));
        Ok(Binding { ruleset, generation, netns_cookie: cookie, flags, serial, grants_ended })
    }

    /// Writes a whole binding, its flags last.
    pub(super) fn set(&mut self, slot: u32, binding: Binding) -> Result<(), KernelError> {
        let words = self.words(slot)?;
        words[0].store(Binding::word(binding.ruleset, binding.generation), Ordering::Release);
        words[1].store(binding.netns_cookie, Ordering::Release);
        words[3].store(binding.grants_ended, Ordering::Release);
        words[2].store(Binding::word(binding.flags, binding.serial), Ordering::Release);
        Ok(())
    }

    /// Tells that so many of the grants that were written are gone. Never fewer than before: that room was given back.
    pub(super) fn end_grants(&mut self, slot: u32, ended: u64) -> Result<(), KernelError> {
        self.words(slot)?[3].fetch_max(ended, Ordering::AcqRel);
        Ok(())
    }

    /// Gives a workload another ruleset: one store, so no packet is judged by a mixture.
    pub(super) fn swap(&mut self, slot: u32, ruleset: u32, generation: u32) -> Result<(), KernelError> {
        self.words(slot)?[0].store(Binding::word(ruleset, generation), Ordering::Release);
        Ok(())
    }
}

/// The two fields that make up a word, as they lie in memory.
fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
}

/// The fields of one state that the agent writes while the programs run.
pub(super) struct SharedState {
    pages: MmapMut,
}

impl SharedState {
    pub(super) fn new(states: &MapData, slot: u32) -> Result<Self, KernelError> {
        let words = size_of::<State>() / WORD;
        Ok(Self { pages: map_words("STATES", states, slot as usize * words, words)? })
    }

    /// The field at this offset in [`State`].
    pub(super) fn field(&self, offset: usize) -> &AtomicU64 {
        let words = self.pages.len() / WORD;
        assert!(offset.is_multiple_of(WORD) && offset / WORD < words);
        // SAFETY: inside the mapping, aligned, and whoever writes there does so with one store.
        unsafe { &*self.pages.as_ptr().add(offset).cast::<AtomicU64>() }
    }
}
