//! The maps of a loaded program, read beside whoever loaded it.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::bpf::{OBJ_GET_INFO_BY_FD, bpf};

const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const MAP_GET_FD_BY_ID: libc::c_long = 14;
const PERCPU_ARRAY: u32 = 6;
const MOST_MAPS: usize = 64;

/// The beginning of the kernel's `bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    before: [u64; 6],
    created_by: u32,
    maps: u32,
    map_ids: u64,
}

/// The beginning of the kernel's `bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    object: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map: u32,
    reserved: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

/// A map of a loaded program.
#[derive(Debug)]
pub struct ProgramMap {
    map: OwnedFd,
    key_size: usize,
    /// Of one processor, as the kernel rounds it up.
    value_size: usize,
    processors: usize,
}

impl ProgramMap {
    /// The map with this name that a program uses.
    ///
    /// # Errors
    /// When it uses none.
    pub fn of(program: BorrowedFd<'_>, name: &str) -> io::Result<ProgramMap> {
        let mut ids = [0_u32; MOST_MAPS];
        let mut told =
            ProgramInfo { maps: MOST_MAPS as u32, map_ids: (&raw mut ids) as u64, ..ProgramInfo::default() };
        info(program.as_raw_fd(), &mut told)?;
        for id in ids.into_iter().take(told.maps as usize) {
            let raw = bpf(MAP_GET_FD_BY_ID, &mut IdAttr { id, ..IdAttr::default() })?;
            // SAFETY: the descriptor is new and nobody else's.
            let map = unsafe { OwnedFd::from_raw_fd(raw) };
            let mut told = MapInfo::default();
            info(map.as_raw_fd(), &mut told)?;
            if told.name.split(|byte| *byte == 0).next() == Some(name.as_bytes()) {
                let processors = if told.kind == PERCPU_ARRAY { possible_processors()? } else { 1 };
                let (key_size, value_size) = (told.key_size as usize, told.value_size.next_multiple_of(8));
                return Ok(ProgramMap { map, key_size, value_size: value_size as usize, processors });
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("the program uses no map {name}")))
    }

    /// The value behind a key; of a map with a value for each processor the one of this processor.
    ///
    /// # Errors
    /// When there is no such key.
    pub fn get(&self, key: &[u8], processor: usize) -> io::Result<Vec<u8>> {
        let mut values = vec![0; self.value_size * self.processors];
        self.element(MAP_LOOKUP_ELEM, key, values.as_mut_ptr() as u64)?;
        let place = if self.processors == 1 { 0 } else { processor * self.value_size };
        Ok(values[place..place + self.value_size].to_vec())
    }

    /// Every key.
    ///
    /// # Errors
    /// None in practice, while nobody else removes keys.
    pub fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut found: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.key_size];
            let before = found.last().map(Vec::as_slice).unwrap_or_default();
            match self.element(MAP_GET_NEXT_KEY, before, next.as_mut_ptr() as u64) {
                Ok(()) => found.push(next),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(found),
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes a key.
    ///
    /// # Errors
    /// When there is no such key.
    pub fn remove(&self, key: &[u8]) -> io::Result<()> {
        self.element(MAP_DELETE_ELEM, key, 0)
    }

    /// No key stands for the one before the first.
    fn element(&self, command: libc::c_long, key: &[u8], value: u64) -> io::Result<()> {
        if !key.is_empty() && key.len() != self.key_size {
            return Err(io::Error::other(format!("a key of this map has {} bytes", self.key_size)));
        }
        let key = if key.is_empty() { 0 } else { key.as_ptr() as u64 };
        let map = self.map.as_raw_fd().cast_unsigned();
        bpf(command, &mut ElementAttr { map, key, value, ..ElementAttr::default() }).map(drop)
    }
}

fn info<T>(object: i32, told: &mut T) -> io::Result<()> {
    let mut asked = InfoAttr {
        object: object.cast_unsigned(),
        length: size_of::<T>() as u32,
        info: (told as *mut T) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut asked).map(drop)
}

/// For so many the kernel has values: not only for those that are there.
fn possible_processors() -> io::Result<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<usize>().ok());
    last.map(|last| last + 1).ok_or_else(|| io::Error::other(format!("processors `{text}`")))
}
