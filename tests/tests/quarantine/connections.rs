//! `isolate`: a job hears at once that its connections are of no more use.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use egress_warden::allowlist::{self, Action};
use egress_warden::kernel::clock::HostClock;
use egress_warden::kernel::diag::end_connections;
use egress_warden::kernel::{Enforcer, OwnNamespace, Preparation, Sizes};
use egress_warden::quarantine::refused_in_quarantine;
use egress_warden::ruleset::{Compiled, compile};
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Namespace, TestCgroup, World};

use crate::{Agent, Case};

/// What must have been told by then.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(1);
/// A read that is going to return returns within this.
const MOMENT: Duration = Duration::from_millis(300);

pub(crate) const ALLOWLISTS: &str = r#"
apiVersion: egress-warden.dev/v1
kind: Destinations
metadata: {name: open}
spec:
  to:
    - {cidrs: [10.77.2.2/32, "fd77:2::2/128"], ports: [80], why: services}
---
apiVersion: egress-warden.dev/v1
kind: Destinations
metadata: {name: kept}
spec:
  to:
    - {cidrs: [10.77.3.2/32, "fd77:3::2/128"], ports: [80], why: where logs go}
---
apiVersion: egress-warden.dev/v1
kind: EgressPolicy
metadata: {name: test}
spec:
  select: {all: true}
  mode: enforce
  allow: [open, kept]
  quarantine: {violations: 1, within: 60s, keep: [kept]}
"#;

fn compiled() -> Result<Compiled> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("test.yaml");
    fs::write(&file, ALLOWLISTS)?;
    let set = allowlist::load(&[file]).map_err(|errors| anyhow!("{errors:?}"))?;
    Ok(compile(&set.policy("test").context("no policy `test`")?)?)
}

fn enforce(compiled: &Compiled, cgroup: &TestCgroup, namespace: &Namespace) -> Result<Enforcer> {
    let sizes = Sizes {
        words: compiled.words.len().try_into()?,
        workloads: 1,
        refused_destinations: 64,
        names: false,
    };
    let mut enforcer = Enforcer::load(Preparation::begin(), sizes, false)?;
    enforcer.write_words(0, &compiled.words)?;
    // The thread is inside, the process is not: what it finds out of the host's is not meant.
    let own = OwnNamespace { is_host: false, ..namespace.enter(OwnNamespace::of_caller)? };
    enforcer.bind(0, cgroup.id()?, 0, 1, &own)?;
    enforcer.attach(File::open(cgroup.path())?.as_fd(), cgroup.path())?;
    Ok(enforcer)
}

/// Accepts connections and sends back what comes, as long as the process lives.
pub(crate) fn echo_server(namespace: &Namespace, at: SocketAddr) -> Result<()> {
    let listener = namespace.enter(|| TcpListener::bind(at))?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
            });
        }
    });
    Ok(())
}

const PROGRAM: &str = r#"
import errno, os, socket, sys, threading
sockets = {}
def say(*words):
    # One write a line: threads share the pipe.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())
def connect(name, address, port):
    sockets[name] = socket.create_connection((address, port), 5)
    sockets[name].settimeout(None)
    return echo(name)
def listen(name, address):
    sockets[name] = socket.create_server((address, 0))
    return sockets[name].getsockname()[1]
def accept(name, listener):
    sockets[name] = sockets[listener].accept()[0]
def block(name):
    def read():
        try:
            told = "data" if sockets[name].recv(1) else "end"
        except OSError as error:
            told = errno.errorcode[error.errno]
        say("read", name, told)
    threading.Thread(target=read, daemon=True).start()
def echo(name):
    sockets[name].settimeout(5)
    sockets[name].send(b"x")
    told = sockets[name].recv(1) == b"x"
    sockets[name].settimeout(None)
    return told
def refused(address, port):
    try:
        socket.create_connection((address, port), 5)
    except OSError as error:
        return errno.errorcode[error.errno]
for line in sys.stdin:
    say("value", eval(line))
"#;

/// A job that does what it is told.
pub(crate) struct Job {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Reads that returned, with what they were told, and when.
    pub(crate) reads: Vec<(String, String, Instant)>,
}

impl Job {
    pub(crate) fn start(cgroup: &TestCgroup, below: &str, namespace: &Namespace) -> Result<Job> {
        let mut command = namespace.command("python3");
        command.args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = cgroup.spawn(command)?;
        let input = child.stdin.take().context("a pipe")?;
        let output = BufReader::new(child.stdout.take().context("a pipe")?);
        let (sender, lines) = channel();
        thread::spawn(move || output.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        let procs = cgroup.path().join(below).join("cgroup.procs");
        fs::write(procs, child.id().to_string())?;
        Ok(Job { child, input, lines, reads: Vec::new() })
    }

    /// Tells it what to do without waiting for the answer.
    pub(crate) fn send(&mut self, expression: &str) -> Result<()> {
        Ok(writeln!(self.input, "{expression}")?)
    }

    pub(crate) fn tell(&mut self, expression: &str) -> Result<String> {
        self.send(expression)?;
        let end = Instant::now() + DEADLINE;
        loop {
            let line = self.line(end)?.with_context(|| format!("no answer to `{expression}`"))?;
            if let Some(value) = line.strip_prefix("value ") {
                return Ok(value.to_owned());
            }
        }
    }

    fn line(&mut self, end: Instant) -> Result<Option<String>> {
        let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) else {
            return Ok(None);
        };
        if let Some(read) = line.strip_prefix("read ") {
            let (name, told) = read.split_once(' ').context("read NAME TOLD")?;
            self.reads.push((name.to_owned(), told.to_owned(), Instant::now()));
        }
        Ok(Some(line))
    }

    pub(crate) fn connect(&mut self, name: &str, to: SocketAddr) -> Result<()> {
        let told = self.tell(&format!("connect('{name}', '{}', {})", to.ip(), to.port()))?;
        ensure!(told == "True", "{name}: {told}");
        Ok(())
    }

    pub(crate) fn block(&mut self, names: &[&str]) -> Result<()> {
        names.iter().try_for_each(|name| self.tell(&format!("block('{name}')")).map(drop))
    }

    /// Waits for so many reads to return, or for the time to pass.
    pub(crate) fn wait_for_reads(&mut self, count: usize, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while self.reads.len() < count && self.line(end)?.is_some() {}
        Ok(())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_quarantined_job_hears_it_at_once_and_nobody_else_does() -> Result<()> {
    let world = World::new(&["job", "outside", "kept", "second"])?;
    let (near, outside, kept) = (world.host("job"), world.host("outside"), world.host("kept"));
    for host in [outside, kept] {
        echo_server(host, host.at(80))?;
        echo_server(host, host.at_v6(80))?;
    }
    let (cgroup, other) = (TestCgroup::new()?, TestCgroup::new()?);
    fs::create_dir_all(cgroup.path().join("a/b"))?;
    let compiled = compiled()?;
    let enforcer = enforce(&compiled, &cgroup, near)?;

    let mut job = Job::start(&cgroup, "", near)?;
    job.connect("v4", outside.at(80))?;
    job.connect("v6", outside.at_v6(80))?;
    job.connect("mapped", SocketAddr::new(outside.v4.to_ipv6_mapped().into(), 80))?;
    job.connect("kept-v4", kept.at(80))?;
    job.connect("kept-v6", kept.at_v6(80))?;
    let port = job.tell("listen('listener', '0.0.0.0')")?.parse()?;
    let caller = outside.enter(|| std::net::TcpStream::connect(near.at(port)))?;
    job.tell("accept('inbound', 'listener')")?;
    let loopback: SocketAddr = ([127, 0, 0, 1], 81).into();
    echo_server(near, loopback)?;
    echo_server(near, near.at(81))?;
    job.connect("loopback", loopback)?;
    job.connect("own-address", near.at(81))?;
    let mut below = Job::start(&cgroup, "a/b", near)?;
    below.connect("below", outside.at(80))?;
    let mut elsewhere = Job::start(&cgroup, "", world.host("second"))?;
    elsewhere.connect("elsewhere", outside.at(80))?;
    let mut neighbour = Job::start(&other, "", near)?;
    neighbour.connect("neighbour", outside.at(80))?;

    let useless = ["v4", "v6", "mapped", "inbound"];
    job.block(&useless)?;
    below.block(&["below"])?;
    elsewhere.block(&["elsewhere"])?;
    assert_eq!(job.tell("refused('10.77.2.9', 80)")?, "EPERM");
    let quarantined_at = enforcer.state(0)?.quarantined_at;
    assert_ne!(quarantined_at, 0);
    // Without the agent they hang.
    job.wait_for_reads(1, MOMENT)?;
    assert_eq!(job.reads.len(), 0, "{:?}", job.reads);

    let (state, begun) = (tempfile::tempdir()?, Instant::now());
    let judge = || refused_in_quarantine(compiled.words.clone(), HostClock, false, Vec::new());
    let case = Case { cgroup: &cgroup, action: Action::Isolate, quarantined_at, release: None };
    assert_eq!(case.begin(&mut Agent::new(&state)?, Box::new(judge()))?, Vec::<String>::new());
    job.wait_for_reads(useless.len(), AT_ONCE)?;
    below.wait_for_reads(1, AT_ONCE)?;
    elsewhere.wait_for_reads(1, AT_ONCE)?;
    let reads: Vec<_> = [&job, &below, &elsewhere].into_iter().flat_map(|job| &job.reads).collect();
    assert_eq!(reads.len(), useless.len() + 2, "{reads:?}");
    for (name, told, at) in reads {
        assert!(matches!(told.as_str(), "ECONNABORTED" | "ECONNRESET"), "{name}: {told}");
        assert!(*at - begun < AT_ONCE, "{name}: {:?}", *at - begun);
    }
    for name in ["kept-v4", "kept-v6", "loopback", "own-address"] {
        assert_eq!(job.tell(&format!("echo('{name}')"))?, "True", "{name}");
    }
    assert_eq!(neighbour.tell("echo('neighbour')")?, "True");
    drop(caller);

    // A second time there is nothing left to end.
    let again = end_connections(File::open(cgroup.path())?.as_fd(), judge())?;
    assert_eq!((again.ended, again.failed, again.problems.len()), (0, 0, 0));
    assert!(again.kept >= 4, "{again:?}");
    Ok(())
}

#[test]
fn a_connection_that_is_being_made_is_ended_too() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (near, outside) = (world.host("job"), world.host("outside"));
    // Nobody answers: the connection stays half-made.
    outside.run(["ip", "addr", "flush", "dev", "eth0"])?;
    let cgroup = TestCgroup::new()?;
    let mut job = Job::start(&cgroup, "", near)?;
    job.tell("sockets.update(half=socket.socket())")?;
    job.tell("sockets['half'].setblocking(False)")?;
    job.tell(&format!("sockets['half'].connect_ex(('{}', 80))", outside.v4))?;
    let directory = File::open(cgroup.path())?;
    let found = |judge: bool| end_connections(directory.as_fd(), |_| judge);
    until("it is seen", DEADLINE, || found(false).ok().filter(|found| found.kept == 1))?;
    assert_eq!(found(true)?.ended, 1);
    assert_eq!(found(true)?.ended, 0);
    Ok(())
}

#[test]
fn a_cgroup_that_is_gone_or_none_is_an_error() -> Result<()> {
    assert!(end_connections(File::open(Path::new("/proc"))?.as_fd(), |_| true).is_err());
    let parent = TestCgroup::new()?;
    let path = parent.path().join("gone");
    fs::create_dir(&path)?;
    let directory = File::open(&path)?;
    fs::remove_dir(&path)?;
    assert!(end_connections(directory.as_fd(), |_| true).is_err());
    Ok(())
}
