//! `run`: joins the parts of the agent, and is the one place where something happens by itself.
//!
//! One thread, one loop: the reconciler is called from here only, so that whatever changes the kernel's side is in one
//! order.
#![forbid(unsafe_code)]

mod allowlists;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::Config;
use crate::enforce::reconciler::Reconciler;
use crate::enforce::saved::Saved;
use crate::enforce::{Handle, Request};
use crate::kernel::clock::{ClockWatch, boot_ns, wall_clock};
use crate::kernel::node::NodeError;
use crate::kernel::{Node, NodeOptions, readable};
use crate::quarantine::Quarantines;
use crate::quarantine::actions::Kernel;
use crate::quarantine::cut::{self, Told};
use crate::quarantine::history::History;
use crate::quarantine::state::boot_id;
use crate::reach::{self, Looked};
use crate::records::Event;
use crate::records::audit_log::AuditLog;
use crate::selftest::agent::Runner;
use crate::workload::cgroups::{CgroupSource, Hint};
use crate::workload::mount::CgroupMount;
use crate::workload::network::Networks;
use crate::workload::pattern::Selection;
use crate::{control, http, selftest};
use allowlists::Allowlists;

/// How often the agent looks for what no event tells: quarantines whose record was lost, workloads to try again.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How late a quarantine may end.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);
/// For how long the agent's end waits for connections that are being ended; the next agent does what is left.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Changes that may wait for the reconciler; a source that is faster waits.
const CHANGES: usize = 1024;
/// Events that a slow watcher may be behind.
const WATCHED: usize = 1024;

/// Runs the agent until it is told to end. Enforcement stays in the kernel.
pub fn run(config: Config) -> Result<()> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config))
}

/// A workload takes a descriptor or two, and the limit that a process is given by default is meant for `select(2)`.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "the limit of open files stays as it is");
    }
}

async fn serve(config: Config) -> Result<()> {
    let mount = CgroupMount::find(config.cgroup_root.as_deref())?;
    let saved = Saved::open(&config.state_dir)
        .with_context(|| format!("state directory {}", config.state_dir.display()))?;
    let pins =
        (config.pin_directory.parent(), config.pin_directory.file_name().and_then(|name| name.to_str()));
    let (Some(bpffs), Some(directory)) = pins else {
        bail!("pin_directory: {}: name a directory in a bpffs", config.pin_directory.display());
    };
    let options = NodeOptions {
        bpffs: bpffs.to_owned(),
        directory: directory.to_owned(),
        log: config.kernel_log,
        ..NodeOptions::default()
    };
    if let Err(error) = selftest::stage::sweep(mount.point()) {
        warn!(%error, "what an earlier self-test left stays");
    }
    let (node, adopted) = Node::open(&options)?;
    info!(workloads = adopted.len(), "took over what is enforced");
    let (cuts, cut) = cut::start().context("cannot start a thread")?;
    let actions = Kernel { mount: mount.point().to_owned(), cuts };
    let quarantines = Quarantines::open(&config.state_dir, boot_id()?, actions);
    let listener = TcpListener::bind(config.metrics_listen)
        .await
        .with_context(|| format!("metrics.listen {}", config.metrics_listen))?;
    let (looks, looked) = reach::start().context("cannot start a thread")?;
    let (handle, requests) = Handle::new();
    let control = control::Server::bind(&config.control_socket)?;
    let state_dir = config.state_dir.clone();
    let history = Arc::new(move || History::open(&state_dir)?.newest(usize::MAX));
    let reconciler = Reconciler::new(
        node,
        &adopted,
        mount.point().to_owned(),
        quarantines,
        saved,
        looks,
        config.load_balancer,
    );
    let (selected, selection) = watch::channel(Selection::default());
    let (changes, changed) = mpsc::channel(CHANGES);
    let (hints, hinted) = mpsc::channel(CHANGES);
    let runner = Runner::new(handle.clone(), mount.point().to_owned());
    let mut agent = Agent::new(reconciler, &config, &mount, selected, hints, cut, runner.clone())?;
    agent.allowlists.start(&mut agent.reconciler, &agent.selected);
    let hinted = agent.cgroups.is_some().then_some(hinted);
    let (found, heard) = mpsc::channel(CHANGES);
    let mut sources = JoinSet::new();
    sources.spawn(CgroupSource::new(mount.clone(), selection, found).run(hinted));
    sources.spawn(Networks::new(mount, changes)?.run(heard));
    tokio::spawn(http::serve(listener, handle.clone()));
    if let Some(every) = config.selftest_every {
        tokio::spawn(runner.schedule(every));
    }
    tokio::select! {
        ended = agent.run(requests, changed, looked) => ended?,
        () = control.serve(handle, history) => {}
        // Without a source no new workload would be enforced: whoever starts the agent again gets a working one.
        ended = sources.join_next() => match ended {
            Some(Ok(Err(error))) => return Err(error).context("workloads cannot be found any more"),
            _ => bail!("workloads are not looked for any more"),
        },
    }
    info!("ended; enforcement stays in the kernel");
    Ok(())
}

/// The loop and what it waits for.
struct Agent {
    reconciler: Reconciler,
    allowlists: Allowlists,
    selected: watch::Sender<Selection>,
    records: AsyncFd<OwnedFd>,
    /// Told by the kernel's tracepoints, where it lets us listen.
    cgroups: Option<AsyncFd<OwnedFd>>,
    hints: mpsc::Sender<Hint>,
    /// What came of ending connections.
    cut: Told,
    clock: ClockWatch,
    clock_changed: AsyncFd<OwnedFd>,
    log: Option<AsyncFd<OwnedFd>>,
    hints_lost: u64,
    audit_log: Option<AuditLog>,
    watchers: broadcast::Sender<Arc<Event>>,
    selftests: Runner,
}

impl Agent {
    fn new(
        mut reconciler: Reconciler,
        config: &Config,
        mount: &CgroupMount,
        selected: watch::Sender<Selection>,
        hints: mpsc::Sender<Hint>,
        cut: Told,
        selftests: Runner,
    ) -> Result<Self> {
        let node = reconciler.node();
        node.set_clock(wall_clock()?)?;
        let records = readable(node.records_fd())?;
        let cgroups = node.watch_fd().filter(|_| mount.understands_names()).map(readable).transpose()?;
        if !mount.understands_names() {
            warn!(
                mount = %mount.point().display(),
                "in this cgroup namespace the tracepoints' names of cgroups lead nowhere; inotify tells of new ones, a \
                 little later"
            );
        } else if cgroups.is_none() {
            warn!("the kernel does not tell of new cgroups by tracepoints; inotify does, a little later");
        }
        let log = node.log_fd().map(readable).transpose()?;
        let hints_lost = node.cgroup_events_lost();
        let clock = ClockWatch::new()?;
        let audit_log = config
            .audit_log
            .as_deref()
            .map(|path| AuditLog::open(path).with_context(|| format!("audit_log {}", path.display())));
        Ok(Self {
            reconciler,
            allowlists: Allowlists::new(config)?,
            selected,
            records,
            cgroups,
            hints,
            cut,
            clock_changed: readable(&clock)?,
            clock,
            log,
            hints_lost,
            audit_log: audit_log.transpose()?,
            watchers: broadcast::channel(WATCHED).0,
            selftests,
        })
    }

    async fn run(
        &mut self,
        mut requests: mpsc::Receiver<Request>,
        mut changed: mpsc::Receiver<crate::workload::Change>,
        mut looked: mpsc::UnboundedReceiver<Looked>,
    ) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                // In this order: a workload that appeared is enforced before anything else is answered.
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                ready = ready(self.cgroups.as_ref()) => { ready?; self.pass_hints() }
                Some(change) = changed.recv() => self.reconciler.change(change),
                ready = self.records.readable() => { ready?.clear_ready(); self.pass_records() }
                ready = self.clock_changed.readable() => { ready?.clear_ready(); self.set_clock() }
                ready = ready(self.log.as_ref()) => { ready?; self.reconciler.node().flush_log() }
                Some(done) = self.cut.recv() => self.reconciler.connections_ended(done),
                Some(looked) = looked.recv() => self.reconciler.looked(looked),
                Some(request) = requests.recv() => self.answer(request),
                _ = hangup.recv() => self.allowlists.reload(&mut self.reconciler, &self.selected),
                () = self.allowlists.changed() => self.allowlists.reload(&mut self.reconciler, &self.selected),
                () = until(self.reconciler.next_release()) => self.reconciler.tick(),
                _ = tick.tick() => self.reconciler.tick(),
            }
        }
        self.finish_cuts().await;
        self.reconciler.save();
        Ok(())
    }

    async fn finish_cuts(&mut self) {
        let all = async {
            while self.reconciler.is_ending_connections()
                && let Some(done) = self.cut.recv().await
            {
                self.reconciler.connections_ended(done);
            }
        };
        if timeout(END_WITHIN, all).await.is_err() {
            warn!(
                "connections of workloads in quarantine are still being ended; the next agent goes on with it"
            );
        }
    }

    fn pass_hints(&mut self) {
        let hints = &self.hints;
        let mut missed = false;
        let node = self.reconciler.node();
        node.drain_cgroup_events(|event| missed |= hints.try_send(Hint::from(event)).is_err());
        let lost = node.cgroup_events_lost();
        if missed || lost != self.hints_lost {
            self.hints_lost = lost;
            // The source did not hear of all: it looks at everything once it has dealt with what it heard.
            self.selected.send_modify(|_| ());
        }
    }

    fn pass_records(&mut self) {
        let offset = wall_clock().map_or(0, |clock| clock.offset);
        let (events, crossed) = self.reconciler.records(offset);
        for cgroup in crossed {
            self.reconciler.follow_up(cgroup);
        }
        for event in events {
            if let Some(log) = &mut self.audit_log {
                log.write(&event);
            }
            // Nobody watching is no error.
            let _ = self.watchers.send(Arc::new(event));
        }
    }

    fn set_clock(&mut self) {
        if !self.clock.fired() {
            return;
        }
        let told = wall_clock().map_err(NodeError::from);
        if let Err(error) = told.and_then(|clock| self.reconciler.node().set_clock(clock)) {
            warn!(%error, "the programs keep the time that they were told last");
        }
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::Snapshot(reply) => drop(reply.send(self.reconciler.snapshot())),
            Request::Quarantine { workload, action, who, why, reply } => {
                self.reconciler.quarantine_by_hand(workload, action, &who, &why, reply);
            }
            Request::Release { workload, who, why, reply } => {
                drop(reply.send(self.reconciler.release_by_hand(&workload, &who, &why)));
            }
            Request::Detach(reply) => drop(reply.send(self.reconciler.detach())),
            Request::Look(reply) => self.reconciler.look(Some(reply)),
            Request::Watch(reply) => drop(reply.send(self.watchers.subscribe())),
            Request::Selftest(reply) => {
                let selftests = self.selftests.clone();
                // Beside the loop, which has to answer it; and to its end, whether the asker waits or not.
                tokio::spawn(async move { drop(reply.send(selftests.run().await)) });
            }
            Request::BeginTrial(trial, reply) => drop(reply.try_send(self.reconciler.begin_trial(&trial))),
            Request::TrialState(cgroup, reply) => drop(reply.try_send(self.reconciler.trial_state(cgroup))),
            Request::EndTrial(cgroup, reply) => drop(reply.try_send(self.reconciler.end_trial(cgroup))),
            Request::Tested(result) => self.reconciler.tested(&result),
        }
    }
}

/// Waits until this boot time in nanoseconds, or for ever.
async fn until(time: Option<u64>) {
    match (time, boot_ns()) {
        (Some(time), Ok(now)) => {
            // Never at once: a release that fails stays due.
            let left = Duration::from_nanos(time.saturating_sub(now)).max(SHORTEST_WAIT);
            tokio::time::sleep(left).await;
        }
        _ => std::future::pending().await,
    }
}

/// Waits for ever where there is nothing to wait for.
async fn ready(fd: Option<&AsyncFd<OwnedFd>>) -> std::io::Result<()> {
    match fd {
        Some(fd) => {
            fd.readable().await?.clear_ready();
            Ok(())
        }
        None => std::future::pending().await,
    }
}
