//! What names cost a query and its answer: `exec` and the agent, with names and without; and a dnsmasq on the node that fills
//! a set of nftables, which is what an operator would otherwise use.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use egress_warden_tests::bench::DATAGRAMS_TO;
use egress_warden_tests::bench::dns::{NAME, asks, resolve};
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Host, Namespace, TestCgroup, World, pin};
use tempfile::TempDir;

use super::report::Run;
use super::stage::{Measured, Worker};
use super::wire::{Agent, worker};
use crate::run;

/// Who stands between the one who asks and the resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    Nothing,
    Exec { names: bool },
    Agent { names: bool },
    Dnsmasq,
}

impl Variant {
    pub(super) const ALL: [Variant; 6] = [
        Variant::Nothing,
        Variant::Exec { names: false },
        Variant::Exec { names: true },
        Variant::Agent { names: false },
        Variant::Agent { names: true },
        Variant::Dnsmasq,
    ];

    const fn name(self) -> &'static str {
        match self {
            Variant::Nothing => "nothing",
            Variant::Exec { names: false } => "exec, no names",
            Variant::Exec { names: true } => "exec, names",
            Variant::Agent { names: false } => "backstop, no names",
            Variant::Agent { names: true } => "backstop, names",
            Variant::Dnsmasq => "dnsmasq",
        }
    }
}

/// A variant, ready to be measured. Dropping it takes everything away.
pub(super) struct Asking {
    variant: Variant,
    asked: SocketAddr,
    worker: Worker,
    dnsmasq: Option<Dnsmasq>,
    _resolver: Resolver,
    _agent: Option<Agent>,
    _cgroup: Option<TestCgroup>,
    _files: TempDir,
    _world: World,
}

impl Asking {
    pub(super) fn new(variant: Variant) -> Result<Asking> {
        let world = World::new(&["job", "peer"])?;
        let (job, router, peer) = (world.host("job"), world.router(), world.host("peer"));
        let files = tempfile::tempdir()?;
        let resolver = Resolver::start(peer)?;
        let mut asked = peer.at(53);
        let (mut agent, mut cgroup, mut dnsmasq) = (None, None, None);
        let probe = run::agent_binary().with_file_name("egress-warden-probe");
        let worker = match variant {
            Variant::Nothing | Variant::Dnsmasq => {
                if variant == Variant::Dnsmasq {
                    let [a, b, c, _] = job.v4.octets();
                    asked = SocketAddr::from(([a, b, c, 1], 53));
                    dnsmasq = Some(Dnsmasq::start(router, asked, peer.at(53))?);
                }
                let mut command = job.command(probe);
                command.args(["bench", PROCESSOR]);
                Worker::start(command, None)?
            }
            Variant::Exec { names } => {
                fs::write(files.path().join("bench.yaml"), lists("{all: true}", asked, names))?;
                let mut exec = job.command(run::agent_binary());
                exec.args(["exec", "--policy", "bench", "--allowlists"]).arg(files.path()).arg("--");
                exec.arg(probe).args(["bench", PROCESSOR]).stderr(Stdio::null());
                Worker::start(exec, None)?
            }
            Variant::Agent { names } => {
                let parent = cgroup.insert(TestCgroup::named("egress-warden-bench")?);
                let inside = parent.path().join("job");
                fs::create_dir(&inside)?;
                let started =
                    Agent::start(parent, router, &|_: &Path, select: &str| Ok(lists(select, asked, names)))?;
                let worker = worker(job, &inside)?;
                started.wait_tier("backstop")?;
                agent = Some(started);
                worker
            }
        };
        let (_resolver, _agent, _cgroup, _files, _world) = (resolver, agent, cgroup, files, world);
        Ok(Asking { variant, asked, worker, dnsmasq, _resolver, _agent, _cgroup, _files, _world })
    }

    /// An answer opens what it names where it should, or there is nothing to measure.
    pub(super) fn prove(&mut self) -> Result<()> {
        let name = self.variant.name();
        let place = format!("reaches {DATAGRAMS_TO}:9");
        let before = self.worker.ask(&place)?;
        self.turn("ask RESOLVER", 10)?;
        let told = (before.as_str(), &*self.worker.ask(&place)?);
        let expected = match self.variant {
            Variant::Nothing | Variant::Dnsmasq => ("sent", "sent"),
            Variant::Exec { names } | Variant::Agent { names } => {
                ("refused", if names { "sent" } else { "refused" })
            }
        };
        ensure!(told == expected, "{name}: before and after the answer {told:?}, not {expected:?}");
        self.dnsmasq.as_ref().map_or(Ok(()), Dnsmasq::prove)
    }
}

impl Measured for Asking {
    fn name(&self) -> &'static str {
        self.variant.name()
    }

    fn turn(&mut self, command: &str, count: u32) -> Result<u64> {
        let said =
            self.worker.ask(&format!("{} {count}", command.replace("RESOLVER", &self.asked.to_string())))?;
        said.parse().with_context(|| format!("{}: the worker said `{said}`", self.variant.name()))
    }
}

/// What is measured.
pub(super) const OPERATION: (&str, &str, u32) =
    ("over a veth: query and answer, an alias and four addresses", "ask RESOLVER", 2_000);

/// What names add, and what part that is of what dnsmasq adds: what the table says, for the two that are looked for.
pub(super) fn summary(run: &Run) -> String {
    let mut text = String::new();
    let between = |one: Variant, other: Variant| run.between(OPERATION.0, one.name(), other.name());
    let Some(dnsmasq) = between(Variant::Dnsmasq, Variant::Nothing) else { return text };
    for (way, with, without) in [
        ("exec", Variant::Exec { names: true }, Variant::Exec { names: false }),
        ("with the backstop", Variant::Agent { names: true }, Variant::Agent { names: false }),
    ] {
        for (what, than) in [("names", without), ("everything", Variant::Nothing)] {
            let Some(added) = between(with, than) else { continue };
            let _ = write!(text, "\n{way}, {what}:");
            for (by, added, peer) in [("minimum", added[0], dnsmasq[0]), ("median", added[1], dnsmasq[1])] {
                let part = peer as f64 / added.max(1) as f64;
                let _ = write!(text, " {added:+} ns by the {by}, 1/{part:.0} of what dnsmasq adds;");
            }
        }
    }
    text + "\n"
}

/// All ends share one, so that nothing is measured of how processors wake each other.
const PROCESSOR: &str = "0";

/// A policy `bench` that lets the resolver be asked: by its address, or for names and where they point.
fn lists(select: &str, resolver: SocketAddr, names: bool) -> String {
    let head = "apiVersion: egress-warden.dev/v1\n";
    let address = resolver.ip();
    let [a, b, ..] = DATAGRAMS_TO.octets();
    let (dns, entry) = if names {
        let domains = format!("domains: [{NAME}], resolvesTo: [{a}.{b}.0.0/16], ports: [443, 9/udp]");
        (format!("  dns: {{resolvers: [{address}/32]}}\n"), domains)
    } else {
        (String::new(), format!("cidrs: [{address}/32], ports: [53/udp]"))
    };
    format!(
        "{head}kind: EgressPolicy\nmetadata: {{name: bench}}\nspec:\n  select: {select}\n  mode: enforce\n  \
         allow: [places]\n{dns}---\n{head}kind: Destinations\nmetadata: {{name: places}}\nspec:\n  to:\n    \
         - {{{entry}, why: bench}}\n"
    )
}

/// A thread that answers at once.
struct Resolver {
    host: Host,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    fn start(host: &Host) -> Result<Resolver> {
        let socket = host.enter(|| UdpSocket::bind(host.at(53)))?;
        let processor = PROCESSOR.parse()?;
        let thread = thread::spawn(move || {
            // Where it may not run there, the figures are worse, for all alike.
            pin(processor).ok();
            resolve(&socket);
        });
        Ok(Resolver { host: host.clone(), thread: Some(thread) })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let at = self.host.at(53);
        let told = self.host.enter(|| UdpSocket::bind("0.0.0.0:0")?.send_to(&[], at));
        if let (Ok(_), Some(thread)) = (told, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// A dnsmasq that asks the resolver and puts every address into a set.
struct Dnsmasq {
    child: Child,
    node: Namespace,
}

impl Dnsmasq {
    fn start(node: &Namespace, at: SocketAddr, resolver: SocketAddr) -> Result<Dnsmasq> {
        node.run(["nft", "add table inet bench; add set inet bench names { type ipv4_addr; }"])?;
        let mut command = node.command("taskset");
        command.args(["-c", PROCESSOR, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null"]);
        command.args(["--no-resolv", "--no-hosts", "--cache-size=0", "--user=root", "--pid-file="]);
        command.arg(format!("--listen-address={}", at.ip())).arg("--bind-interfaces");
        command.arg(format!("--server={}", resolver.ip()));
        command.arg(format!("--nftset=/{NAME}/4#inet#bench#names"));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let dnsmasq = Dnsmasq { child, node: node.clone() };
        let asked = || node.enter(|| asks(at, 1)).ok();
        until("dnsmasq to answer", DEADLINE, asked)?;
        Ok(dnsmasq)
    }

    fn prove(&self) -> Result<()> {
        let set = self.node.run(["nft", "list", "set", "inet", "bench", "names"])?;
        let text = String::from_utf8_lossy(&set.stdout).into_owned();
        ensure!(text.contains(&DATAGRAMS_TO.to_string()), "dnsmasq filled no set: {text}");
        Ok(())
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
