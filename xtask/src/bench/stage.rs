//! One variant: its namespaces, its enforcement, and its worker.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use egress_warden_tests::bench::{DATAGRAMS_TO, REFUSED, echo};
use egress_warden_tests::{Host, TestCgroup, World, bpf};
use tempfile::TempDir;

use crate::run;

/// What stands between the worker and the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Nothing,
    Empty,
    EgressWarden,
    Nftables,
}

impl Variant {
    pub(crate) const ALL: [Variant; 4] =
        [Variant::Nothing, Variant::Empty, Variant::EgressWarden, Variant::Nftables];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Variant::Nothing => "nothing",
            Variant::Empty => "an empty program",
            Variant::EgressWarden => "egress-warden",
            Variant::Nftables => "nftables",
        }
    }

    const fn refuses(self) -> bool {
        matches!(self, Variant::EgressWarden | Variant::Nftables)
    }
}

/// A variant, ready to be measured. Dropping it takes everything away.
pub(crate) struct Stage {
    variant: Variant,
    peer: SocketAddr,
    worker: Worker,
    _service: Service,
    _cgroup: Option<TestCgroup>,
    _files: TempDir,
    _world: World,
}

impl Stage {
    pub(crate) fn new(variant: Variant, prefixes: u32) -> Result<Stage> {
        let world = World::new(&["job", "peer"])?;
        let (job, files) = (world.host("job"), tempfile::tempdir()?);
        sink(job)?;
        let peer = world.host("peer").at(90);
        let service = Service::start(world.host("peer"), peer)?;
        let allowed = allowed(prefixes, world.host("peer").v4);
        let cgroup = match variant {
            Variant::Nothing | Variant::EgressWarden => None,
            Variant::Empty | Variant::Nftables => Some(TestCgroup::named("egress-warden-bench")?),
        };
        let probe = run::agent_binary().with_file_name("egress-warden-probe");
        let mut command = match variant {
            Variant::EgressWarden => {
                allowlist(&files, &allowed)?;
                let mut exec = job.command(run::agent_binary());
                exec.args(["exec", "--policy", "bench", "--allowlists"])
                    .arg(files.path())
                    .arg("--")
                    .arg(probe);
                exec.stderr(Stdio::null());
                exec
            }
            _ => job.command(probe),
        };
        // The first processor; whatever serves the other end has the others.
        command.args(["bench", "0"]);
        if let Some(cgroup) = &cgroup {
            match variant {
                Variant::Empty => drop(bpf::attach(cgroup, bpf::EGRESS, bpf::PASS, bpf::ALLOW_MULTI)?),
                _ => nftables(job, cgroup, &files, &allowed)?,
            }
        }
        let worker = Worker::start(command, cgroup.as_ref())?;
        Ok(Stage { variant, peer, worker, _service: service, _cgroup: cgroup, _files: files, _world: world })
    }

    /// Refuses what it should and nothing else, or there is nothing to measure.
    pub(crate) fn prove(&mut self) -> Result<()> {
        let (name, refuses) = (self.variant.name(), self.variant.refuses());
        let said = self.worker.ask("refused")?;
        ensure!((said == "refused") == refuses, "{name}: a datagram to {REFUSED} was {said}");
        self.turn("udp 1024", 2048).with_context(|| format!("{name}: a datagram that is allowed"))?;
        self.turn("connect PEER", 1).with_context(|| format!("{name}: a connection that is allowed"))?;
        Ok(())
    }
}

/// Something that can be measured by turns.
pub(super) trait Measured {
    /// What it is called in the table.
    fn name(&self) -> &'static str;

    /// Nanoseconds for one operation.
    fn turn(&mut self, command: &str, count: u32) -> Result<u64>;
}

impl Measured for Stage {
    fn name(&self) -> &'static str {
        self.variant.name()
    }

    fn turn(&mut self, command: &str, count: u32) -> Result<u64> {
        let command = command.replace("PEER", &self.peer.to_string());
        let said = self.worker.ask(&format!("{command} {count}"))?;
        said.parse().with_context(|| format!("{}: the worker said `{said}`", self.variant.name()))
    }
}

/// Datagrams end in an interface that has no other end, so that only the way there is measured.
fn sink(job: &Host) -> Result<()> {
    job.run(["ip", "link", "add", "sink", "type", "ifb"])?;
    job.run(["ip", "link", "set", "sink", "up"])?;
    for place in [DATAGRAMS_TO, REFUSED] {
        let [a, b, ..] = place.octets();
        job.run(["ip", "route", "add", &format!("{a}.{b}.0.0/16"), "dev", "sink"])?;
    }
    Ok(())
}

/// So many prefixes, those that the worker sends to among them. No two can be merged.
pub(super) fn allowed(prefixes: u32, peer: Ipv4Addr) -> Vec<String> {
    let fill = (0..prefixes - 2).map(|number| format!("{}/32", Ipv4Addr::from(0x0b00_0000 + 2 * number)));
    let [a, b, ..] = DATAGRAMS_TO.octets();
    fill.chain([format!("{a}.{b}.0.0/21"), format!("{peer}/32")]).collect()
}

fn allowlist(files: &TempDir, allowed: &[String]) -> Result<()> {
    fs::write(files.path().join("prefixes"), allowed.join("\n"))?;
    Ok(fs::write(files.path().join("bench.yaml"), places("{all: true}", &files.path().join("prefixes")))?)
}

/// A policy `bench` for whatever is selected, with the prefixes of a file.
pub(super) fn places(select: &str, prefixes: &Path) -> String {
    let head = "apiVersion: egress-warden.dev/v1\n";
    format!(
        "{head}kind: EgressPolicy\nmetadata: {{name: bench}}\nspec:\n  select: {select}\n  mode: enforce\n  \
         allow: [places]\n---\n{head}kind: Destinations\nmetadata: {{name: places}}\nspec:\n  to:\n    \
         - {{cidrsFrom: {}, why: bench}}\n",
        prefixes.display()
    )
}

fn nftables(job: &Host, cgroup: &TestCgroup, files: &TempDir, allowed: &[String]) -> Result<()> {
    let name = cgroup.path().file_name().context("a name")?.to_string_lossy().into_owned();
    let mut text =
        "table inet bench {\n set allowed { type ipv4_addr; flags interval; elements = {\n".to_owned();
    for prefix in allowed {
        writeln!(text, "  {prefix},")?;
    }
    writeln!(
        text,
        " }} }}\n chain out {{ type filter hook output priority 0;\n  \
         socket cgroupv2 level 1 \"{name}\" ip daddr != @allowed counter drop\n }}\n}}"
    )?;
    let rules = files.path().join("rules.nft");
    fs::write(&rules, text)?;
    // nft looks for cgroups under /sys/fs/cgroup, wherever cgroup2 is mounted.
    let script = "mount -t cgroup2 none /sys/fs/cgroup && exec nft -f \"$1\"";
    job.run(["unshare", "-m", "sh", "-c", script, "sh", &rules.display().to_string()])?;
    Ok(())
}

/// The process that is measured.
pub(super) struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    pub(super) fn start(mut command: Command, cgroup: Option<&TestCgroup>) -> Result<Worker> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = match cgroup {
            Some(cgroup) => cgroup.spawn(command)?,
            None => command.spawn().context("cannot start the worker")?,
        };
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut worker = Worker { child, input, output };
        ensure!(worker.line()? == "ready", "the worker does not answer");
        Ok(worker)
    }

    pub(super) fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.input.as_mut().context("its input is closed")?, "{command}")?;
        self.line()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the worker ended");
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends when nobody asks any more, and exec ends with it.
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// The other end of connections.
pub(super) struct Service {
    stop: Arc<AtomicBool>,
    host: Host,
    at: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    pub(super) fn start(host: &Host, at: SocketAddr) -> Result<Service> {
        let listener = host.enter(|| TcpListener::bind(at))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || echo(&listener, || stopped.load(Ordering::SeqCst)));
        Ok(Service { stop, host: host.clone(), at, thread: Some(thread) })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // It looks when somebody comes.
        let _ = self.host.enter(|| TcpStream::connect(self.at));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
