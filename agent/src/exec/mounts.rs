//! CMD's view of the file system: everything that leads to another cgroup, another process or the agent is taken out of
//! it. Covering or remounting read-only is not enough for the cgroup tree: `clone3(CLONE_INTO_CGROUP)` needs no more
//! than a descriptor of a read-only mount. So it is unmounted.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::CWD;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use crate::mountinfo::{self, Mount};

const CGROUP: &str = "/sys/fs/cgroup";

/// Filesystems that are unmounted wherever they are:
/// the cgroup trees and pinned BPF objects; processes outside, by way of `/proc/PID/root`; what changes the whole
/// machine for a uid 0 that has no capability at all (debugfs, tracefs, configfs), a program that a later `execve` of
/// anybody would run (binfmt_misc), and the queues of the IPC namespace that CMD is not in.
const UNMOUNTED: [&str; 9] =
    ["cgroup", "cgroup2", "bpf", "proc", "debugfs", "tracefs", "configfs", "binfmt_misc", "mqueue"];

/// Filesystems that stay, because programs read them, but read-only: some of their files, like
/// `/sys/kernel/uevent_helper`, name a program that the kernel runs outside every cgroup.
const READ_ONLY: [&str; 4] = ["sysfs", "securityfs", "efivarfs", "pstore"];

/// The same within `/proc`: `/proc/sys/kernel/core_pattern` and `modprobe` are the best-known ways out.
const READ_ONLY_PROC: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "fs"];

/// Directories that are covered with nothing: the agent's sockets, and where pinned objects would be looked for.
const COVERED: [&str; 2] = ["/run/egress-warden", "/sys/fs/bpf"];

/// Sockets of daemons that run programs for uid 0, outside. Not a boundary, because nobody knows them all and the host's
/// files are writable as well; but no accident like `systemctl restart` or `docker run` goes round the policy.
const DAEMONS: [&str; 11] = [
    "/run/systemd/private",
    // These send a name to a resolver for whoever asks.
    "/run/nscd/socket",
    "/var/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
    "/run/dbus/system_bus_socket",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/podman/podman.sock",
    "/run/libvirt/libvirt-sock",
];

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {source}")]
pub(super) struct MountError {
    step: String,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> MountError {
    move |error| MountError { step: step.into(), source: error.into() }
}

/// Builds the view in the mount, PID and cgroup namespaces of this process, which must be its own.
pub(super) fn isolate() -> Result<(), MountError> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(failed("make the mounts private (is / a mount point here?)"))?;
    // Before anything is unmounted: a kernel that guards what /proc reveals wants to see the old one first.
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let proc = detached("proc", flags)?;
    let cgroup = detached("cgroup2", flags | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    unmount_all()?;
    place(&proc, Path::new("/proc"))?;
    if Path::new(CGROUP).is_dir() {
        place(&cgroup, Path::new(CGROUP))?;
    }
    for name in READ_ONLY_PROC {
        let path = Path::new("/proc").join(name);
        if path.exists() {
            bind_read_only(&path)?;
        }
    }
    for path in COVERED.map(Path::new) {
        if path.is_dir() {
            cover(path)?;
        }
    }
    for socket in DAEMONS.map(PathBuf::from).into_iter().chain(user_buses()) {
        if socket.exists() && !is_covered(&socket) {
            mount(Some("/dev/null"), &socket, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .map_err(failed(format!("cover {}", socket.display())))?;
        }
    }
    verify()
}

/// A name may lead to another one's socket, as /var/run does.
fn is_covered(socket: &Path) -> bool {
    std::fs::metadata(socket).is_ok_and(|found| found.file_type().is_char_device())
}

/// The message buses of people who are logged in; their service managers run programs for uid 0, too.
fn user_buses() -> Vec<PathBuf> {
    let users = std::fs::read_dir("/run/user").into_iter().flatten().flatten();
    users.flat_map(|user| ["bus", "systemd/private"].map(|name| user.path().join(name))).collect()
}

fn detached(kind: &str, flags: MountAttrFlags) -> Result<OwnedFd, MountError> {
    let make = || {
        let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
    };
    make().map_err(failed(format!("make a new {kind} mount")))
}

fn place(mount: &OwnedFd, point: &Path) -> Result<(), MountError> {
    rustix::mount::move_mount(mount, "", CWD, point, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed(format!("mount on {}", point.display())))
}

/// Unmounts what must go and makes read-only what may stay, until a look at the table finds nothing more to do:
/// unmounting one thing can bring to light another that it covered. What stays covered cannot be reached.
fn unmount_all() -> Result<(), MountError> {
    // Opened once, because the path to it is among the things to go.
    let mut table = File::open("/proc/self/mountinfo").map_err(failed("read the mount table"))?;
    let mut read_only: Vec<u64> = Vec::new();
    loop {
        let mut text = Vec::new();
        table.rewind().and_then(|()| table.read_to_end(&mut text)).map_err(failed("read the mount table"))?;
        let mut changed = false;
        // Parents come first and take along what is mounted below them.
        for mount in mountinfo::parse(&text) {
            if must_go(&mount) && mount.is_reachable() {
                umount2(&mount.point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                    .map_err(failed(format!("unmount {} ({})", mount.point.display(), mount.kind)))?;
                changed = true;
            } else if must_be_read_only(&mount) && !read_only.contains(&mount.id) && mount.is_reachable() {
                remount_read_only(&mount.point)?;
                read_only.push(mount.id);
            }
        }
        if !changed {
            return Ok(());
        }
    }
}

fn must_go(mount: &Mount) -> bool {
    // A tmpfs at this place carries the hierarchies of a hybrid set-up; without them it is only in the way.
    UNMOUNTED.contains(&mount.kind.as_str()) || mount.point == Path::new(CGROUP)
}

fn must_be_read_only(mount: &Mount) -> bool {
    READ_ONLY.contains(&mount.kind.as_str())
}

fn remount_read_only(point: &Path) -> Result<(), MountError> {
    let flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    mount(None::<&str>, point, None::<&str>, flags, None::<&str>)
        .map_err(failed(format!("make {} read-only", point.display())))
}

fn bind_read_only(path: &Path) -> Result<(), MountError> {
    mount(Some(path), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(failed(format!("bind {}", path.display())))?;
    remount_read_only(path)
}

fn cover(path: &Path) -> Result<(), MountError> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("none"), path, Some("tmpfs"), flags, Some("mode=0555,size=4k"))
        .map_err(failed(format!("cover {}", path.display())))
}

/// Looks at the result with other eyes than those that made it: the new `/proc`.
fn verify() -> Result<(), MountError> {
    let text = std::fs::read("/proc/self/mountinfo").map_err(failed("read the mount table of the jail"))?;
    let expected = [PathBuf::from("/proc"), PathBuf::from(CGROUP)];
    let left = mountinfo::parse(&text).into_iter().find(|mount| {
        UNMOUNTED.contains(&mount.kind.as_str())
            && !expected.contains(&mount.point)
            && !mount.point.starts_with("/proc")
            && mount.is_reachable()
    });
    match left {
        None => Ok(()),
        Some(mount) => Err(failed(format!("hide {} ({})", mount.point.display(), mount.kind))(
            io::Error::other("it is still there"),
        )),
    }
}
