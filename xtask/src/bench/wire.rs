//! What the backstop costs, on the way over a workload's veth: the agent with it and without, an empty program in its
//! place, and nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_warden_tests::bench::DATAGRAMS_TO;
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Host, Namespace, TestCgroup, World, bpf};
use tempfile::TempDir;

use super::stage::{Measured, Service, Worker, allowed, places};
use crate::run;

/// What stands on the host's end of the veth, and on the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    Nothing,
    EmptyTc,
    Cgroup,
    Backstop,
}

impl Variant {
    pub(super) const ALL: [Variant; 4] =
        [Variant::Nothing, Variant::EmptyTc, Variant::Cgroup, Variant::Backstop];

    const fn name(self) -> &'static str {
        match self {
            Variant::Nothing => "nothing",
            Variant::EmptyTc => "an empty tc program",
            Variant::Cgroup => "without backstop",
            Variant::Backstop => "with backstop",
        }
    }
}

/// A variant, ready to be measured. Dropping it takes everything away.
pub(super) struct Wire {
    variant: Variant,
    peer: String,
    worker: Worker,
    _service: Service,
    _agent: Option<Agent>,
    _cgroup: TestCgroup,
    _tc: Vec<std::os::fd::OwnedFd>,
    _world: World,
}

impl Wire {
    pub(super) fn new(variant: Variant, prefixes: u32) -> Result<Wire> {
        let world = World::new(&["job", "peer"])?;
        let (job, router) = (world.host("job"), world.router());
        // Datagrams end behind the veth, so that the way over it is measured and nothing else.
        let [a, b, ..] = DATAGRAMS_TO.octets();
        router.run(["ip", "route", "add", "blackhole", &format!("{a}.{b}.0.0/16")])?;
        let peer = world.host("peer").at(90);
        let service = Service::start(world.host("peer"), peer)?;
        let parent = TestCgroup::named("egress-warden-bench")?;
        let cgroup = parent.path().join("job");
        fs::create_dir(&cgroup)?;
        let allowed = allowed(prefixes, world.host("peer").v4);
        let lists = |files: &Path, select: &str| {
            fs::write(files.join("prefixes"), allowed.join("\n"))?;
            Ok(places(select, &files.join("prefixes")))
        };
        let tc = match variant {
            Variant::EmptyTc => router.enter(|| bpf::empty_on_interface("job"))?,
            _ => Vec::new(),
        };
        let agent = match variant {
            Variant::Nothing | Variant::EmptyTc => None,
            // Elsewhere than the other end of the veth.
            Variant::Cgroup => Some(Agent::start(&parent, &Namespace::new()?, &lists)?),
            Variant::Backstop => Some(Agent::start(&parent, router, &lists)?),
        };
        let worker = worker(job, &cgroup)?;
        if let Some(agent) = &agent {
            agent.wait_tier(if variant == Variant::Backstop { "backstop" } else { "cgroup" })?;
        }
        let peer = peer.to_string();
        let (_service, _agent, _cgroup, _tc, _world) = (service, agent, parent, tc, world);
        Ok(Wire { variant, peer, worker, _service, _agent, _cgroup, _tc, _world })
    }
}

impl Measured for Wire {
    fn name(&self) -> &'static str {
        self.variant.name()
    }

    fn turn(&mut self, command: &str, count: u32) -> Result<u64> {
        let said = self.worker.ask(&format!("{} {count}", command.replace("PEER", &self.peer)))?;
        said.parse().with_context(|| format!("{}: the worker said `{said}`", self.variant.name()))
    }
}

/// In the cgroup from its first instruction on.
pub(super) fn worker(job: &Host, cgroup: &Path) -> Result<Worker> {
    let probe = run::agent_binary().with_file_name("egress-warden-probe");
    let mut command = job.command("sh");
    command.args(["-c", "echo 0 > \"$1/cgroup.procs\" && shift && exec \"$@\"", "sh"]).arg(cgroup);
    command.arg(probe).args(["bench", "0"]);
    Worker::start(command, None)
}

/// An agent for one cgroup.
pub(super) struct Agent {
    child: Child,
    files: TempDir,
}

impl Agent {
    /// `lists` is given a directory for further files, and what selects the cgroups below the parent.
    pub(super) fn start(
        parent: &TestCgroup,
        within: &Namespace,
        lists: &dyn Fn(&Path, &str) -> Result<String>,
    ) -> Result<Agent> {
        let files = tempfile::tempdir()?;
        let path = |name: &str| files.path().join(name);
        for name in ["lists", "bpf"] {
            fs::create_dir(path(name))?;
        }
        let group = parent.path().file_name().context("a name")?.to_string_lossy().into_owned();
        let select = format!("{{cgroups: [\"/{group}/*\"]}}");
        fs::write(path("lists/bench.yaml"), lists(files.path(), &select)?)?;
        let config = format!(
            "allowlists: [{}]\nmetrics: {{listen: \"127.0.0.1:9464\"}}\nstate_dir: {}\ncontrol_socket: {}\n\
             selftest: {{every: off}}\n",
            path("lists").display(),
            path("state").display(),
            path("control/control.sock").display(),
        );
        fs::write(path("config.yaml"), config)?;
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(path("bpf")).status()?;
        ensure!(mounted.success(), "cannot mount a BPF file system");
        let mut command = within.command(run::agent_binary());
        command.arg("run").arg("--config").arg(path("config.yaml"));
        command.arg("--pin-directory").arg(path("bpf/egress-warden"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Agent { child: command.spawn()?, files })
    }

    fn socket(&self) -> PathBuf {
        self.files.path().join("control/control.sock")
    }

    pub(super) fn wait_tier(&self, tier: &str) -> Result<()> {
        let wanted = format!("\"tier\": \"{tier}\"");
        let shows = || {
            let mut command = Command::new(run::agent_binary());
            let output = command.args(["status", "--json", "--socket"]).arg(self.socket()).output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (text.contains(&wanted) && text.contains("\"network\": \"own\"")).then_some(())
        };
        until(&format!("the tier to be {tier}"), DEADLINE + Duration::from_secs(20), shows)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let bpffs = self.files.path().join("bpf");
        let _ = Command::new("umount").arg("-l").arg(bpffs).stderr(Stdio::null()).status();
    }
}
