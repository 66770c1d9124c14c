//! Where cgroup2 is mounted.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::mountinfo::{self, Mount};

/// The kernel's number of a hierarchy's root directory.
const HIERARCHY_ROOT: u64 = 1;
/// Number of the first cgroup namespace (include/linux/proc_ns.h).
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFB;

/// The mount below which workloads are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupMount {
    pub(super) point: PathBuf,
    /// Which part of the hierarchy it shows.
    pub(super) root: PathBuf,
    /// Can the kernel's names of cgroups be understood?
    is_named: bool,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Nowhere.
    #[error("no cgroup2 is mounted; mount it, or boot with systemd.unified_cgroup_hierarchy=1")]
    None,
    /// Not where the configuration says.
    #[error("cgroup_root: {}: there is no cgroup2", .0.display())]
    NotThere(PathBuf),
    /// It cannot be found out.
    #[error("/proc/self/mountinfo: {0}")]
    Unreadable(#[from] io::Error),
}

impl CgroupMount {
    /// Finds the mount that shows most of the hierarchy, or takes the one that the configuration names.
    pub fn find(configured: Option<&Path>) -> Result<Self, MountError> {
        let mounts = mountinfo::parse(&fs::read("/proc/self/mountinfo")?);
        let mut of_v2 = mounts.into_iter().filter(|mount| mount.kind == "cgroup2" && mount.is_reachable());
        if let Some(point) = configured {
            let kind = statfs(point).map(|found| found.filesystem_type());
            if kind != Ok(CGROUP2_SUPER_MAGIC) {
                return Err(MountError::NotThere(point.to_owned()));
            }
            // Only a mount's own point says which part of the hierarchy it shows.
            let root = of_v2.rfind(|mount| mount.point == point).map(|mount| mount.root);
            return Ok(Self::new(point.to_owned(), root.unwrap_or_else(|| "/".into())));
        }
        // Seen out of a cgroup namespace, what climbs shows more than what begins at the namespace's own cgroup.
        let breadth = |mount: &Mount| (!climbs(&mount.root), mount.root.components().count());
        let widest = of_v2.min_by_key(breadth).ok_or(MountError::None)?;
        Ok(Self::new(widest.point, widest.root))
    }

    pub(super) fn new(point: PathBuf, root: PathBuf) -> Self {
        let is_whole = fs::metadata(&point).is_ok_and(|found| found.ino() == HIERARCHY_ROOT);
        let is_named = is_whole || is_in_first_namespace();
        Self { point, root, is_named }
    }

    /// The kernel names cgroups from the root of their hierarchy. In a cgroup namespace nobody is told where in it a mount
    /// begins that does not show all of it: there the names lead nowhere.
    #[must_use]
    pub fn understands_names(&self) -> bool {
        self.is_named
    }

    /// Where it is mounted.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// The directory of a cgroup whose path below the mount is known.
    #[must_use]
    pub fn directory(&self, path: &Path) -> PathBuf {
        self.point.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The path below the mount of a cgroup that the kernel names from its hierarchy's root; `None` where the mount does
    /// not show it. A root that climbs is the hierarchy's own, seen out of a cgroup namespace.
    #[must_use]
    pub fn below(&self, path: &Path) -> Option<PathBuf> {
        if climbs(&self.root) {
            return Some(path.to_owned());
        }
        Some(Path::new("/").join(path.strip_prefix(&self.root).ok()?))
    }
}

fn climbs(root: &Path) -> bool {
    root.starts_with("/..")
}

/// Where that cannot be found out, it is taken for no: then inotify tells of cgroups, which needs no names.
fn is_in_first_namespace() -> bool {
    fs::metadata("/proc/self/ns/cgroup").is_ok_and(|found| found.ino() == FIRST_NAMESPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_a_part_shows_a_part() {
        let mount = |root: &str| CgroupMount { point: "/mnt".into(), root: root.into(), is_named: true };
        assert_eq!(mount("/").below(Path::new("/a/b")), Some("/a/b".into()));
        assert_eq!(mount("/a").below(Path::new("/a/b")), Some("/b".into()));
        assert_eq!(mount("/a").below(Path::new("/c")), None);
        assert_eq!(mount("/../..").below(Path::new("/a/b")), Some("/a/b".into()));
        assert_eq!(mount("/").directory(Path::new("/a/b")), Path::new("/mnt/a/b"));
    }

    #[test]
    fn what_is_no_cgroup2_is_refused() {
        let refused = CgroupMount::find(Some(Path::new("/proc"))).unwrap_err();
        assert_eq!(refused.to_string(), "cgroup_root: /proc: there is no cgroup2");
    }
}
