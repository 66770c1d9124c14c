//! A process as `/proc` shows it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::Roots;

/// The largest `/proc/PID/status` that is read.
const LARGEST: usize = 64 << 10;

/// What counts of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// What it may do now, or allow itself at any time.
    pub(super) permitted: u64,
    /// What a program that it starts may be given.
    pub(super) bounding: u64,
    /// Nothing that it starts is given more than it has.
    pub(super) no_new_privileges: bool,
}

/// The directory of a process.
pub(super) fn directory(roots: &Roots, process: u32) -> PathBuf {
    roots.proc.join(process.to_string())
}

/// The directories of a process's threads.
pub(super) fn threads(process: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(process.join("task")).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Which namespace of a kind a process is in, as its link says; `None` where that cannot be read.
pub(super) fn namespace(process: &Path, kind: &str) -> Option<OsString> {
    fs::read_link(process.join("ns").join(kind)).ok().map(PathBuf::into_os_string)
}

/// `None` where the thread has ended, or nothing is shown of it.
pub(super) fn status(thread: &Path) -> Option<Status> {
    let text = fs::read(thread.join("status")).ok().filter(|text| text.len() <= LARGEST)?;
    parse(&String::from_utf8_lossy(&text))
}

fn parse(text: &str) -> Option<Status> {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.map(str::trim)
    };
    let set = |key: &str| u64::from_str_radix(value(key)?, 16).ok();
    Some(Status {
        permitted: set("CapPrm")? | set("CapEff")?,
        bounding: set("CapBnd")?,
        no_new_privileges: value("NoNewPrivs") == Some("1"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_is_read_and_a_name_cannot_feign_it() {
        // The kernel escapes line ends in names.
        let text = "Name:\tCapPrm:\\nx\nUid:\t0\t0\t0\t0\nCapInh:\t0000000000000000\nCapPrm:\t0000000000002000\n\
                    CapEff:\t0000000000001000\nCapBnd:\t000001ffffffffff\nCapAmb:\t0\nNoNewPrivs:\t1\n";
        let expected = Status { permitted: 0x3000, bounding: 0x1ff_ffff_ffff, no_new_privileges: true };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("Name:\tx\n"), None);
        let own = status(Path::new("/proc/self")).unwrap();
        assert_ne!(own.bounding | 1, 0);
    }
}
