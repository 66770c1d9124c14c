//! What the cases stand on: a job and an outside host on a wire, and policies for the job.

use std::cell::OnceCell;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use egress_warden_tests::probe::{Attempt, Outcome, probe_binary};
use egress_warden_tests::wait::DEADLINE;
use egress_warden_tests::{Capture, Host, Namespace, TestCgroup, World, agent_binary};

use super::node::Node;
use super::scratch::Scratch;

/// Ports of the outside host, as the policies below have them.
pub(super) const ALLOWED: u16 = 80;
/// A port that stays open in quarantine.
pub(super) const KEPT: u16 = 81;
/// A port that no policy names.
pub(super) const OTHER: u16 = 25;

/// `many` reads this file beside it.
const PREFIXES: &str = "prefixes.txt";
const POLICIES: &str = r#"
apiVersion: egress-warden.dev/v1
kind: Destinations
metadata: {name: outside}
spec:
  to:
    - cidrs: [10.77.2.2/32, "fd77:2::2/128"]
      ports: [80/tcp, 80/udp]
      why: the outside host
---
apiVersion: egress-warden.dev/v1
kind: Destinations
metadata: {name: kept}
spec:
  to:
    - cidrs: [10.77.2.2/32]
      ports: [81/tcp]
      why: stays open in quarantine
---
apiVersion: egress-warden.dev/v1
kind: Destinations
metadata: {name: many}
spec:
  to:
    - cidrsFrom: prefixes.txt
      why: as many as a cloud has
---
apiVersion: egress-warden.dev/v1
kind: EgressPolicy
metadata: {name: open}
spec: {select: {cgroups: [/open]}, mode: enforce, allow: [outside]}
---
apiVersion: egress-warden.dev/v1
kind: EgressPolicy
metadata: {name: closed}
spec: {select: {cgroups: [/closed]}, mode: enforce, allow: []}
---
apiVersion: egress-warden.dev/v1
kind: EgressPolicy
metadata: {name: many}
spec: {select: {cgroups: [/many]}, mode: enforce, allow: [many]}
---
apiVersion: egress-warden.dev/v1
kind: EgressPolicy
metadata: {name: strict}
spec:
  select: {cgroups: [/strict]}
  mode: enforce
  allow: [outside, kept]
  quarantine: {violations: 3, within: 60s, action: isolate, keep: [kept]}
"#;

/// The small world in which all cases run.
#[derive(Debug)]
pub(super) struct Scenario {
    /// The agent.
    pub(super) agent: PathBuf,
    /// Makes one attempt.
    pub(super) probe: PathBuf,
    /// Where `exec` makes its cgroups.
    pub(super) cgroup: TestCgroup,
    /// Made when a case first asks for it, and then either the node or why there is none.
    node: OnceCell<Result<Node, String>>,
    files: Scratch,
    world: World,
}

impl Scenario {
    /// Makes it. An error names the kernel feature that is missing.
    pub(super) fn new() -> Result<Scenario> {
        let files = Scratch::new("cases")?;
        fs::write(files.path().join("policies.yaml"), POLICIES)?;
        fs::write(files.path().join(PREFIXES), prefixes())?;
        Ok(Scenario {
            agent: agent_binary()?.to_owned(),
            probe: probe_binary()?,
            cgroup: TestCgroup::new().context("kernel feature cgroup2 (CONFIG_CGROUPS)")?,
            node: OnceCell::new(),
            files,
            world: World::new(&["job", "outside"])
                .context("kernel features network namespaces, IPv6, veth (CONFIG_NET_NS, _IPV6, _VETH)")?,
        })
    }

    /// Where the policies are.
    pub(super) fn directory(&self) -> &Path {
        self.files.path()
    }

    /// The host that runs under a policy.
    pub(super) fn job(&self) -> &Host {
        self.world.host("job")
    }

    /// The other one.
    pub(super) fn outside(&self) -> &Host {
        self.world.host("outside")
    }

    /// What stands between them.
    pub(super) fn router(&self) -> &Namespace {
        self.world.router()
    }

    /// The job's wire is cut, and a new one laid.
    pub(super) fn lay_again(&self) -> Result<()> {
        self.world.lay_again(&self.job().name)
    }

    /// The agent on the router, with a workload.
    pub(super) fn node(&self) -> Result<&Node> {
        let node = self.node.get_or_init(|| Node::new(self).map_err(|error| format!("{error:#}")));
        node.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Counts frames that arrive at the outside host.
    pub(super) fn capture(&self) -> Result<Capture> {
        Capture::start(self.outside(), "eth0").context("kernel feature packet sockets (CONFIG_PACKET)")
    }

    /// Frames to a place that have arrived by now.
    pub(super) fn frames(&self, capture: &Capture, place: SocketAddr) -> Result<usize> {
        capture.settle(self.job(), self.outside().at(9))?;
        Ok(capture.count(|frame| frame.is_to(place)))
    }

    /// `egress-warden exec` with a command, in a network namespace.
    pub(super) fn exec<S: AsRef<OsStr>>(
        &self,
        namespace: Option<&Namespace>,
        options: &[&str],
        line: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command =
            namespace.map_or_else(|| Command::new(&self.agent), |namespace| namespace.command(&self.agent));
        command.arg("exec").arg("--allowlists").arg(self.directory()).args(options).arg("--").args(line);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The same, run to its end.
    pub(super) fn run(&self, command: Command) -> Result<Finished> {
        Finished::new(&self.cgroup.spawn(command)?.wait_with_output()?)
    }

    /// Attempts one after the other, all in one run of `exec`, which is what takes the time here.
    pub(super) fn attempts(
        &self,
        namespace: Option<&Namespace>,
        options: &[&str],
        attempts: &[(Attempt, SocketAddr)],
    ) -> Result<Attempted> {
        let probe = self.probe.display();
        let lines: Vec<String> = attempts
            .iter()
            .map(|(attempt, to)| format!("{probe} '{}'", attempt.arguments(*to, DEADLINE).join("' '")))
            .collect();
        let line = ["sh".to_owned(), "-c".to_owned(), lines.join("; ")];
        let Finished { stdout, stderr: summary, .. } = self.run(self.exec(namespace, options, line))?;
        let outcomes = stdout.lines().map(str::parse).collect::<Result<Vec<Outcome>>>()?;
        if outcomes.len() != attempts.len() {
            bail!("{} of {} attempts were made: {summary}", outcomes.len(), attempts.len());
        }
        Ok(Attempted { outcomes, summary })
    }
}

/// 20,000 prefixes that are neighbours of nothing, and the outside host.
fn prefixes() -> String {
    let mut text = "10.77.2.2/32\n".to_owned();
    for (high, low) in (0..100).flat_map(|high| (0..200).map(move |low| (high, low))) {
        text += &format!("20.{high}.{low}.{}/32\n", high ^ low);
    }
    text
}

/// How a command ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Finished {
    /// Reads it.
    pub(super) fn new(output: &Output) -> Result<Finished> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).context("output that is no text");
        Ok(Finished {
            code: output.status.code(),
            stdout: text(&output.stdout)?,
            stderr: text(&output.stderr)?,
        })
    }

    /// Fails with everything it said, unless it ended like this.
    pub(super) fn expect_code(self, code: i32) -> Result<Finished> {
        if self.code != Some(code) {
            bail!("exit code {:?} instead of {code}: {} {}", self.code, self.stdout, self.stderr);
        }
        Ok(self)
    }
}

/// How attempts under a policy went, and what `exec` told about them.
#[derive(Debug)]
pub(super) struct Attempted {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) summary: String,
}

/// Fails unless a summary has a line that begins with these words, whatever the space between them.
pub(super) fn expect_line(summary: &str, beginning: &str) -> Result<()> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    if !summary.lines().any(|line| words(line).starts_with(beginning)) {
        bail!("no line `{beginning}` in: {summary}");
    }
    Ok(())
}

/// A server on all addresses: greets two TCP callers on a port, echoes two datagrams on it, and ends.
pub(super) fn serve(port: u16) -> Result<()> {
    let everywhere = SocketAddr::from(([0_u16; 8], port));
    let (listener, socket) = (TcpListener::bind(everywhere)?, UdpSocket::bind(everywhere)?);
    println!("ready");
    let echo = thread::spawn(move || -> Result<()> {
        let mut buffer = [0; 1 << 11];
        for _ in 0..2 {
            let (length, from) = socket.recv_from(&mut buffer)?;
            socket.send_to(&buffer[..length], from)?;
        }
        Ok(())
    });
    for _ in 0..2 {
        listener.accept()?.0.write_all(b"hello")?;
    }
    echo.join().map_err(|_| anyhow::anyhow!("the echo panicked"))?
}

/// This program, as a command under a policy starts it.
pub(super) fn this_program() -> Result<PathBuf> {
    env::current_exe().context("cannot find this program")
}
