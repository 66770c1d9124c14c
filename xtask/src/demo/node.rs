//! The step with the agent of a node, whose backstop answers what a policy refuses.

use std::io::{Read, Write};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use egress_warden_tests::TestCgroup;
use egress_warden_tests::wait::{DEADLINE, until};

use super::files;
use super::interrupt;
use super::names::{Lookup, NAMES, all_ended, slowest};
use super::screen::{Screen, plural};
use super::stage::{Program, Stage};
use super::wire::Wire;

const AGENT: [&str; 6] =
    ["egress-warden", "run", "--config", "node.yaml", "--pin-directory", "bpf/egress-warden"];
/// An agent that is gone leaves its programs in place; this takes them out.
const DETACH: [&str; 5] = ["egress-warden", "detach", "--all", "--pin-directory", "bpf/egress-warden"];
const STATUS: [&str; 5] = ["egress-warden", "status", "--json", "--socket", "control/control.sock"];
/// Waits until the agent knows where its process is, and then does what the workload does.
const WORK: [&str; 3] =
    ["sh", "-c", "read -r _; ./tunnel; exec curl -sS --max-time 5 http://internal.test:8080/"];

/// The agent, in the namespace that holds the other end of the job's wire, and a workload of it.
struct Node<'a> {
    stage: &'a Stage,
    agent: Program,
    workload: TestCgroup,
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        // It fails where the agent ended by itself.
        self.agent.0.kill().ok();
    }
}

impl<'a> Node<'a> {
    fn start(stage: &'a Stage) -> Result<Node<'a>> {
        files::mount_bpf(stage.directory())?;
        let workload = stage.cgroup().child("job")?;
        let mut command = stage.command(stage.world().router(), &AGENT)?;
        command.stdout(Stdio::null()).stderr(stage.create("node.log")?);
        let agent = Program(stage.spawn(command)?);
        Ok(Node { stage, agent, workload })
    }

    /// Waits until the backstop sits at the workload's wire.
    fn wait_backstop(&self) -> Result<()> {
        until("the backstop", DEADLINE, || {
            let mut command = self.stage.command(self.stage.world().router(), &STATUS).ok()?;
            let output = command.output().ok()?;
            let status = String::from_utf8_lossy(&output.stdout).replace(' ', "");
            (interrupt::received().is_some() || status.contains("\"tier\":\"backstop\"")).then_some(())
        })
        .with_context(|| self.stage.read("node.log").unwrap_or_default())?;
        interrupt::check()
    }

    /// Ends the agent, and with it what it enforces: the wire that it sits at is everybody's in the steps that follow.
    fn detach(mut self) -> Result<()> {
        self.agent.0.kill()?;
        self.agent.0.wait()?;
        let output = self.stage.command(self.stage.world().router(), &DETACH)?.output()?;
        if !output.status.success() {
            bail!("`{}`: {}", DETACH.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

/// A refused name does not exist, for a workload with a backstop.
pub(super) fn run(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step(
        "On a node, where the agent has a backstop, a refused name is answered on the spot: no such name.",
    )?;
    screen.command(&AGENT.join(" "))?;
    let node = Node::start(stage)?;
    let resolver = Wire::of(stage, "resolver")?;
    let mut command = stage.command(stage.world().host("job"), &WORK)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut work = Program(node.workload.spawn(command)?);
    let mut input = work.0.stdin.take().context("standard input is a pipe")?;
    let output = work.0.stdout.take().context("standard output is a pipe")?;
    let ready = node.wait_backstop();
    // A workload that waits for ever would keep the demo from ending.
    input.write_all(b"\n").ok();
    drop(input);
    ready?;
    tell(stage, screen, &resolver, output)?;
    drop(work);
    screen.command(&DETACH.join(" "))?;
    node.detach()
}

fn tell(stage: &Stage, screen: &mut Screen, resolver: &Wire<'_>, mut output: impl Read) -> Result<()> {
    let mut printed = String::new();
    output.read_to_string(&mut printed)?;
    resolver.settle_from(stage.world().host("index"))?;
    let lookups = Lookup::all_in(&printed)?;
    let (queries, leaked) = (resolver.queries(), resolver.queries_below(b"\x04evil\x04test\0"));
    screen
        .command("./tunnel; curl -sS http://internal.test:8080/   # in a cgroup that the policy selects")?;
    for lookup in &lookups {
        screen.output(&format!("{}  {} in {:.2} ms", lookup.name, lookup.outcome, lookup.milliseconds()))?;
    }
    screen.output(printed.lines().last().unwrap_or(""))?;
    screen.prove(
        all_ended(&lookups, "EAI_NONAME") && leaked == 0,
        format!(
            "the resolver library heard {NAMES} times that there is no such name, the slowest in {:.2} ms: {} at the \
             resolver",
            slowest(&lookups),
            plural(leaked, "query")
        ),
    )?;
    screen.prove(
        printed.contains("checkpoint stored") && queries > 0,
        format!("the internal service is found by its name: {} at the resolver", plural(queries, "query")),
    )
}
