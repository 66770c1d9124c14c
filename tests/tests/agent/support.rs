//! An agent of the test's own, workloads for it, and what it tells of them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use egress_warden_tests::job::python;
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Namespace, TestCgroup, agent_binary};
use serde_json::Value;
use tempfile::TempDir;

/// The directory in the BPF file system.
const PINS: &str = "egress-warden";

/// The agent, its files, and the cgroup below which its workloads are.
pub(crate) struct Agent {
    directory: TempDir,
    parent: TestCgroup,
    metrics: SocketAddr,
    child: Option<Child>,
    mounted: bool,
    /// The network namespace that it was started in, where that is not the test's.
    within: Option<Namespace>,
}

/// A policy `job` for every cgroup below the test's, with these entries and further keys.
pub(crate) fn policy(parent: &TestCgroup, entries: &[&str], more: &[&str]) -> String {
    let name = parent.path().file_name().unwrap_or_default().to_string_lossy();
    let head = "apiVersion: egress-warden.dev/v1\n";
    let mut text = format!(
        "{head}kind: EgressPolicy\nmetadata: {{name: job}}\nspec:\n  select: {{cgroups: [\"/{name}/*\"]}}\n"
    );
    text += if more.iter().any(|line| line.starts_with("mode")) { "" } else { "  mode: enforce\n" };
    for line in more {
        text += &format!("  {line}\n");
    }
    text += "  allow: [places]\n---\n";
    text += &format!("{head}kind: Destinations\nmetadata: {{name: places}}\nspec:\n  to:\n");
    for entry in entries {
        text += &format!("    - {{{entry}, why: test}}\n");
    }
    text
}

impl Agent {
    /// Everything but the agent itself.
    pub(crate) fn new() -> Result<Agent> {
        let directory = tempfile::tempdir()?;
        fs::create_dir(directory.path().join("lists"))?;
        fs::create_dir(directory.path().join("bpf"))?;
        let parent = TestCgroup::named("egress-warden-agent")?;
        // The port is free now, and nobody else asks for this one.
        let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut agent = Agent { directory, parent, metrics, child: None, mounted: false, within: None };
        let config = format!(
            "allowlists: [{}]\nmetrics: {{listen: \"{metrics}\"}}\nstate_dir: {}\ncontrol_socket: {}\n\
             selftest: {{every: off}}\n",
            agent.lists().display(),
            agent.path("state").display(),
            agent.path("control/control.sock").display(),
        );
        fs::write(agent.path("config.yaml"), config)?;
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(agent.path("bpf")).status()?;
        ensure!(mounted.success(), "cannot mount a BPF file system: root is needed");
        agent.mounted = true;
        Ok(agent)
    }

    /// One that runs, under [`policy`].
    pub(crate) fn started(entries: &[&str], more: &[&str]) -> Result<Agent> {
        let mut agent = Agent::new()?;
        agent.write(&policy(&agent.parent, entries, more))?;
        agent.start()?;
        Ok(agent)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn lists(&self) -> PathBuf {
        self.path("lists")
    }

    pub(crate) fn parent(&self) -> &TestCgroup {
        &self.parent
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.path("bpf").join(PINS).join(format!("v{}", egress_warden_common::ABI_VERSION))
    }

    /// Writes the one allowlist, in place.
    pub(crate) fn write(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.lists().join("list.yaml"), text)?)
    }

    /// Has it make self-tests, which it does not otherwise: they lay wires in the namespace in which it runs.
    pub(crate) fn test_itself_every(&self, every: &str) -> Result<()> {
        let config = fs::read_to_string(self.path("config.yaml"))?;
        Ok(fs::write(self.path("config.yaml"), config.replace("every: off", &format!("every: {every}")))?)
    }

    /// Has it follow programs above its workloads that rewrite addresses.
    pub(crate) fn follow_load_balancers(&self) -> Result<()> {
        let config = fs::read_to_string(self.path("config.yaml"))?;
        Ok(fs::write(self.path("config.yaml"), format!("{config}load_balancer: follow\n"))?)
    }

    fn command(&self) -> Result<Command> {
        self.arguments(Command::new(agent_binary()?))
    }

    pub(crate) fn arguments(&self, mut command: Command) -> Result<Command> {
        self.arguments_at(&mut command, &self.path("bpf").join(PINS))?;
        Ok(command)
    }

    /// What the agent is told, with another place for its pins.
    pub(crate) fn arguments_at<'a>(&self, command: &'a mut Command, pins: &Path) -> Result<&'a mut Command> {
        let log = File::options().create(true).append(true).open(self.path("log"))?;
        command.arg("run").arg("--config").arg(self.path("config.yaml"));
        command.arg("--pin-directory").arg(pins);
        Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log))
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.start_in(None)
    }

    /// The same, inside a cgroup.
    pub(crate) fn start_in(&mut self, cgroup: Option<&TestCgroup>) -> Result<()> {
        let mut command = self.command()?;
        self.child = Some(match cgroup {
            Some(cgroup) => cgroup.spawn(command)?,
            None => command.spawn()?,
        });
        until("the agent to answer", DEADLINE, || self.get("/healthz").ok())
            .with_context(|| format!("its log: {}", self.log()))?;
        Ok(())
    }

    /// The same, above its workloads and by this command: [`Agent::arguments`] of another than the agent.
    pub(crate) fn start_as(&mut self, command: Command) -> Result<()> {
        self.child = Some(self.parent.spawn(command)?);
        until("the agent to answer", DEADLINE, || self.get("/healthz").ok())
            .with_context(|| format!("its log: {}", self.log()))?;
        Ok(())
    }

    /// The same, inside a network namespace. Its HTTP server is asked there.
    pub(crate) fn start_within(&mut self, namespace: &Namespace) -> Result<()> {
        let mut command = self.arguments(namespace.command(agent_binary()?))?;
        self.child = Some(command.spawn()?);
        self.within = Some(namespace.clone());
        until("the agent to answer", DEADLINE, || self.get("/healthz").ok())
            .with_context(|| format!("its log: {}", self.log()))?;
        Ok(())
    }

    /// Starts one that is expected to end by itself.
    pub(crate) fn start_second(&self) -> Result<i32> {
        self.command()?.status()?.code().context("it was killed")
    }

    /// Where it is scraped.
    pub(crate) fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, and an orderly end.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        let signal = Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
        ensure!(signal.success());
        let ended = until("the agent to end", DEADLINE, || child.try_wait().ok().flatten())?;
        ensure!(ended.success(), "{ended}; its log: {}", self.log());
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A page of its HTTP server, with its status code.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, String)> {
        let connect = || TcpStream::connect_timeout(&self.metrics(), Duration::from_secs(1));
        let mut stream = match &self.within {
            Some(namespace) => namespace.enter(connect),
            None => connect(),
        }?;
        stream.set_read_timeout(Some(DEADLINE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).context("no status")?.parse()?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        Ok((status, body.to_owned()))
    }

    /// The sum of the series of a metric whose labels hold all of these.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let (_, page) = self.get("/metrics")?;
        let name = format!("egress_warden_{name}");
        let mut sum = 0.0;
        for line in page.lines().filter(|line| labels.iter().all(|label| line.contains(label))) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            if series == name || series.starts_with(&format!("{name}{{")) {
                sum += value.parse::<f64>()?;
            }
        }
        Ok(sum)
    }

    /// Waits until a metric has this value.
    pub(crate) fn wait_metric(&self, name: &str, labels: &[&str], value: f64) -> Result<()> {
        until(&format!("{name} to be {value}"), DEADLINE, || {
            self.metric(name, labels).ok().filter(|found| *found == value)
        })
        .map(drop)
        .with_context(|| format!("it is {:?}; its log: {}", self.metric(name, labels), self.log()))
    }

    /// A command of its command line that talks with it.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(agent_binary()?);
        command.args(arguments).arg("--socket").arg(self.path("control/control.sock"));
        Ok(command.output()?)
    }

    pub(crate) fn status(&self) -> Result<Value> {
        let output = self.ask(&["status", "--json"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Makes a workload and waits until it is enforced.
    pub(crate) fn workload(&self, name: &str) -> Result<PathBuf> {
        let path = self.workload_made(name)?;
        self.wait_enforced(name)?;
        Ok(path)
    }

    /// Makes a workload and does not wait.
    pub(crate) fn workload_made(&self, name: &str) -> Result<PathBuf> {
        let path = self.parent.path().join(name);
        fs::create_dir(&path)?;
        Ok(path)
    }

    pub(crate) fn wait_enforced(&self, name: &str) -> Result<()> {
        let enforced = || {
            let status = self.status().ok()?;
            let workloads = status.get("workloads")?.as_array()?;
            let found = workloads.iter().find(|one| {
                one.get("path")
                    .and_then(Value::as_str)
                    .is_some_and(|path| path.ends_with(&format!("/{name}")))
            })?;
            found.get("enforced_since").filter(|since| !since.is_null()).map(drop)
        };
        until(&format!("{name} to be enforced"), DEADLINE, enforced)
            .with_context(|| format!("its log: {}", self.log()))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        if self.mounted {
            // What is pinned goes with the file system.
            Command::new("umount").arg("-l").arg(self.path("bpf")).stderr(Stdio::null()).status().ok();
        }
    }
}

/// A Python program that runs in a namespace and in a cgroup from its first instruction on, and is talked with.
pub(crate) struct Job {
    child: Child,
    input: ChildStdin,
    output: BufReader<std::process::ChildStdout>,
}

impl Job {
    pub(crate) fn start(namespace: &Namespace, cgroup: &Path, program: &str) -> Result<Job> {
        let mut command = namespace.command("sh");
        command.args(["-c", "echo 0 > \"$1/cgroup.procs\" && shift && exec \"$@\"", "sh"]).arg(cgroup);
        command.args(python(program)).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (input, output) =
            (child.stdin.take().context("no pipe")?, child.stdout.take().context("no pipe")?);
        Ok(Job { child, input, output: BufReader::new(output) })
    }

    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("the program said nothing more: {:?}", self.child.wait()?);
        }
        Ok(line.trim_end().to_owned())
    }

    /// Sends a line and returns the answer.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}")?;
        self.line()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Sends one datagram to each place again and again until it is told to stop, and then says how many of each were sent,
/// refused with EPERM, and ended otherwise.
pub(crate) const SENDER: &str = r#"
def sender(*places):
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in places]
    counts = [[0, 0, 0] for _ in places]
    say("ready")
    while not select.select([sys.stdin], [], [], 0)[0]:
        for made, place, count in zip(sockets, places, counts):
            try:
                made.sendto(MARK, place)
                count[0] += 1
            except PermissionError:
                count[1] += 1
            except OSError:
                count[2] += 1
        time.sleep(0.0005)
    wait()
    say(*(number for count in counts for number in count))
"#;

/// What [`SENDER`] says: for each place sent, refused, otherwise.
pub(crate) fn counts<const N: usize>(line: &str) -> Result<[u64; N]> {
    let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
    numbers?.try_into().map_err(|numbers| anyhow::anyhow!("{N} numbers, not {numbers:?}"))
}
