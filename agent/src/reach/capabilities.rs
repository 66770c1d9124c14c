//! In the host's network namespace there is no other end of a wire at which packets could be judged once more: what the
//! programs of the cgroup do not see leaves. These capabilities lead past them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::{Roots, process};

/// Threads of one workload that are looked at.
const MOST_THREADS: usize = 4096;

/// What leads past the programs of a cgroup, with how. By the kernel's numbers (include/uapi/linux/capability.h).
const LEADS_PAST: [(u8, &str, &str); 13] = [
    (13, "NET_RAW", "its packet sockets send frames that no program of a cgroup sees"),
    (12, "NET_ADMIN", "it rewrites packets behind the programs, by tc, nft, XDP or a tunnel"),
    (21, "SYS_ADMIN", "it mounts the cgroup tree, enters other namespaces and detaches programs"),
    (39, "BPF", "it opens the pinned programs and maps where it reaches their file system"),
    (16, "SYS_MODULE", "it loads code into the kernel"),
    (17, "SYS_RAWIO", "it writes to memory and disks past the kernel"),
    (19, "SYS_PTRACE", "it takes over processes outside of its cgroup, and their sockets"),
    (2, "DAC_READ_SEARCH", "it opens files by handle, those of the cgroup tree among them"),
    (27, "MKNOD", "it makes device files for raw disks and memory"),
    (22, "SYS_BOOT", "it loads another kernel"),
    (38, "PERFMON", "it reads kernel memory and attaches programs to it"),
    (18, "SYS_CHROOT", "it leaves a chroot, and so reaches mounts that were hidden"),
    (25, "SYS_TIME", "it sets the clock by which entries expire"),
];

/// What the processes of a workload may do. A process in a user namespace of its own may do nothing to the host's network
/// with the capabilities that it has there: it is not in here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Capabilities of [`leads_past`] that a process has.
    pub held: BTreeMap<&'static str, Held>,
    /// Those that none has, and that a program which is started may be given: by a set-user-id bit, or a file's
    /// capabilities.
    pub obtainable: BTreeSet<&'static str>,
    /// Threads that were looked at.
    pub examined: usize,
    /// Threads or processes of which nothing could be read, or which were too many.
    pub unexamined: usize,
}

/// Who has a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// How many processes.
    pub processes: usize,
    /// One of them.
    pub process: u32,
}

/// How a capability of [`Capabilities`] leads past the programs.
#[must_use]
pub fn leads_past(capability: &str) -> &'static str {
    LEADS_PAST.iter().find(|(_, name, _)| *name == capability).map_or("", |(_, _, how)| how)
}

impl Capabilities {
    /// Those of these processes.
    #[must_use]
    pub fn of(processes: &[u32], roots: &Roots) -> Self {
        Self::of_at_most(processes, roots, MOST_THREADS)
    }

    fn of_at_most(processes: &[u32], roots: &Roots, most: usize) -> Self {
        let own = process::namespace(&roots.proc.join("self"), "user");
        let mut all = Self::default();
        for number in processes {
            let directory = process::directory(roots, *number);
            // One that is in another PID namespace than the agent has no number here.
            let Some(user) = process::namespace(&directory, "user") else {
                all.unexamined += usize::from(*number == 0 || directory.exists());
                continue;
            };
            if Some(user) == own {
                all.add(*number, process::threads(&directory), most);
            }
        }
        let held: BTreeSet<&str> = all.held.keys().copied().collect();
        all.obtainable.retain(|name| !held.contains(name));
        all
    }

    fn add(&mut self, number: u32, threads: impl Iterator<Item = PathBuf>, most: usize) {
        let mut permitted = 0;
        for thread in threads {
            if self.examined == most {
                self.unexamined += 1;
                continue;
            }
            // It has ended.
            let Some(status) = process::status(&thread) else { continue };
            self.examined += 1;
            permitted |= status.permitted;
            if !status.no_new_privileges {
                self.obtainable.extend(names(status.bounding));
            }
        }
        for name in names(permitted) {
            self.held.entry(name).or_insert(Held { processes: 0, process: number }).processes += 1;
        }
    }
}

fn names(set: u64) -> impl Iterator<Item = &'static str> {
    LEADS_PAST.iter().filter(move |(number, ..)| set >> number & 1 != 0).map(|(_, name, _)| *name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    /// A `/proc` in which process 1 is the agent.
    fn made_up() -> (tempfile::TempDir, Roots) {
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots { proc: directory.path().to_owned(), sys: directory.path().join("sys") };
        add(&roots, "self", "user:[1]", &[(0, 0, true)]);
        (directory, roots)
    }

    fn add(roots: &Roots, process: &str, user: &str, threads: &[(u64, u64, bool)]) {
        let directory = roots.proc.join(process);
        fs::create_dir_all(directory.join("ns")).unwrap();
        symlink(user, directory.join("ns/user")).unwrap();
        for (number, (permitted, bounding, no_new)) in threads.iter().enumerate() {
            let thread = directory.join(format!("task/{number}"));
            fs::create_dir_all(&thread).unwrap();
            let no_new = u8::from(*no_new);
            let text = format!(
                "Name:\tx\nCapPrm:\t{permitted:016x}\nCapEff:\t{:016x}\nCapBnd:\t{bounding:016x}\nNoNewPrivs:\t{no_new}\n",
                0
            );
            fs::write(thread.join("status"), text).unwrap();
        }
    }

    const NET_RAW: u64 = 1 << 13;
    const SYS_ADMIN: u64 = 1 << 21;
    const CHOWN: u64 = 1;

    #[test]
    fn what_leads_past_is_told_with_who_has_it() {
        let (_directory, roots) = made_up();
        add(&roots, "10", "user:[1]", &[(CHOWN, 0, false), (NET_RAW, SYS_ADMIN | NET_RAW, false)]);
        add(&roots, "11", "user:[1]", &[(NET_RAW, u64::MAX, true)]);
        // All that can be had, in a user namespace of its own.
        add(&roots, "12", "user:[2]", &[(u64::MAX, u64::MAX, false)]);
        let found = Capabilities::of(&[10, 11, 12, 13, 0], &roots);
        assert_eq!(found.held, [("NET_RAW", Held { processes: 2, process: 10 })].into());
        assert_eq!(found.obtainable, ["SYS_ADMIN"].into());
        // 13 has ended; 0 is one that has no number here.
        assert_eq!((found.examined, found.unexamined), (3, 1));
        assert!(leads_past("NET_RAW").contains("frames"));
    }

    #[test]
    fn nothing_is_told_of_who_can_do_nothing() {
        let (_directory, roots) = made_up();
        add(&roots, "10", "user:[1]", &[(CHOWN, CHOWN, false)]);
        let expected = Capabilities { examined: 1, ..Capabilities::default() };
        assert_eq!(Capabilities::of(&[10], &roots), expected);
    }

    #[test]
    fn too_many_threads_are_counted() {
        let (_directory, roots) = made_up();
        add(&roots, "10", "user:[1]", &[(0, 0, true); 5]);
        let found = Capabilities::of_at_most(&[10], &roots, 2);
        assert_eq!((found.examined, found.unexamined), (2, 3));
    }

    #[test]
    fn the_numbers_are_those_of_this_kernel() {
        let own = Capabilities::of(&[std::process::id()], &Roots::default());
        let status = process::status(Path::new("/proc/self")).unwrap();
        assert!(own.examined > 0);
        assert_eq!(own.held.contains_key("SYS_ADMIN"), status.permitted >> 21 & 1 == 1);
    }
}
