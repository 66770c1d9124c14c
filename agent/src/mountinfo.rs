//! `/proc/PID/mountinfo`, as far as it is needed here.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The kernel's number of the mount.
    pub(crate) id: u64,
    /// Which directory of the filesystem is its root.
    pub(crate) root: PathBuf,
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// The filesystem's type.
    pub(crate) kind: String,
}

impl Mount {
    /// Whether its mount point leads to this mount, and not to one that covers it. Where the kernel does not say, it does:
    /// better an unmount that fails than a way out that is taken for covered.
    pub(crate) fn is_reachable(&self) -> bool {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match statx(CWD, &self.point, flags, StatxFlags::MNT_ID) {
            Ok(found) => found.stx_mask & StatxFlags::MNT_ID.bits() == 0 || found.stx_mnt_id == self.id,
            Err(error) => !matches!(error, Errno::NOENT | Errno::NOTDIR),
        }
    }
}

/// Parses a whole file, in the order of mounting. Lines that no kernel writes are left out.
pub(crate) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let mut fields = fields.skip(2);
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    // Between the options and the type stand any number of optional fields, ended by a dash.
    let kind = fields.skip(1).skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { id, root, point, kind: String::from_utf8_lossy(kind).into_owned() })
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        (rest, _) = match octal {
            Some(value) => (&tail[3..], bytes.push(value)),
            None => (tail, bytes.push(byte)),
        };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// `path` of one mount's filesystem, seen through the mount; `None` where the mount does not show it.
pub(crate) fn through(mount: &Mount, path: &Path) -> Option<PathBuf> {
    let below = path.strip_prefix(&mount.root).ok()?;
    // An empty rest would leave a slash at the end.
    Some(if below.as_os_str().is_empty() { mount.point.clone() } else { mount.point.join(below) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"23 27 0:22 / /sys rw,relatime - sysfs sysfs rw\n\
        41 31 0:38 /a /mnt/with\\040space\\134 rw,nosuid shared:9 master:1 - cgroup2 none rw,nsdelegate\n\
        not a mount\n";

    #[test]
    fn optional_fields_and_escapes() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[0].id, mounts[0].kind.as_str()), (23, "sysfs"));
        assert_eq!(mounts[1].point, Path::new("/mnt/with space\\"));
        assert_eq!((mounts[1].root.as_path(), mounts[1].kind.as_str()), (Path::new("/a"), "cgroup2"));
    }

    #[test]
    fn a_path_through_a_mount_of_a_part_of_the_tree() {
        let mount = &parse(TEXT)[1];
        assert_eq!(through(mount, Path::new("/a/b")), Some(PathBuf::from("/mnt/with space\\/b")));
        assert_eq!(through(mount, Path::new("/a")), Some(PathBuf::from("/mnt/with space\\")));
        assert_eq!(through(mount, Path::new("/other")), None);
    }
}
