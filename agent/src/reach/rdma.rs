//! RDMA devices: what is sent by queue pairs comes by no hook of the kernel's network stack. A workload that can open one of
//! the device files, and whose network namespace may use the device, sends where it likes.
//!
//! Told is what stands in its `/dev`. Whether its cgroup's device controller lets it be opened is not tried: that a file is
//! there is the operator's doing, or a mistake.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode as Permissions, OFlags, ResolveFlags, openat, openat2};

use super::{Roots, process};

/// Views of the file system that one workload's processes have, of which as many are looked at.
const MOST_VIEWS: usize = 64;
/// Entries of a directory that are looked at.
const MOST_ENTRIES: usize = 1024;

/// Directories in which the files of devices are, and how those begin.
const FILES: [(&CStr, &[&str]); 3] = [
    (c"dev/infiniband", &["uverbs", "ucm", "umad", "issm", "rdma_cm"]),
    (c"dev/vfio", &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]),
    (c"dev/vfio/devices", &["vfio"]),
];
const DEVICES: &CStr = c"sys/class/infiniband";

/// Which network namespaces may use a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// This kernel has no RDMA loaded.
    #[default]
    Absent,
    /// Every one may use every device (`rdma system set netns shared`, the kernel's default).
    Shared,
    /// Each device belongs to one.
    Exclusive,
}

impl Sharing {
    /// As `status` writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        }
    }

    fn of(sys: &Path) -> Self {
        match fs::read(sys.join("module/ib_core/parameters/netns_mode")) {
            Ok(text) if text.starts_with(b"N") => Self::Exclusive,
            Ok(_) => Self::Shared,
            // Before there was such a choice every namespace could use every device.
            Err(_) if sys.join("class/infiniband").exists() => Self::Shared,
            Err(_) => Self::Absent,
        }
    }
}

/// The RDMA devices of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rdma {
    /// Which network namespaces may use a device.
    pub sharing: Sharing,
    /// Those that its network namespace may use, as far as that is known: where each belongs to one, by what its own `/sys`
    /// shows.
    pub devices: BTreeSet<String>,
    /// Device files in its `/dev`, by their paths there: of RDMA devices, and of devices that are handed over whole (VFIO),
    /// network adapters perhaps among them.
    pub files: BTreeSet<String>,
}

impl Rdma {
    /// Those of these processes.
    #[must_use]
    pub fn of(processes: &[u32], host_network: bool, roots: &Roots) -> Self {
        let sharing = Sharing::of(&roots.sys);
        let mut all = Self { sharing, ..Self::default() };
        let own = sharing == Sharing::Exclusive && !host_network;
        if sharing != Sharing::Absent && !own {
            all.devices.extend(all_names(&roots.sys.join("class/infiniband")));
        }
        for root in views(processes, roots) {
            for (directory, beginnings) in FILES {
                all.files.extend(files(root.as_fd(), directory, beginnings));
            }
            if own && let Some(directory) = open_in(root.as_fd(), DEVICES, OFlags::DIRECTORY) {
                all.devices.extend(entries(directory));
            }
        }
        all
    }

    /// Can something be sent by a device?
    #[must_use]
    pub fn is_in_reach(&self) -> bool {
        !self.files.is_empty()
    }
}

/// The root directories of the processes, each view once: by mount namespace, and root in it.
fn views(processes: &[u32], roots: &Roots) -> Vec<OwnedFd> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for number in processes {
        let directory = process::directory(roots, *number);
        let root = directory.join("root");
        let view = (process::namespace(&directory, "mnt"), fs::read_link(&root).ok());
        if found.len() == MOST_VIEWS || !seen.insert(view) {
            continue;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        found.extend(openat(CWD, &root, flags, Permissions::empty()));
    }
    found
}

/// Opens something as a process with this root would, and never anything outside of it.
fn open_in(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Option<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Permissions::empty(), resolve).ok()
}

fn files<'a>(
    root: BorrowedFd<'a>,
    directory: &'a CStr,
    beginnings: &'a [&str],
) -> impl Iterator<Item = String> + 'a {
    let names = open_in(root, directory, OFlags::DIRECTORY).into_iter().flat_map(entries);
    let fits = move |name: &String| beginnings.iter().any(|beginning| name.starts_with(beginning));
    names.filter(fits).filter_map(move |name| {
        let path = format!("{}/{name}", directory.to_string_lossy());
        let opened = open_in(root, &std::ffi::CString::new(path.as_str()).ok()?, OFlags::PATH)?;
        let mode = rustix::fs::fstat(opened).ok()?.st_mode;
        (FileType::from_raw_mode(mode) == FileType::CharacterDevice).then(|| format!("/{path}"))
    })
}

fn entries(directory: OwnedFd) -> impl Iterator<Item = String> {
    let names = Dir::new(directory).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "." && name != "..").take(MOST_ENTRIES)
}

fn all_names(directory: &Path) -> impl Iterator<Item = String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, directory, flags, Permissions::empty()).into_iter().flat_map(entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{makedev, mknodat};

    use super::*;

    struct MadeUp {
        directory: tempfile::TempDir,
        roots: Roots,
    }

    impl MadeUp {
        fn new(netns_mode: Option<&str>) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let roots = Roots { proc: directory.path().join("proc"), sys: directory.path().join("sys") };
            if let Some(mode) = netns_mode {
                let parameters = roots.sys.join("module/ib_core/parameters");
                fs::create_dir_all(&parameters).unwrap();
                fs::write(parameters.join("netns_mode"), format!("{mode}\n")).unwrap();
                for device in ["mlx5_0", "mlx5_1"] {
                    fs::create_dir_all(roots.sys.join("class/infiniband").join(device)).unwrap();
                }
            }
            Self { directory, roots }
        }

        /// A process whose root is a directory of its own.
        fn process(&self, number: u32) -> std::path::PathBuf {
            let process = process::directory(&self.roots, number);
            fs::create_dir_all(process.join("ns")).unwrap();
            symlink(format!("mnt:[{number}]"), process.join("ns/mnt")).unwrap();
            let root = process.join("root");
            fs::create_dir_all(root.join("dev/infiniband")).unwrap();
            root
        }
    }

    fn device(path: &Path) {
        let mode = Permissions::from_raw_mode(0o600);
        mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(231, 192)).unwrap();
    }

    #[test]
    fn what_is_no_device_file_is_not_in_reach() {
        let made_up = MadeUp::new(Some("Y"));
        let root = made_up.process(7);
        fs::write(root.join("dev/infiniband/uverbs0"), "").unwrap();
        let found = Rdma::of(&[7, 8], false, &made_up.roots);
        assert!(!found.is_in_reach());
        assert_eq!(found.devices, ["mlx5_0", "mlx5_1"].map(str::to_owned).into());
        assert_eq!(found.sharing, Sharing::Shared);
        assert_eq!(Rdma::of(&[7], false, &MadeUp::new(None).roots), Rdma::default());
    }

    #[test]
    fn device_files_of_every_process_are_found_by_their_paths() {
        let made_up = MadeUp::new(Some("Y"));
        let (one, other) = (made_up.process(7), made_up.process(9));
        for name in ["uverbs0", "rdma_cm", "something"] {
            device(&one.join("dev/infiniband").join(name));
        }
        fs::create_dir_all(other.join("dev/vfio/devices")).unwrap();
        for name in ["vfio", "12", "devices/vfio3"] {
            device(&other.join("dev/vfio").join(name));
        }
        let found = Rdma::of(&[7, 9], false, &made_up.roots);
        let expected =
            ["/dev/infiniband/rdma_cm", "/dev/infiniband/uverbs0", "/dev/vfio/12", "/dev/vfio/devices/vfio3"];
        assert_eq!(found.files, expected.map(str::to_owned).into());
        assert!(found.is_in_reach());
    }

    #[test]
    fn a_link_leads_nowhere_outside_of_the_root_that_it_is_in() {
        let made_up = MadeUp::new(Some("Y"));
        let root = made_up.process(7);
        let outside = made_up.directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        device(&outside.join("uverbs0"));
        fs::remove_dir(root.join("dev/infiniband")).unwrap();
        symlink(&outside, root.join("dev/infiniband")).unwrap();
        assert!(!Rdma::of(&[7], false, &made_up.roots).is_in_reach());
        // The same link as the process sees it.
        let inside = root.join(outside.strip_prefix("/").unwrap());
        fs::create_dir_all(&inside).unwrap();
        device(&inside.join("uverbs1"));
        let found = Rdma::of(&[7], false, &made_up.roots);
        assert_eq!(found.files, ["/dev/infiniband/uverbs1".to_owned()].into());
    }

    #[test]
    fn where_each_device_belongs_to_one_namespace_its_own_are_told() {
        let made_up = MadeUp::new(Some("N"));
        let root = made_up.process(7);
        fs::create_dir_all(root.join("sys/class/infiniband/mlx5_1")).unwrap();
        let found = Rdma::of(&[7], false, &made_up.roots);
        assert_eq!((found.sharing, found.devices), (Sharing::Exclusive, ["mlx5_1".to_owned()].into()));
        let host = Rdma::of(&[7], true, &made_up.roots);
        assert_eq!(host.devices.len(), 2);
    }
}
