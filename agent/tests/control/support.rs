//! An agent whose reconciler only answers, and the program that asks it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use egress_warden::allowlist::Action;
use egress_warden::control::Server;
use egress_warden::enforce::dns::DnsTotals;
use egress_warden::enforce::snapshot::{
    Delays, GrantStatus, PolicyStatus, QuarantineStatus, Reload, RulesFrom, Tier, WorkloadStatus,
};
use egress_warden::enforce::totals::Older;
use egress_warden::enforce::{Handle, Refusal, Request, Snapshot};
use egress_warden::policy::Mode;
use egress_warden::quarantine::history::{Entry, What};
use egress_warden::records::Event;
use egress_warden::selftest::{Finding, LastSelftest, Report, SCHEMA, Verdict};
use egress_warden::workload::Pod;
use egress_warden_common::Reason;
use egress_warden_common::reason::Protocol;
use egress_warden_common::state::State;
use tempfile::TempDir;
use tokio::sync::{broadcast, oneshot};

/// Far more than anything here takes on a loaded machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// Events that wait for a client.
pub(crate) const WAITING: usize = 64;

/// What the reconciler was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Quarantine { workload: String, action: Action, who: String, why: String },
    Release { workload: String, who: String, why: String },
    Detach,
}

/// A running agent with its socket in a directory of its own.
pub(crate) struct Agent {
    pub(crate) directory: TempDir,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    pub(crate) events: broadcast::Sender<Arc<Event>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    pub(crate) fn start(snapshot: Snapshot) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let events = broadcast::channel(WAITING).0;
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let reconciler = Reconciler { snapshot, asked: Arc::clone(&asked), events: events.clone() };
        let thread = thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let (handle, requests) = Handle::new();
                let server = Server::bind(&path).expect("the socket");
                ready.send(()).expect("the test waits");
                let history = Arc::new(|| Ok(vec![past()]));
                tokio::select! {
                    () = server.serve(handle, history) => {}
                    () = reconciler.run(requests) => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().expect("the agent starts");
        Self { directory, asked, events, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    /// Ends it as an agent ends.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the agent ends");
        }
    }

    /// The program with these arguments, told where the socket is.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.arg("--socket").arg(self.socket());
        command
    }

    /// The same, to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("start the program")
    }

    /// A raw connection.
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("connect");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        stream
    }

    /// What is answered to these bytes.
    pub(crate) fn tell(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).expect("write");
        first_line(&stream)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Reconciler {
    snapshot: Snapshot,
    asked: Arc<Mutex<Vec<Asked>>>,
    events: broadcast::Sender<Arc<Event>>,
}

impl Reconciler {
    async fn run(self, mut requests: tokio::sync::mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            self.answer(request);
        }
    }

    fn answer(&self, request: Request) {
        let note = |asked| self.asked.lock().expect("no panic").push(asked);
        // Whoever asked may be gone.
        match request {
            Request::Snapshot(reply) => drop(reply.send(self.snapshot.clone())),
            Request::Quarantine { workload, action, who, why, reply } => {
                let refused = action == Action::Kill;
                note(Asked::Quarantine { workload, action, who, why });
                drop(reply.send(if refused { Err(Refusal("it cannot be killed".into())) } else { Ok(()) }));
            }
            Request::Release { workload, who, why, reply } => {
                note(Asked::Release { workload, who, why });
                drop(reply.send(Ok(())));
            }
            Request::Detach(reply) => {
                note(Asked::Detach);
                drop(reply.send(Ok(2)));
            }
            Request::Look(reply) => drop(reply.send(())),
            Request::Watch(reply) => drop(reply.send(self.events.subscribe())),
            Request::Selftest(reply) => drop(reply.send(Ok(selftest()))),
            // Asked by self-tests alone, which this one makes none of.
            Request::BeginTrial(..)
            | Request::TrialState(..)
            | Request::EndTrial(..)
            | Request::Tested(_) => {}
        }
    }
}

/// The built program, without this process's environment of sockets and users.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egress-warden"));
    command.args(arguments).stdin(Stdio::null());
    for key in ["EGRESS_WARDEN_SOCKET", "SUDO_USER", "LOGNAME"] {
        command.env_remove(key);
    }
    command
}

/// The next line, without its end; empty when there is none.
pub(crate) fn first_line(stream: &UnixStream) -> String {
    let mut line = String::new();
    let _ = BufReader::new(stream).read_line(&mut line);
    line.trim_end().to_owned()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits for something to become true.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Two hours, five minutes and a half ago: told as `2h05m` for half a minute to come.
fn then() -> SystemTime {
    SystemTime::now() - Duration::from_secs(2 * 3600 + 5 * 60 + 30)
}

/// A workload that nothing happened to.
pub(crate) fn workload(path: &Path) -> WorkloadStatus {
    WorkloadStatus {
        cgroup: 4711,
        path: path.to_owned(),
        pod: None,
        label: path.display().to_string(),
        policy: "training".into(),
        mode: Mode::Enforce,
        ruleset: 0xfeed_beef_0000_0001,
        tier: Tier::Cgroup,
        interfaces: None,
        host_network: false,
        reach: None,
        enforced_since: Some(then()),
        failure: None,
        quarantine: None,
        grants: Vec::new(),
        state: Box::new(State::EMPTY),
    }
}

/// A node with these workloads on which all is well.
pub(crate) fn node(workloads: Vec<WorkloadStatus>) -> Snapshot {
    Snapshot {
        workloads,
        gone: Vec::new(),
        policies: vec![PolicyStatus {
            name: "training".into(),
            mode: Mode::Enforce,
            ruleset: 0xfeed_beef_0000_0001,
            workloads: 3,
        }],
        node_violations: Vec::new(),
        quarantines: Vec::new(),
        older: Older::default(),
        would_quarantine: Vec::new(),
        enforcement_delay: Delays::default(),
        unenforced_seconds: 0.0,
        reload: Reload {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            outcome: Ok(()),
            source: RulesFrom::Files,
        },
        maps: Vec::new(),
        others: Vec::new(),
        records_lost: 0,
        dns: DnsTotals::default(),
        ready: Ok(()),
        selftest: LastSelftest::default(),
    }
}

/// A pod in quarantine, a job with violations, one that cannot be enforced and has an odd name.
pub(crate) fn busy_node() -> Snapshot {
    let mut pod = workload(Path::new("/kubepods/burstable/pod6f1b0c7e-0d4c-4a3e-9a55-0b6c2f0f7e11"));
    pod.label = "6f1b0c7e-0d4c-4a3e-9a55-0b6c2f0f7e11".into();
    pod.pod = Some(Pod {
        namespace: "ml".into(),
        name: "train-0".into(),
        uid: pod.label.clone(),
        labels: [("workload".to_owned(), "training".to_owned())].into(),
    });
    pod.quarantine = Some(QuarantineStatus {
        since: then(),
        action: Action::Isolate,
        who: "kernel".into(),
        why: "20 violations within 60 s".into(),
        until: None,
    });
    let mut job = workload(Path::new("/jobs/a"));
    job.mode = Mode::Audit;
    job.state.counts[Reason::NotAllowlisted as usize][Protocol::Tcp as usize] = 40;
    job.state.counts[Reason::Denied as usize][Protocol::Udp as usize] = 2;
    let mut odd = workload(Path::new("/jobs/od\u{1b}d"));
    odd.tier = Tier::Unenforced;
    odd.enforced_since = None;
    odd.failure = Some("an ancestor has an exclusive program".into());
    pod.grants = (1..=5u8)
        .map(|last| GrantStatus {
            address: [192, 0, 2, last].into(),
            name: (last < 5).then(|| "models.example".to_owned()),
            since: then(),
            until: then(),
        })
        .collect();
    let mut node = node(vec![job, odd, pod]);
    node.ready = Err("1 workload is not enforced".into());
    node.reload.outcome = Err("a.yaml:3:5: error: unknown key `cidr`\na.yaml:9:1: error: no `why`".into());
    node.reload.source = RulesFrom::LastGood;
    node
}

fn past() -> Entry {
    Entry {
        time: "2026-01-02T03:04:05Z".into(),
        workload: "/jobs/old".into(),
        path: "/jobs/old".into(),
        policy: "training".into(),
        what: What::Released,
        action: Action::Isolate,
        who: "ann, uid 0 (egress-warden)".into(),
        why: "was a test".into(),
        violations: 20,
    }
}

/// A self-test with one way of each kind.
fn selftest() -> Report {
    let way = |way: &str, verdict, why: Option<&str>| Finding {
        way: way.into(),
        means: format!("the way by {way}"),
        verdict,
        reason: "socket_type".into(),
        why: why.map(str::to_owned),
    };
    Report {
        schema: SCHEMA,
        passed: false,
        by_agent: true,
        kernel: "6.18.0".into(),
        at: "2026-01-02T03:04:05Z".into(),
        milliseconds: 400,
        ways: vec![
            way("tcp", Verdict::Closed, None),
            way("frame", Verdict::Open, Some("it arrived")),
            way("raw", Verdict::NotTestable, Some("no right")),
        ],
    }
}

/// A violation.
pub(crate) fn event(number: u32) -> Event {
    Event {
        time: "2026-01-02T03:04:05Z".into(),
        workload: "/jobs/a".into(),
        pid: Some(number),
        tgid: Some(number),
        comm: Some("cu\u{1b}rl".into()),
        src: None,
        dst: Some("10.0.0.9".parse().expect("an address")),
        port: Some(443),
        protocol: "tcp".into(),
        name: None,
        reason: "not_allowlisted".into(),
        rule: Some("a.yaml:7".into()),
        mode: "enforce".into(),
    }
}
