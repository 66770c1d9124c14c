//! Pods around a router with the agent, behind it a far side that owns whole prefixes, and a process in each pod that
//! makes attempts as it is told.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use egress_warden_tests::prober::{Attempt, Said};
use egress_warden_tests::server::Server;
use egress_warden_tests::{Capture, Host, Namespace, World, probe};

use super::agent::Agent;
use super::generate::{FAR, WORKLOADS, ports};
use super::model::Lists;
use super::oracle::Workload;

const ANY: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);

/// Violations by workload, policy, mode, reason and protocol.
pub(crate) type Counts = BTreeMap<[String; 5], u64>;

pub(crate) struct Ground {
    world: World,
    pub(crate) agent: Agent,
    pub(crate) far: Capture,
    pub(crate) workloads: Vec<Workload>,
    probers: Vec<Prober>,
    /// What listens on the far side.
    _listening: (Vec<Server>, Vec<UdpSocket>),
}

impl Ground {
    pub(crate) fn new(lists: &Lists) -> Result<Ground> {
        let pods = WORKLOADS.iter().filter(|(name, _)| home(name) == Home::Pod(name));
        let world = World::new(&pods.map(|(name, _)| *name).chain(["far"]).collect::<Vec<_>>())?;
        let listening = far_side(&world)?;
        let far = Capture::start(world.host("far"), "eth0")?;
        let mut agent = Agent::new()?;
        let parent = agent.parent().path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        agent.write(&lists.yaml(&parent))?;
        agent.start_within(world.router())?;
        let (mut probers, mut workloads) = (Vec::new(), Vec::new());
        for (name, _) in WORKLOADS {
            probers.push(Prober::start(namespace(&world, name), &agent.workload_made(name)?)?);
            let (quarantined, host_namespace) = (name.starts_with("kept"), home(name) == Home::Machine);
            let addresses = addresses(&world, name);
            workloads.push(Workload { name, quarantined, host_namespace, addresses });
        }
        let ground = Ground { world, agent, far, workloads, probers, _listening: listening };
        ground.wait_ready()?;
        Ok(ground)
    }

    fn wait_ready(&self) -> Result<()> {
        for workload in &self.workloads {
            self.agent.wait_enforced(workload.name)?;
        }
        let guarded = WORKLOADS.iter().filter(|(name, _)| matches!(home(name), Home::Pod(_))).count();
        self.agent.wait_metric("workload_tier", &["tier=\"backstop\""], guarded as f64)?;
        for workload in self.workloads.iter().filter(|workload| workload.quarantined) {
            let done = self.agent.ask(&["quarantine", "add", workload.name, "--why", "a truth table"])?;
            ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }

    /// Has every workload make its attempt, all at once.
    pub(crate) fn attempt(&mut self, attempts: &[Attempt]) -> Result<Vec<Said>> {
        for (prober, attempt) in self.probers.iter_mut().zip(attempts) {
            writeln!(prober.input, "{attempt}")?;
        }
        self.probers.iter_mut().map(Prober::said).collect()
    }

    /// Waits until everything has arrived that was sent before.
    pub(crate) fn settle(&self) -> Result<()> {
        self.far.settle(self.world.router(), self.world.host("far").at(9))
    }

    /// The exact counters of violations so far.
    pub(crate) fn counts(&self) -> Result<Counts> {
        let (_, page) = self.agent.get("/metrics")?;
        let series = page.lines().filter_map(|line| line.strip_prefix("egress_warden_violations_total{"));
        series
            .map(|line| {
                let (labels, value) = line.rsplit_once("} ").context("a value")?;
                let label = |name: &str| -> Result<String> {
                    let (_, rest) = labels.split_once(&format!("{name}=\"")).context(name.to_owned())?;
                    Ok(rest.split_once('"').context("a quote")?.0.to_owned())
                };
                let path = label("workload")?;
                let workload = path.rsplit('/').next().unwrap_or_default().to_owned();
                let key = [workload, label("policy")?, label("mode")?, label("reason")?, label("protocol")?];
                Ok((key, value.parse()?))
            })
            .collect()
    }
}

/// Where a workload runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home<'a> {
    /// In this pod's network namespace.
    Pod(&'a str),
    /// In the agent's, which is none of the machine's own.
    Router,
    /// In the machine's, where it uses loopback only.
    Machine,
}

fn home(workload: &str) -> Home<'_> {
    match workload {
        "neighbour" => Home::Pod("single"),
        "router" => Home::Router,
        "machine" => Home::Machine,
        own => Home::Pod(own),
    }
}

fn namespace<'a>(world: &'a World, workload: &str) -> Option<&'a Namespace> {
    match home(workload) {
        Home::Pod(pod) => Some(world.host(pod)),
        Home::Router => Some(world.router()),
        Home::Machine => None,
    }
}

/// The addresses of its namespace. Of the router's those toward the far side stand for all.
fn addresses(world: &World, workload: &str) -> Vec<IpAddr> {
    match home(workload) {
        Home::Pod(pod) => {
            let host = world.host(pod);
            vec![host.v4.into(), host.v6.into()]
        }
        Home::Router => gateway(world.host("far")).to_vec(),
        Home::Machine => Vec::new(),
    }
}

/// The router's addresses on the wire to a host.
fn gateway(host: &Host) -> [IpAddr; 2] {
    [IpAddr::V4((host.v4.to_bits() - 1).into()), IpAddr::V6((host.v6.to_bits() - 1).into())]
}

/// Leads everything that has no other way to the far side, which has all of [`FAR`] for its own addresses and listens on
/// every port that is asked for.
fn far_side(world: &World) -> Result<(Vec<Server>, Vec<UdpSocket>)> {
    let far = world.host("far");
    world.router().run(["ip", "route", "add", "default", "via", &far.v4.to_string()])?;
    world.router().run(["ip", "-6", "route", "add", "default", "via", &far.v6.to_string()])?;
    for prefix in FAR {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        far.run(["ip", family, "route", "add", "local", prefix, "dev", "lo"])?;
    }
    let mut servers = Vec::new();
    for port in ports() {
        servers.push(Server::tcp_greeter(far, (ANY, port).into(), b"here")?);
    }
    // Nobody reads: that a datagram arrived is told by its frame.
    let sinks =
        far.enter(|| ports().into_iter().map(|port| UdpSocket::bind((ANY, port))).collect::<Result<_, _>>());
    Ok((servers, sinks?))
}

/// Lets everybody in a namespace have ping sockets.
fn ping_sockets(namespace: &Namespace) -> Result<()> {
    let write = || fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    namespace.enter(write).context("ping_group_range")
}

struct Prober {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Prober {
    fn start(namespace: Option<&Namespace>, cgroup: &Path) -> Result<Prober> {
        let mut command = match namespace {
            Some(namespace) => {
                ping_sockets(namespace)?;
                namespace.command("sh")
            }
            None => Command::new("sh"),
        };
        command.args(["-c", "echo 0 > \"$1/cgroup.procs\" && exec \"$2\" prober", "sh"]);
        command.arg(cgroup).arg(probe::probe_binary()?).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (input, output) =
            (child.stdin.take().context("no pipe")?, child.stdout.take().context("no pipe")?);
        Ok(Prober { child, input, output: BufReader::new(output) })
    }

    fn said(&mut self) -> Result<Said> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("a prober ended: {:?}", self.child.wait()?);
        }
        line.trim_end().parse()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
