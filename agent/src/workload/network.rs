//! The network of each workload: which namespace is its own, and which addresses and uplinks are in it.
//!
//! A cgroup is made before anything runs in it, so its namespace cannot be known from the start; the kernel tells when the
//! first process is there (`cgroup.events`), and rtnetlink when an address or interface comes or goes.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::cgroup_tree::processes;
use super::mount::CgroupMount;
use super::{Change, Workload};
use crate::kernel::{OwnNamespace, readable};

/// A container's runtime puts its first process into the cgroup and only then into the pod's namespace: while a workload
/// is in the host's, it is looked at again after these times.
const LOOK_AGAIN: [Duration; 5] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
];
/// Stands for inotify among the numbers of cgroups, none of which is 0.
const INOTIFY: u64 = 0;
/// Stands for the agent's own network namespace among the numbers of cgroups, none of which is that large.
const OWN: u64 = u64::MAX;

/// Passes changes on, and adds what is found out of each workload's network.
#[derive(Debug)]
pub struct Networks {
    mount: CgroupMount,
    known: HashMap<u64, Known>,
    /// It was told that networks cannot be examined.
    denied: bool,
    populated: HashMap<WatchDescriptor, u64>,
    inotify: Inotify,
    /// One descriptor for all sockets, so that one wait serves them.
    epoll: Epoll,
    /// Readable when something in the agent's own namespace changes.
    own: OwnedFd,
    readable: AsyncFd<OwnedFd>,
    changes: mpsc::Sender<Change>,
}

#[derive(Debug)]
struct Known {
    workload: Workload,
    watch: Option<WatchDescriptor>,
    namespace: Option<OwnNamespace>,
    /// Readable when something in the namespace changes.
    socket: Option<OwnedFd>,
    /// When to look again, and how often that was done.
    again: Option<(Instant, usize)>,
}

impl Networks {
    /// Something that tells `changes` what it hears and what it finds out.
    pub fn new(mount: CgroupMount, changes: mpsc::Sender<Change>) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&inotify, EpollEvent::new(EpollFlags::EPOLLIN, INOTIFY))?;
        let own = OwnNamespace::changes_of_caller().map_err(io::Error::other)?;
        epoll.add(&own, EpollEvent::new(EpollFlags::EPOLLIN, OWN))?;
        let readable = readable(&epoll.0)?;
        Ok(Self {
            mount,
            known: HashMap::new(),
            denied: false,
            populated: HashMap::new(),
            inotify,
            epoll,
            own,
            readable,
            changes,
        })
    }

    /// Runs until nobody tells anything any more.
    pub async fn run(mut self, mut heard: mpsc::Receiver<Change>) -> io::Result<()> {
        self.tell_own().await;
        loop {
            let next = self.known.values().filter_map(|known| known.again.map(|(at, _)| at)).min();
            tokio::select! {
                biased;
                change = heard.recv() => {
                    let Some(change) = change else { return Ok(()) };
                    self.hear(change).await;
                }
                ready = self.readable.readable() => {
                    ready?.clear_ready();
                    self.events().await?;
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.look_again().await,
            }
        }
    }

    async fn hear(&mut self, change: Change) {
        match &change {
            Change::All(workloads) => {
                let there: Vec<u64> = workloads.iter().map(|workload| workload.cgroup).collect();
                self.known.retain(|cgroup, _| there.contains(cgroup));
                let workloads = workloads.clone();
                self.tell(change).await;
                for workload in workloads {
                    self.begin(workload).await;
                }
            }
            Change::Appeared { workload, .. } => {
                let workload = workload.clone();
                // Enforced first; its network can wait for that.
                self.tell(change).await;
                self.begin(workload).await;
            }
            Change::Gone { cgroup } => {
                if let Some(watch) = self.known.remove(cgroup).and_then(|known| known.watch) {
                    self.populated.remove(&watch);
                }
                self.tell(change).await;
            }
            Change::Network { .. } | Change::Node { .. } | Change::Unseen { .. } => self.tell(change).await,
        }
    }

    async fn tell_own(&self) {
        match OwnNamespace::addresses_of_caller() {
            Ok(addresses) => self.tell(Change::Node { addresses }).await,
            Err(error) => warn!(%error, "the node's addresses are not known: in quarantine its probes fail"),
        }
    }

    async fn tell(&self, change: Change) {
        // Nobody listens when the agent ends.
        let _ = self.changes.send(change).await;
    }

    async fn begin(&mut self, workload: Workload) {
        let cgroup = workload.cgroup;
        if let Some(known) = self.known.get(&cgroup) {
            if let Some(namespace) = known.namespace.clone() {
                self.tell(Change::Network { cgroup, namespace }).await;
            }
            return;
        }
        let events = self.mount.directory(&workload.path).join("cgroup.events");
        let watch = self.inotify.add_watch(&events, AddWatchFlags::IN_MODIFY);
        let watch = watch
            .inspect_err(|error| debug!(%error, cgroup, "its first process is not told: it is looked for"))
            .ok();
        if let Some(watch) = watch {
            self.populated.insert(watch, cgroup);
        }
        self.known.insert(cgroup, Known { workload, watch, namespace: None, socket: None, again: None });
        self.look(cgroup, 0).await;
    }

    /// Finds out the network of a workload. Once it has a namespace of its own, it keeps that one for life.
    async fn look(&mut self, cgroup: u64, tried: usize) {
        let Some(known) = self.known.get_mut(&cgroup) else { return };
        known.again = None;
        let directory = self.mount.directory(&known.workload.path);
        let Ok(running) = processes(&directory) else { return };
        let mut denied = None;
        let found = running.iter().filter_map(|pid| match OwnNamespace::of_process(*pid) {
            Ok(namespace) => Some((*pid, namespace?)),
            Err(error) => {
                denied = denied.take().or(error.is_denied().then_some(error));
                None
            }
        });
        let mut host = None;
        let mut own = None;
        for (pid, namespace) in found {
            let wanted =
                known.namespace.as_ref().filter(|before| !before.is_host).map(|before| before.cookie);
            if namespace.is_host {
                host.get_or_insert((pid, namespace));
            } else if wanted.is_none_or(|wanted| wanted == namespace.cookie) {
                own = Some((pid, namespace));
                break;
            }
        }
        if let Some(error) = denied.filter(|_| !self.denied) {
            self.denied = true;
            warn!(%error, "networks cannot be examined (CAP_SYS_PTRACE?): loopback and replies of workloads stay refused");
        }
        let is_settled = own.is_some() || known.namespace.as_ref().is_some_and(|before| !before.is_host);
        // Also where nothing was found: the first process may have ended while it was examined.
        // Where nobody tells that something runs, it is looked for as long as it takes.
        let last = LOOK_AGAIN.len() - 1;
        let tried = if known.watch.is_none() { tried.min(last) } else { tried };
        if !is_settled
            && (known.watch.is_none() || !running.is_empty())
            && let Some(after) = LOOK_AGAIN.get(tried)
        {
            known.again = Some((Instant::now() + *after, tried + 1));
        }
        let Some((pid, namespace)) = own.or(if is_settled { None } else { host }) else { return };
        let other = known.namespace.as_ref().is_none_or(|before| before.cookie != namespace.cookie);
        if other {
            known.socket = OwnNamespace::changes_of(pid).ok();
            if let Some(socket) = &known.socket {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, cgroup);
                if let Err(error) = self.epoll.add(socket, event) {
                    debug!(%error, "changes of its addresses are not told");
                }
            }
        }
        if known.namespace.as_ref() != Some(&namespace) {
            known.namespace = Some(namespace.clone());
            self.tell(Change::Network { cgroup, namespace }).await;
        }
    }

    async fn look_again(&mut self) {
        let now = Instant::now();
        let due: Vec<(u64, usize)> = self
            .known
            .iter()
            .filter_map(|(cgroup, known)| {
                known.again.filter(|(at, _)| *at <= now).map(|(_, tried)| (*cgroup, tried))
            })
            .collect();
        for (cgroup, tried) in due {
            self.look(cgroup, tried).await;
        }
    }

    async fn events(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        for event in &events[..count] {
            match event.data() {
                INOTIFY => self.populations().await,
                OWN => {
                    drain(self.own.as_fd());
                    self.tell_own().await;
                }
                cgroup => {
                    if let Some(socket) = self.known.get(&cgroup).and_then(|known| known.socket.as_ref()) {
                        drain(socket.as_fd());
                    }
                    // Those looks that are still to come are not called off by it.
                    let again = self.known.get(&cgroup).and_then(|known| known.again);
                    self.look(cgroup, again.map_or(LOOK_AGAIN.len(), |(_, tried)| tried - 1)).await;
                }
            }
        }
        Ok(())
    }

    async fn populations(&mut self) {
        let Ok(events) = self.inotify.read_events() else { return };
        if events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)) {
            let unsettled = self.known.iter().filter(|(_, known)| known.namespace.is_none());
            let unsettled: Vec<u64> = unsettled.map(|(cgroup, _)| *cgroup).collect();
            for cgroup in unsettled {
                self.look(cgroup, 0).await;
            }
        }
        for event in events {
            let Some(cgroup) = self.populated.get(&event.wd).copied() else { continue };
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                self.populated.remove(&event.wd);
                continue;
            }
            let settled = self.known.get(&cgroup).is_some_and(|known| known.namespace.is_some());
            if !settled {
                self.look(cgroup, 0).await;
            }
        }
    }
}

/// What the messages say is looked up anew; how many there are does not matter.
fn drain(socket: BorrowedFd<'_>) {
    let mut buffer = [0; 4096];
    while recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok_and(|length| length > 0) {}
}
