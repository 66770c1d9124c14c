//! Where cgroup2 is mounted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::mountinfo;

/// The mount below which workloads are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupMount {
    pub(super) point: PathBuf,
    /// Which part of the hierarchy it shows.
    pub(super) root: PathBuf,
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
            return Ok(Self { point: point.to_owned(), root: root.unwrap_or_else(|| "/".into()) });
        }
        let widest = of_v2.min_by_key(|mount| mount.root.components().count()).ok_or(MountError::None)?;
        Ok(Self { point: widest.point, root: widest.root })
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
        if self.root.starts_with("/..") {
            return Some(path.to_owned());
        }
        Some(Path::new("/").join(path.strip_prefix(&self.root).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_a_part_shows_a_part() {
        let mount = |root: &str| CgroupMount { point: "/mnt".into(), root: root.into() };
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
