//! Where the attempts are made: a cgroup, a namespace `pod` behind a veth, and a namespace `far` that is given whatever
//! passes the backstop on the host's end of it. A bridge would be closer to what container networks have, but the node's
//! own packet filter can reach into a bridge; nobody's reaches into this macvlan.
//!
//! Namespaces are held by descriptors and go with this process, however it ends, and with them the interfaces. The cgroup
//! does not; its name tells whose it was, so that the next self-test clears what a dead one left.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv6Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};

use super::place::{ALLOWED, FAR, FAR_MAC, INTERFACE, POD, POD_MAC, POD_V6, PORT, PREFIX, PREFIX_V6};
use crate::exec::remove::destroy;
use crate::kernel::links;
use crate::kernel::packet::packet_socket;

/// How the cgroup's name begins; the process id follows.
const CGROUP: &str = "egress-warden-selftest-";
/// How the name of the host's end of the wire begins; the process id follows.
const LINK: &str = "ewst";
const FIND: &str = "find an interface of its own";
const REMOVAL_LIMIT: Duration = Duration::from_secs(5);

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {source}")]
pub struct StageError {
    step: &'static str,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> StageError {
    move |source| StageError { step, source: source.into() }
}

/// The stage. Dropping it takes it down.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) cgroup: OwnCgroup,
    pub(super) pod: Namespace,
    /// Every frame that leaves the pod, before the backstop.
    pub(super) near: OwnedFd,
    /// Every frame that arrives.
    pub(super) far: OwnedFd,
    _listener: TcpListener,
    _namespace: Namespace,
    _link: Link,
}

impl Stage {
    /// Sets it up, below this mount of cgroup2 and beside the interfaces of the calling thread's namespace.
    pub(super) fn set_up(mount: &Path) -> Result<Self, StageError> {
        // What cannot be removed, perhaps because another self-test does it at this moment, does no harm. Were it by this
        // one's name, to make ours would fail and say so.
        let _ = sweep(mount);
        let pid = std::process::id();
        let (pod, far) = (Namespace::new()?, Namespace::new()?);
        let link = Link::new(&format!("{LINK}{pid}"), &pod)?;
        links::add_macvlan(link.0, &far.0, INTERFACE).map_err(failed("make a macvlan"))?;
        pod.enter(|| configure(&[IpAddr::V4(POD), IpAddr::V6(POD_V6)], &FAR, FAR_MAC))?;
        far.enter(|| configure(&FAR, &[IpAddr::V4(POD), IpAddr::V6(POD_V6)], POD_MAC))?;
        let listen = || {
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).or_else(|_| TcpListener::bind((ALLOWED, PORT)))
        };
        Ok(Self {
            near: listen_to(link.0)?,
            far: far.enter(|| listen_to(if_nametoindex(INTERFACE).map_err(failed(FIND))?))?,
            _listener: far.enter(listen).map_err(failed("listen in the far namespace"))?,
            cgroup: OwnCgroup::new(mount)?,
            pod,
            _namespace: far,
            _link: link,
        })
    }
}

fn listen_to(index: u32) -> Result<OwnedFd, StageError> {
    packet_socket(index, true).map_err(failed("listen on an interface of its own"))
}

/// Gives the interface of the calling thread's namespace its addresses and tells it of its neighbours.
fn configure(own: &[IpAddr], others: &[IpAddr], mac: links::Mac) -> Result<(), StageError> {
    let step = "set up a namespace of its own";
    let index = if_nametoindex(INTERFACE).map_err(failed(step))?;
    links::bring_up(index).map_err(failed(step))?;
    let set = |address: &IpAddr, done: io::Result<()>| match done {
        // A kernel without IPv6: what goes over it is not testable.
        Err(_) if address.is_ipv6() => Ok(()),
        done => done.map_err(failed(step)),
    };
    for address in own {
        let prefix = if address.is_ipv4() { PREFIX } else { PREFIX_V6 };
        set(address, links::add_address(index, *address, prefix))?;
    }
    others.iter().try_for_each(|address| set(address, links::add_neighbour(index, *address, mac)))
}

/// A network namespace that nobody else knows.
#[derive(Debug)]
pub(super) struct Namespace(pub(super) File);

impl Namespace {
    fn new() -> Result<Self, StageError> {
        let make = || -> io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        };
        // On a thread of its own, which ends there: this one stays where it is.
        let made = thread::spawn(make).join().unwrap_or_else(|_| Err(io::Error::other("a thread ended")));
        made.map(Self).map_err(failed("make a network namespace"))
    }

    /// Does something inside.
    pub(super) fn enter<T: Send, E: Send + From<Outside>>(
        &self,
        body: impl FnOnce() -> Result<T, E> + Send,
    ) -> Result<T, E> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).map_err(|errno| E::from(Outside(errno.into())))?;
                body()
            });
            inside.join().unwrap_or_else(|_| Err(E::from(Outside(io::Error::other("a thread ended")))))
        })
    }
}

/// A namespace that could not be entered.
#[derive(Debug)]
pub(super) struct Outside(io::Error);

impl From<Outside> for StageError {
    fn from(outside: Outside) -> Self {
        failed("enter a namespace of its own")(outside.0)
    }
}

impl From<Outside> for io::Error {
    fn from(outside: Outside) -> Self {
        outside.0
    }
}

/// The host's end of the wire, beside the interfaces of the namespace in which this was started.
#[derive(Debug)]
struct Link(u32);

impl Link {
    fn new(name: &str, pod: &Namespace) -> Result<Self, StageError> {
        links::add_veth(name, FAR_MAC, &pod.0, INTERFACE, POD_MAC).map_err(failed("make a veth pair"))?;
        let link = Self(if_nametoindex(name).map_err(failed(FIND))?);
        links::without_addresses(link.0);
        links::bring_up(link.0).map_err(failed("bring up an interface of its own"))?;
        Ok(link)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // It would go with the pod's namespace as well, a moment later.
        let _ = links::remove(self.0);
    }
}

/// The cgroup of the attempts.
#[derive(Debug)]
pub(super) struct OwnCgroup {
    pub(super) path: PathBuf,
    pub(super) directory: File,
    pub(super) id: u64,
}

impl OwnCgroup {
    fn new(mount: &Path) -> Result<Self, StageError> {
        let step = "make a cgroup of its own";
        let path = path_in(mount);
        fs::create_dir(&path).map_err(failed(step))?;
        let directory = File::open(&path).map_err(failed(step))?;
        let id = directory.metadata().map_err(failed(step))?.ino();
        Ok(Self { path, directory, id })
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        // The next self-test tries again.
        let _ = destroy(self.directory.as_fd(), &self.path, Instant::now() + REMOVAL_LIMIT);
    }
}

/// The cgroup of this process's self-test: directly below the mount, where no workload can make one.
pub(crate) fn path_in(mount: &Path) -> PathBuf {
    mount.join(format!("{CGROUP}{}", std::process::id()))
}

/// Removes what self-tests left that were killed. One at a time runs in a process, so what has its number is nobody's.
pub(crate) fn sweep(mount: &Path) -> Result<(), StageError> {
    for entry in fs::read_dir(mount).map_err(failed("look for what an earlier self-test left"))?.flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(|name| name.strip_prefix(CGROUP)).is_some_and(is_left)
            && let Ok(directory) = File::open(entry.path())
        {
            let end = Instant::now() + REMOVAL_LIMIT;
            destroy(directory.as_fd(), &entry.path(), end)
                .map_err(|error| failed("remove what an earlier self-test left")(io::Error::other(error)))?;
        }
    }
    Ok(())
}

fn is_left(owner: &str) -> bool {
    owner
        .parse::<u32>()
        .is_ok_and(|pid| pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists())
}
