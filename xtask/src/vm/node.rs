//! The agent on the router, as on a node, and a workload of its behind a wire.

use std::cell::RefCell;
use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use egress_warden_tests::forge::{Forgery, is_forged};
use egress_warden_tests::probe::{Attempt, Outcome};
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Capture, TestCgroup, bpf};
use serde_json::Value;

use super::scenario::{ALLOWED, Finished, Scenario};
use super::scratch::Scratch;

/// Where the agent pins.
const PINS: &str = "/sys/fs/bpf/node";
/// The router's end of the job's wire.
const WIRE: &str = "job";
/// Emulated, the verifier takes seconds.
const START: Duration = Duration::from_secs(30);
/// The first kernel with tcx.
const TCX: (u32, u32) = (6, 6);
/// A service that nobody but a load balancer knows, over IPv4 and IPv6.
pub(super) const SERVICE: (SocketAddrV4, SocketAddrV6) = (
    SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 443),
    SocketAddrV6::new(Ipv6Addr::new(0xfdaa, 0, 0, 0, 0, 0, 0, 0x10), 443, 0, 0),
);
/// Where the outside host answers as its backend.
pub(super) const BACKEND: u16 = 9300;
/// In the job's subnet, and not the job.
pub(super) const FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 9);

/// Everything but the world, which is the scenario's.
#[derive(Debug)]
pub(super) struct Node {
    agent: PathBuf,
    probe: PathBuf,
    files: Scratch,
    /// The workload.
    pub(super) cgroup: TestCgroup,
    /// Runs in the workload, so that its network namespace can be found.
    resident: Child,
    /// What arrives at the outside host.
    pub(super) capture: Capture,
    _servers: Vec<Server>,
    running: RefCell<Option<Child>>,
}

impl Node {
    /// Tries what has to be refused later, then starts the agent and waits until the workload has its backstop.
    pub(super) fn new(scenario: &Scenario) -> Result<Node> {
        let (files, cgroup) = (Scratch::new("node")?, TestCgroup::named("egress-warden-node")?);
        write_files(files.path(), &cgroup)?;
        let mut resident = scenario.job().command("sleep");
        resident.arg("1000").stdin(Stdio::null()).stdout(Stdio::null());
        let mut servers = Vec::new();
        let outside = scenario.outside();
        let at = [ALLOWED, BACKEND].map(|port| [outside.at(port), outside.at_v6(port)]);
        for place in at.into_iter().flatten() {
            servers.push(Server::tcp_greeter(scenario.outside(), place, b"hello")?);
            servers.push(Server::udp_echo(scenario.outside(), place)?);
        }
        let node = Node {
            agent: scenario.agent.clone(),
            probe: scenario.probe.clone(),
            resident: cgroup.spawn(resident)?,
            capture: scenario.capture()?,
            _servers: servers,
            running: RefCell::default(),
            files,
            cgroup,
        };
        node.control(scenario)?;
        node.start(scenario)?;
        Ok(node)
    }

    /// Without an agent everything arrives: what is not seen later was refused.
    pub(super) fn control(&self, scenario: &Scenario) -> Result<()> {
        for place in [scenario.outside().at(ALLOWED), scenario.outside().at_v6(ALLOWED)] {
            let outcome = self.attempt(scenario, Attempt::Udp, place)?;
            ensure!(
                outcome.is_ok(),
                "{place} cannot be reached even without an agent: errno {}",
                outcome.errno
            );
        }
        for (forgery, source) in [(Forgery::Frame, scenario.job().v4), (Forgery::Packet, FOREIGN)] {
            let before = self.forged();
            self.forge(scenario, forgery, source, 1)?;
            until("what is made by hand to arrive without an agent", DEADLINE, || {
                (self.forged() > before).then_some(())
            })?;
        }
        Ok(())
    }

    /// Starts the agent, and waits for the backstop.
    pub(super) fn start(&self, scenario: &Scenario) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.path("log"))?;
        let mut command = scenario.router().command(&self.agent);
        command.arg("run").arg("--config").arg(self.path("config.yaml")).args(["--pin-directory", PINS]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *self.running.borrow_mut() = Some(command.spawn()?);
        let guarded = || self.workload().ok().filter(|found| found["tier"] == "backstop").map(drop);
        until("the workload to have a backstop", START, guarded).with_context(|| {
            let features = if has_tcx().unwrap_or_default() {
                "tcx (CONFIG_NET_XGRESS)"
            } else {
                "clsact and cls_bpf (CONFIG_NET_SCH_INGRESS, _NET_CLS_BPF)"
            };
            let status = self.workload().map(|found| found["interfaces"].to_string());
            format!("kernel features {features}: {status:?}; {}", self.log())
        })
    }

    /// SIGKILL.
    pub(super) fn kill(&self) -> Result<()> {
        let mut child = self.running.borrow_mut().take().context("the agent does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// `detach --all`, by way of the agent where one runs.
    pub(super) fn detach(&self, scenario: &Scenario) -> Result<String> {
        let mut command = scenario.router().command(&self.agent);
        command.args(["detach", "--all", "--pin-directory", PINS, "--socket"]).arg(self.path("control.sock"));
        Ok(Finished::new(&command.output()?)?.expect_code(0)?.stdout)
    }

    /// The workload, as `status` tells of it.
    pub(super) fn workload(&self) -> Result<Value> {
        let mut command = Command::new(&self.agent);
        command.args(["status", "--json", "--socket"]).arg(self.path("control.sock"));
        let status: Value = serde_json::from_str(&Finished::new(&command.output()?)?.expect_code(0)?.stdout)?;
        match status["workloads"].as_array().map(Vec::as_slice) {
            Some([workload]) => Ok(workload.clone()),
            found => bail!("one workload, not {found:?}; {}", self.log()),
        }
    }

    /// How many violations have been counted for a reason.
    pub(super) fn counted(&self, reason: &str) -> Result<u64> {
        let workload = self.workload()?;
        let by_protocol = workload["violations_by_reason"][reason].as_object();
        Ok(by_protocol.into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum())
    }

    /// How many violations have been counted in all.
    pub(super) fn violations(&self) -> Result<u64> {
        self.workload()?["violations"].as_u64().context("a number of violations")
    }

    /// An attempt of the workload's.
    pub(super) fn attempt(&self, scenario: &Scenario, attempt: Attempt, to: SocketAddr) -> Result<Outcome> {
        attempt.make_inside(scenario.job(), &self.cgroup, to, DEADLINE)
    }

    /// The workload sends datagrams that it made by hand to an allowed place.
    pub(super) fn forge(
        &self,
        scenario: &Scenario,
        forgery: Forgery,
        source: Ipv4Addr,
        count: usize,
    ) -> Result<()> {
        let to = SocketAddrV4::new(scenario.outside().v4, ALLOWED);
        let mut command = scenario.job().command(&self.probe);
        command.args(forgery.arguments(source, to, count)).stdout(Stdio::piped()).stderr(Stdio::piped());
        Finished::new(&self.cgroup.spawn(command)?.wait_with_output()?)?.expect_code(0).map(drop)
    }

    /// How many of those have arrived by now, in all.
    pub(super) fn forged(&self) -> usize {
        self.capture.count(is_forged)
    }

    /// Waits until everything that was sent before has arrived or been refused. The sentinels come from the router: the
    /// workload may not send them.
    pub(super) fn settle(&self, scenario: &Scenario) -> Result<()> {
        self.capture.settle(scenario.router(), scenario.outside().at(9))
    }

    /// Fails unless exactly this many programs are attached to the router's end of the wire, in this kernel's way.
    pub(super) fn expect_attached(&self, scenario: &Scenario, count: usize) -> Result<&'static str> {
        let (filters, links) = (filters(scenario)?, links(scenario)?);
        let (expected, way) = if has_tcx()? { ((0, Some(count)), "tcx") } else { ((count, None), "clsact") };
        ensure!(
            (filters, links) == expected,
            "{filters} filters and {links:?} tcx programs, not {count} by {way}"
        );
        Ok(way)
    }

    /// Fails where a link or an interface is pinned; without an agent also where anything is.
    pub(super) fn expect_no_pins(&self) -> Result<()> {
        let runs = self.running.borrow().is_some();
        ensure!(runs || !Path::new(PINS).exists(), "{PINS} is still there");
        for version in fs::read_dir(PINS).into_iter().flatten() {
            for kind in ["links", "interfaces"] {
                let path = version.as_ref().map_err(|error| anyhow!("{error}"))?.path().join(kind);
                ensure!(fs::read_dir(&path)?.next().is_none(), "{} is not empty", path.display());
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Either fails only where it has ended by itself.
        for child in self.running.get_mut().iter_mut().chain([&mut self.resident]) {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn write_files(directory: &Path, cgroup: &TestCgroup) -> Result<()> {
    let head = "apiVersion: egress-warden.dev/v1";
    let name = cgroup.path().file_name().context("a cgroup with a name")?.display();
    let lists = directory.join("lists");
    fs::create_dir(&lists)?;
    let policy = format!(
        "{head}\nkind: EgressPolicy\nmetadata: {{name: node}}\nspec:\n  select: {{cgroups: [/{name}]}}\n  \
         mode: enforce\n  require: [backstop]\n  raw: [udp]\n  allow: [outside]\n---\n\
         {head}\nkind: Destinations\nmetadata: {{name: outside}}\nspec:\n  to:\n    \
         - {{cidrs: [10.77.2.2/32, \"fd77:2::2/128\"], ports: [{ALLOWED}/tcp, {ALLOWED}/udp], why: the outside host}}\n    \
         - {{cidrs: [{}/32, \"{}/128\"], ports: [{}/tcp, {}/udp], why: a service}}\n",
        SERVICE.0.ip(),
        SERVICE.1.ip(),
        SERVICE.0.port(),
        SERVICE.1.port(),
    );
    fs::write(lists.join("node.yaml"), policy)?;
    let config = format!(
        "allowlists: [{}]\nstate_dir: {}\ncontrol_socket: {}\nselftest: {{every: off}}\nload_balancer: follow\n",
        lists.display(),
        directory.join("state").display(),
        directory.join("control.sock").display(),
    );
    Ok(fs::write(directory.join("config.yaml"), config)?)
}

/// Does this kernel have tcx?
fn has_tcx() -> Result<bool> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        bail!("{release} is no release")
    };
    Ok((major, minor) >= TCX)
}

/// The agent's filters below clsact.
fn filters(scenario: &Scenario) -> Result<usize> {
    let mut count = 0;
    for direction in ["ingress", "egress"] {
        let output = scenario.router().run(["tc", "filter", "show", "dev", WIRE, direction])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        count += text.lines().filter(|line| line.contains("egress-warden/")).count();
    }
    Ok(count)
}

/// All programs by tcx; `None` where the kernel has none.
fn links(scenario: &Scenario) -> Result<Option<usize>> {
    if !has_tcx()? {
        return Ok(None);
    }
    let programs = scenario.router().enter(|| bpf::programs_on_interface(WIRE))?;
    Ok(Some(programs.len()))
}
