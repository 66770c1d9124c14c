//! Ending connections beside the reconciler: with many sockets it takes most of a second, in which a new workload would
//! wait for its enforcement.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::{io, thread};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::actions::Actions;
use super::{Quarantines, is_gone};
use crate::allowlist::Action;
use crate::kernel::diag::{Connection, DiagError, Ended, TCP, TCP_AND_UDP, end_connections_of};

/// Says whether a connection is to be ended.
pub type Judge = Box<dyn Fn(&Connection) -> bool + Send + Sync>;

/// Whose connections are to be ended, and which.
pub struct Cut {
    /// Counts the cuts of this agent: of two for one workload it is known which is done.
    pub number: u64,
    /// Id of the workload's cgroup.
    pub cgroup: u64,
    /// The directory of the cgroup.
    pub directory: OwnedFd,
    /// Connections of which protocols.
    pub protocols: &'static [u8],
    /// Which of them.
    pub judge: Judge,
    /// The workload was let go: what it still has is its own.
    pub called_off: Arc<AtomicBool>,
}

/// What came of it.
#[derive(Debug)]
pub struct Done {
    /// As in [`Cut`].
    pub number: u64,
    /// As in [`Cut`].
    pub cgroup: u64,
    /// What was ended, or why nothing was.
    pub result: Result<Ended, DiagError>,
}

/// Where it is told what came of each cut.
pub type Told = UnboundedReceiver<Done>;

/// A thread that ends connections, one workload after the other: each asks for every socket of a network namespace, and
/// two at once would only wait for each other. It ends with the last sender.
///
/// # Errors
/// When no thread can be started.
pub fn start() -> io::Result<(mpsc::Sender<Cut>, Told)> {
    let (cuts, asked) = mpsc::channel::<Cut>();
    let (tells, told) = unbounded_channel();
    thread::Builder::new().name("end-connections".into()).spawn(move || work(&asked, &tells))?;
    Ok((cuts, told))
}

fn work(asked: &mpsc::Receiver<Cut>, tells: &UnboundedSender<Done>) {
    for cut in asked {
        let Cut { number, cgroup, directory, protocols, judge, called_off } = cut;
        let called_off = || called_off.load(Ordering::Relaxed);
        let result = if called_off() {
            Ok(Ended::default())
        } else {
            end_connections_of(directory.as_fd(), protocols, |connection| !called_off() && judge(connection))
        };
        if tells.send(Done { number, cgroup, result }).is_err() {
            return;
        }
    }
}

/// Connections that are being ended.
#[derive(Debug)]
pub(super) struct UnderWay {
    cgroup: u64,
    workload: String,
    called_off: Arc<AtomicBool>,
    /// Does a quarantine wait for it?
    for_quarantine: bool,
}

impl<A: Actions> Quarantines<A> {
    /// Has connections ended.
    pub(super) fn cut(&mut self, cgroup: u64, directory: OwnedFd, judge: Judge) -> io::Result<u64> {
        let workload = self.lasting.get(&cgroup).map(|lasting| lasting.workload.clone()).unwrap_or_default();
        self.send(cgroup, workload, directory, (TCP, judge), true)
    }

    /// Has connections ended that are older than the enforcement of their workload, which is in no quarantine. What came of
    /// it is told to [`Quarantines::ended`].
    ///
    /// # Errors
    /// When nobody is there to do it.
    pub fn cut_older(
        &mut self,
        cgroup: u64,
        workload: String,
        directory: OwnedFd,
        judge: Judge,
    ) -> io::Result<u64> {
        self.send(cgroup, workload, directory, (TCP_AND_UDP, judge), false)
    }

    fn send(
        &mut self,
        cgroup: u64,
        workload: String,
        directory: OwnedFd,
        (protocols, judge): (&'static [u8], Judge),
        for_quarantine: bool,
    ) -> io::Result<u64> {
        let number = self.next_cut;
        let called_off = Arc::new(AtomicBool::new(false));
        let cut = Cut { number, cgroup, directory, protocols, judge, called_off: Arc::clone(&called_off) };
        self.actions.end_connections(cut)?;
        self.next_cut += 1;
        self.cuts.insert(number, UnderWay { cgroup, workload, called_off, for_quarantine });
        Ok(number)
    }

    /// Connections were ended, or not. Returns what did not work, in words.
    pub fn ended(&mut self, done: Done) -> Vec<String> {
        let mut problems = Vec::new();
        let Some(cut) = self.cuts.remove(&done.number) else { return problems };
        let ended = match done.result {
            Ok(ended) => ended,
            // It ended by itself, with its connections.
            Err(DiagError::Cgroups(error)) if is_gone(&error) => Ended::default(),
            Err(error) => Ended { problems: vec![error], ..Ended::default() },
        };
        if ended.ended > 0 {
            tracing::info!(workload = cut.workload, connections = ended.ended, "connections were ended");
        }
        if !cut.for_quarantine {
            return ended.problems.iter().map(ToString::to_string).collect();
        }
        let action = self.lasting.get(&cut.cgroup).map(|lasting| lasting.action);
        // Let go meanwhile, or something else is to be done with it by now: then this is not what is waited for.
        let is_awaited = action == Some(Action::Isolate) && !cut.called_off.load(Ordering::Relaxed);
        if !is_awaited {
            return problems;
        }
        if ended.problems.is_empty() {
            if self.cuts.values().all(|other| other.cgroup != cut.cgroup || !other.for_quarantine) {
                self.done(cut.cgroup, &mut problems);
            }
            return problems;
        }
        let told: Vec<String> = ended.problems.iter().map(ToString::to_string).collect();
        self.failed(cut.cgroup, Action::Isolate, &told.join("; "), &mut problems);
        problems
    }

    /// Are connections being ended?
    #[must_use]
    pub fn is_cutting(&self) -> bool {
        !self.cuts.is_empty()
    }

    /// The workload keeps what it still has.
    pub fn call_off(&self, cgroup: u64) {
        for cut in self.cuts.values().filter(|cut| cut.cgroup == cgroup) {
            cut.called_off.store(true, Ordering::Relaxed);
        }
    }
}
