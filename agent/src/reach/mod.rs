//! What a workload has in reach by which its packets get past the programs that judge them: capabilities of its processes,
//! where it is in the host's network namespace, and RDMA devices. Looked for again and again on a thread of its own, and told.
//!
//! It looks at what workloads make of their own processes and file systems: what it reads is bounded, and one that makes it
//! wait keeps nobody but this thread waiting.
#![forbid(unsafe_code)]

pub mod capabilities;
mod process;
pub mod rdma;

use std::path::PathBuf;
use std::sync::mpsc;
use std::{io, thread};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

pub use capabilities::Capabilities;
pub use rdma::Rdma;

/// Where the kernel shows what is looked at.
#[derive(Clone, Debug)]
pub struct Roots {
    /// `/proc`.
    pub proc: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into() }
    }
}

/// What a workload has in reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// What its processes may do; `None` where it is not in the host's network namespace.
    pub capabilities: Option<Capabilities>,
    /// Its RDMA devices.
    pub rdma: Rdma,
}

impl Reach {
    /// Looks at the processes of a workload.
    #[must_use]
    pub fn of(processes: &[u32], host_network: bool, roots: &Roots) -> Self {
        Self {
            capabilities: host_network.then(|| Capabilities::of(processes, roots)),
            rdma: Rdma::of(processes, host_network, roots),
        }
    }
}

/// A workload to be looked at.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Id of its cgroup.
    pub cgroup: u64,
    /// The directory of its cgroup.
    pub directory: PathBuf,
    /// Is it in the host's network namespace?
    pub host_network: bool,
}

/// Workloads to be looked at.
#[derive(Debug)]
pub struct Look {
    /// Those.
    pub subjects: Vec<Subject>,
    /// Who waits until it is known what was found.
    pub asked: Option<oneshot::Sender<()>>,
}

/// What was found.
#[derive(Debug)]
pub struct Looked {
    /// By cgroup; a workload whose processes cannot be listed is not in it.
    pub found: Vec<(u64, Reach)>,
    /// As in [`Look`].
    pub asked: Option<oneshot::Sender<()>>,
}

/// A thread that looks. It ends with the last sender.
///
/// # Errors
/// When no thread can be started.
pub fn start() -> io::Result<(mpsc::Sender<Look>, UnboundedReceiver<Looked>)> {
    let (looks, asked) = mpsc::channel::<Look>();
    let (tells, told) = unbounded_channel();
    thread::Builder::new().name("reach".into()).spawn(move || work(&asked, &tells))?;
    Ok((looks, told))
}

fn work(asked: &mpsc::Receiver<Look>, tells: &UnboundedSender<Looked>) {
    let roots = Roots::default();
    for Look { subjects, asked } in asked {
        let look = |subject: Subject| {
            let processes = crate::workload::cgroup_tree::processes(&subject.directory).ok()?;
            Some((subject.cgroup, Reach::of(&processes, subject.host_network, &roots)))
        };
        let found = subjects.into_iter().filter_map(look).collect();
        if tells.send(Looked { found, asked }).is_err() {
            return;
        }
    }
}
