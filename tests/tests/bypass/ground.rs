//! Three pods behind a router with the agent, a far host that they may reach, and one that they may not.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_warden_tests::job::python;
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Capture, Frame, Host, World};

use super::agent::{Agent, Job};

/// The pods. The first two are under the policy that enforces, the second of them is in quarantine.
pub(crate) const PODS: [Pod; 3] = [Pod::Enforced, Pod::Quarantined, Pod::Audited];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pod {
    Enforced,
    Quarantined,
    Audited,
}

impl Pod {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Pod::Enforced => "enforced",
            Pod::Quarantined => "quarantined",
            Pod::Audited => "audited",
        }
    }
}

/// How the pods hang on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wiring {
    /// Each on an interface of its own; the router sends on packets.
    Routed,
    /// All of them and the far hosts on one bridge: frames of any kind arrive.
    Bridged,
}

/// Violations by reason.
pub(crate) type Counts = BTreeMap<String, u64>;

/// What a policy of the ground opens.
pub(crate) const OPEN: &str = "{cidrs: [10.77.4.2/32, \"fd77:4::2/128\"], ports: [80, 80/udp], why: test}";

/// How long one attempt of one pod may take.
const ATTEMPT: Duration = Duration::from_secs(30);

/// Somebody outside who calls the pods that answer, again and again: as often as a probe may, and less often than a queue of
/// callers is filled.
pub(crate) const CALLS: &str = "
while True:
    for place in ['10.77.1.2', 'fd77:1::2', '10.77.3.2', 'fd77:3::2']:
        made = socket.socket(socket.AF_INET6 if ':' in place else socket.AF_INET)
        made.settimeout(0.05)
        how(lambda: made.connect((place, 7000)))
        made.close()
    select.select([], [], [], 0.02)";

pub(crate) struct Ground {
    pub(crate) world: World,
    pub(crate) agent: Agent,
    /// What arrives at the far host that is allowed, and at the one that is refused.
    pub(crate) far: [Capture; 2],
    /// A process in each pod, by which the agent finds the pod's network.
    _keepers: Vec<Job>,
}

impl Ground {
    /// One whose policies open this instead.
    pub(crate) fn with(wiring: Wiring, open: &str) -> Result<Ground> {
        let names = ["enforced", "quarantined", "audited", "allowed", "refused"];
        let world = World::new(&names)?;
        if wiring == Wiring::Bridged {
            bridge(&world, &names)?;
        }
        let far =
            [Capture::start(world.host("allowed"), "eth0")?, Capture::start(world.host("refused"), "eth0")?];
        let mut agent = Agent::new()?;
        agent.write(&policies(&agent, open))?;
        agent.start_within(world.router())?;
        let mut keepers = Vec::new();
        for pod in PODS {
            let cgroup = agent.workload_made(pod.name())?;
            keepers.push(Job::start(world.host(pod.name()), &cgroup, "wait()")?);
        }
        let ground = Ground { world, agent, far, _keepers: keepers };
        ground.wait_guarded()?;
        let name = Pod::Quarantined.name();
        let done = ground.agent.ask(&["quarantine", "add", name, "--why", "a test of quarantine"])?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(ground)
    }

    /// Has the policies open this instead, and waits until that is in force.
    pub(crate) fn open_instead(&self, open: &str) -> Result<()> {
        let rulesets = || -> Result<Vec<serde_json::Value>> {
            let status = self.agent.status()?;
            let workloads = status["workloads"].as_array().context("workloads")?;
            Ok(workloads.iter().map(|one| one["ruleset"].clone()).collect())
        };
        let before = rulesets()?;
        self.agent.write(&policies(&self.agent, open))?;
        until("other rulesets", DEADLINE, || {
            rulesets().ok().filter(|now| now.iter().all(|one| !before.contains(one)))
        })
        .map(drop)
    }

    /// Waits until every pod has its backstop.
    pub(crate) fn wait_guarded(&self) -> Result<()> {
        self.agent
            .wait_metric("workload_tier", &["tier=\"backstop\""], 3.0)
            .with_context(|| format!("{:?}", self.agent.status()))
    }

    pub(crate) fn host(&self, pod: Pod) -> &Host {
        self.world.host(pod.name())
    }

    pub(crate) fn cgroup(&self, pod: Pod) -> PathBuf {
        self.agent.parent().path().join(pod.name())
    }

    /// Runs a Python program in the pod, all of whose processes are in its cgroup, and gives what it printed.
    pub(crate) fn run(&self, pod: Pod, program: &str) -> Result<String> {
        let join = "echo 0 > \"$1/cgroup.procs\" && shift && exec \"$@\"";
        self.run_by(pod, join, program)
    }

    /// Runs a Python program in the pod's network, but in none of its cgroups until it joins one by itself.
    pub(crate) fn run_outside(&self, pod: Pod, program: &str) -> Result<String> {
        self.run_by(pod, "shift && exec \"$@\"", program)
    }

    fn run_by(&self, pod: Pod, shell: &str, program: &str) -> Result<String> {
        let mut command = self.host(pod).command("sh");
        command.args(["-c", shell, "sh"]).arg(self.cgroup(pod)).args(python(program));
        ended(command).with_context(|| format!("as {pod:?}"))
    }

    /// The exact counters of the pod's violations so far.
    pub(crate) fn counts(&self, pod: Pod) -> Result<Counts> {
        let (_, page) = self.agent.get("/metrics")?;
        let workload = format!("/{}\"", pod.name());
        let mut counts = Counts::new();
        for line in page.lines().filter(|line| line.starts_with("egress_warden_violations_total{")) {
            if !line.contains(&workload) {
                continue;
            }
            let (series, value) = line.rsplit_once(' ').context("a value")?;
            let (_, rest) = series.split_once("reason=\"").context("a reason")?;
            let (reason, _) = rest.split_once('"').context("a reason")?;
            *counts.entry(reason.to_owned()).or_default() += value.parse::<u64>()?;
        }
        Ok(counts)
    }

    /// The Ethernet address of the node's interface to the pod.
    pub(crate) fn gateway(&self, pod: Pod) -> Result<String> {
        let line = ["ip", "-json", "link", "show", "dev", pod.name()];
        let links: serde_json::Value = serde_json::from_slice(&self.world.router().run(line)?.stdout)?;
        Ok(links[0]["address"].as_str().context("no address")?.to_owned())
    }

    /// Waits until everything has arrived that was sent before.
    pub(crate) fn settle(&self) -> Result<()> {
        for (capture, name) in self.far.iter().zip(["allowed", "refused"]) {
            capture.settle(self.world.router(), self.world.host(name).at(9))?;
        }
        Ok(())
    }

    /// How many frames that fit have arrived at each far host.
    pub(crate) fn arrived(&self, fits: impl Fn(&Frame) -> bool) -> [usize; 2] {
        [0, 1].map(|far| self.far[far].count(&fits))
    }

    /// Waits until that many have.
    pub(crate) fn wait_arrived(&self, expected: [usize; 2], fits: impl Fn(&Frame) -> bool) -> Result<()> {
        until(&format!("{expected:?} frames"), DEADLINE, || (self.arrived(&fits) == expected).then_some(()))
            .with_context(|| format!("there are {:?}", self.arrived(&fits)))
    }
}

/// Waits for a program to end and gives what it printed. One that hangs is killed, with all that it started.
fn ended(mut command: Command) -> Result<String> {
    // Files and not pipes: nobody has to read them while it runs, and none of its children holds them open.
    let (output, errors) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    command.stdin(Stdio::null()).stdout(output.reopen()?).stderr(errors.reopen()?).process_group(0);
    let mut child = command.spawn()?;
    let status = until("the attempt to end", ATTEMPT, || child.try_wait().transpose());
    if status.is_err() {
        Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status()?;
        child.wait()?;
    }
    let said = fs::read_to_string(&output)?.trim().to_owned();
    let errors = fs::read_to_string(&errors)?;
    let status = status.with_context(|| format!("it said: {said} {errors}"))??;
    ensure!(status.success(), "{status}: it said: {said} {errors}");
    Ok(said)
}

fn policies(agent: &Agent, open: &str) -> String {
    let parent = agent.parent().path().file_name().unwrap_or_default().to_string_lossy();
    let head = "apiVersion: egress-warden.dev/v1\n";
    let policy = |name: &str, mode: &str, cgroups: &str| {
        format!(
            "{head}kind: EgressPolicy\nmetadata: {{name: {name}}}\nspec:\n  select: {{cgroups: [{cgroups}]}}\n  \
             mode: {mode}\n  require: [backstop]\n  raw: [icmp, igmp, tcp, udp, icmpv6]\n  allow: [places]\n---\n"
        )
    };
    let enforced = format!("\"/{parent}/enforced\", \"/{parent}/quarantined\"");
    let audited = format!("\"/{parent}/audited\"");
    policy("enforced", "enforce", &enforced)
        + &policy("audited", "audit", &audited)
        + &format!("{head}kind: Destinations\nmetadata: {{name: places}}\nspec:\n  to:\n    - {open}\n")
}

/// Puts the router's interfaces on a bridge that has their addresses.
fn bridge(world: &World, names: &[&str]) -> Result<()> {
    let ip = |line: &str| world.router().run(["ip"].into_iter().chain(line.split(' '))).map(drop);
    ip("link add name bridge type bridge mcast_snooping 0")?;
    for (name, number) in names.iter().zip(1..) {
        ip(&format!("addr flush dev {name}"))?;
        ip(&format!("link set dev {name} master bridge"))?;
        ip(&format!("addr add 10.77.{number}.1/24 dev bridge"))?;
        ip(&format!("addr add fd77:{number:x}::1/64 dev bridge nodad"))?;
    }
    ip("link set dev bridge up")
}
