//! The files of the demo. They lie in memory, in a mount namespace of this process and what it starts, and are gone with
//! it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where the files may be mounted: the first of these that is empty, so that nothing of this machine is hidden.
const PLACES: [&str; 5] = ["/mnt", "/srv", "/media", "/var/local", "/var/opt"];
/// Where nginx keeps bodies of requests, whatever its configuration says about the rest.
const NGINX_STATE: &str = "/var/lib/nginx";

/// The files, by their path below the directory of the demo.
const FILES: [(&str, &str); 12] = [
    ("allowlists/demo.yaml", include_str!("files/allowlists.yaml")),
    ("unknown.yaml", include_str!("files/unknown.yaml")),
    ("node.yaml", include_str!("files/node.yaml")),
    ("dnsmasq.conf", include_str!("files/dnsmasq.conf")),
    ("hosts", include_str!("files/hosts")),
    ("nsswitch.conf", include_str!("files/nsswitch.conf")),
    ("resolv.conf", include_str!("files/resolv.conf")),
    ("openssl.cnf", include_str!("files/openssl.cnf")),
    ("tinyproxy.conf", include_str!("files/tinyproxy.conf")),
    ("wheel.py", include_str!("files/wheel.py")),
    ("internal/index.html", "checkpoint stored\n"),
    ("outside/index.html", "hello from outside\n"),
];
/// The programs of the job. A script under its own name, because that name is what the records show.
const PROGRAMS: [(&str, &str); 3] = [
    ("stealer", include_str!("files/stealer.py")),
    ("noisy", include_str!("files/noisy.py")),
    ("tunnel", include_str!("files/tunnel.py")),
];

/// Gives this process a mount namespace of its own with a directory of files in memory. Returns the directory.
pub(super) fn mount_private() -> Result<PathBuf> {
    let is_empty = |place: &&&str| fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_none());
    let Some(place) = PLACES.iter().find(is_empty).map(|place| PathBuf::from(*place)) else {
        bail!("the demo mounts its files on an empty directory, and none of {} is one", PLACES.join(", "));
    };
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("cannot make the mounts private")?;
    in_memory(&place)?;
    if Path::new(NGINX_STATE).is_dir() {
        in_memory(Path::new(NGINX_STATE))?;
    }
    Ok(place)
}

fn in_memory(place: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("egress-warden-demo"), place, Some("tmpfs"), flags, Some("mode=0755,size=64m"))
        .with_context(|| format!("cannot mount a tmpfs on {}", place.display()))
}

/// A BPF file system of the demo's own, below its directory: what the agent pins there goes with it.
pub(super) fn mount_bpf(directory: &Path) -> Result<()> {
    let place = directory.join("bpf");
    fs::create_dir(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("egress-warden-demo"), &place, Some("bpf"), flags, Some("mode=0700"))
        .with_context(|| format!("cannot mount a BPF file system on {}", place.display()))
}

/// Writes them, and has names come from the resolver of the demo in place of the machine's.
pub(super) fn write_all(directory: &Path, python: &Path) -> Result<()> {
    for (name, text) in FILES {
        write(&directory.join(name), text)?;
    }
    for (name, script) in PROGRAMS {
        let path = directory.join(name);
        write(&path, &format!("#!{} -I\n{script}", python.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    // `.test` is nobody's to ask for outside.
    for name in ["hosts", "nsswitch.conf", "resolv.conf"] {
        let place = Path::new("/etc").join(name);
        match mount(Some(&directory.join(name)), &place, None::<&str>, MsFlags::MS_BIND, None::<&str>) {
            // Without it the C library reads files anyway.
            Err(Errno::ENOENT) if name == "nsswitch.conf" => {}
            Err(errno) => bail!("cannot put the demo's own file on {}: {errno}", place.display()),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Writes one file, and the directory that it lies in.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().context("a file lies in a directory")?;
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}
