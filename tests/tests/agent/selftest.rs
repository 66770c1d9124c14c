//! The self-test: green where everything holds, red where something was taken out, and nothing left of it. All of it runs
//! inside a namespace of the test's own.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Namespace, agent_binary, cgroup2_mount};
use serde_json::Value;

use super::support::{Agent, policy};

const ENTRY: &str = "cidrs: [192.0.2.1/32]";

/// An agent that tests itself, in a namespace of its own.
fn tested() -> Result<(Namespace, Agent)> {
    let (namespace, mut agent) = (Namespace::new()?, Agent::new()?);
    agent.test_itself_every("1h")?;
    agent.write(&policy(agent.parent(), &[ENTRY], &[]))?;
    agent.start_within(&namespace)?;
    Ok((namespace, agent))
}

fn report(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("no report: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The ways with this verdict, each with the reason told for it.
fn with_verdict<'r>(report: &'r Value, verdict: &str) -> Vec<(&'r str, &'r str)> {
    let ways = report["ways"].as_array().into_iter().flatten();
    let text = |way: &'r Value, key: &str| way[key].as_str().unwrap_or_default();
    ways.filter(|way| way["verdict"] == verdict).map(|way| (text(way, "way"), text(way, "why"))).collect()
}

fn cgroup_of(pid: u32) -> Result<PathBuf> {
    Ok(cgroup2_mount()?.join(format!("egress-warden-selftest-{pid}")))
}

/// Interfaces of self-tests.
fn interfaces(namespace: &Namespace) -> Result<usize> {
    let listed = namespace.run(["ip", "-oneline", "link"])?;
    Ok(String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.contains("ewst")).count())
}

fn nothing_left(namespace: &Namespace, pid: u32) -> Result<()> {
    ensure!(!cgroup_of(pid)?.exists(), "its cgroup is left");
    ensure!(interfaces(namespace)? == 0, "an interface is left");
    Ok(())
}

#[test]
fn an_agent_finds_every_way_closed_and_counts_nothing_of_it() -> Result<()> {
    let (namespace, agent) = tested()?;
    agent.wait_metric("selftest_passing", &[], 1.0)?;
    // A policy that would select it changes nothing.
    let selecting = policy(agent.parent(), &[ENTRY], &[]);
    let line = selecting.lines().find(|line| line.contains("select:")).context("a selector")?;
    let wider = format!("  select: {{cgroups: [\"/egress-warden-selftest-{}\"]}}", agent.pid());
    agent.write(&selecting.replace(line, &wider))?;
    until("the reload", DEADLINE, || agent.log().matches("allowlists are in force").nth(1).map(drop))?;
    let output = agent.ask(&["selftest", "--json"])?;
    let told = report(&output)?;
    ensure!(output.status.success() && told["passed"] == true && told["by_agent"] == true, "{told:#}");
    assert_eq!(with_verdict(&told, "closed").len(), told["ways"].as_array().map_or(0, Vec::len), "{told:#}");
    for metric in ["node_violations_total", "violations_total", "workloads"] {
        assert_eq!(agent.metric(metric, &[])?, 0.0, "{metric}");
    }
    let status = agent.status()?;
    ensure!(status["selftest"]["passed"] == true, "{status:#}");
    assert_eq!(status["workloads"].as_array().map(Vec::len), Some(0));
    nothing_left(&namespace, agent.pid())
}

/// Has the agent test itself, and takes out of the kernel what is pinned in these directories once the first attempt has
/// begun. The attempts stand still meanwhile.
fn sabotaged(agent: &Agent, directories: &[&str]) -> Result<Output> {
    let cgroup = cgroup_of(agent.pid())?;
    let take_out = || -> Result<()> {
        let freeze = cgroup.join("cgroup.freeze");
        until("its cgroup", DEADLINE, || fs::write(&freeze, "1").ok())?;
        until("an attempt", DEADLINE, || attempting(&cgroup))?;
        for pins in directories.iter().map(|directory| fs::read_dir(agent.pins().join(directory))) {
            for pins in pins?.flatten() {
                for pin in fs::read_dir(pins.path())?.flatten() {
                    fs::remove_file(pin.path())?;
                }
            }
        }
        Ok(fs::write(&freeze, "0")?)
    };
    thread::scope(|scope| {
        let saboteur = scope.spawn(take_out);
        let output = agent.ask(&["selftest", "--json"]);
        saboteur.join().map_err(|_| anyhow!("the saboteur panicked"))??;
        output
    })
}

#[test]
fn without_the_programs_of_the_cgroup_ways_are_open_that_the_backstop_still_holds() -> Result<()> {
    let (namespace, agent) = tested()?;
    agent.wait_metric("selftest_passing", &[], 1.0)?;
    let output = sabotaged(&agent, &["links"])?;
    let told = report(&output)?;
    assert_eq!(output.status.code(), Some(1), "{told:#}");
    let open = with_verdict(&told, "open");
    for way in ["udp-v6", "raw-icmp", "ip-options"] {
        ensure!(open.iter().any(|(found, _)| *found == way), "{way} is not open: {told:#}");
    }
    ensure!(open.contains(&("ip-options", "it left the workload; only the backstop held it")), "{told:#}");
    agent.wait_metric("selftest_passing", &[], 0.0)?;
    ensure!(agent.metric("selftest_last_pass_timestamp_seconds", &[])? > 0.0);
    ensure!(agent.status()?["selftest"]["passed"] == false);
    nothing_left(&namespace, agent.pid())
}

#[test]
fn without_any_program_everything_that_can_be_sent_arrives() -> Result<()> {
    let (namespace, agent) = tested()?;
    agent.wait_metric("selftest_passing", &[], 1.0)?;
    let output = sabotaged(&agent, &["links", "interfaces"])?;
    let told = report(&output)?;
    assert_eq!(output.status.code(), Some(1), "{told:#}");
    let arrived: Vec<&str> = with_verdict(&told, "open")
        .into_iter()
        .filter(|(_, why)| *why == "it arrived")
        .map(|(way, _)| way)
        .collect();
    // The first ones may have been tried before it stood still.
    for way in [
        "forged-source",
        "ip-options",
        "fragment",
        "routing-header",
        "frame",
        "frame-bypass",
        "frame-vlan",
        "frame-other",
    ] {
        ensure!(arrived.contains(&way), "{way} did not arrive: {told:#}");
    }
    agent.wait_metric("selftest_passing", &[], 0.0)?;
    nothing_left(&namespace, agent.pid())
}

/// One without an agent.
fn alone(namespace: &Namespace) -> Result<Command> {
    let mut command = namespace.command(agent_binary()?);
    command.args(["selftest", "--json", "--socket", "/nonexistent/control.sock"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

#[test]
fn without_an_agent_programs_are_loaded_for_it_and_gone_afterwards() -> Result<()> {
    let namespace = Namespace::new()?;
    let child = alone(&namespace)?.spawn()?;
    let pid = child.id();
    let output = child.wait_with_output()?;
    let told = report(&output)?;
    ensure!(output.status.success() && told["passed"] == true && told["by_agent"] == false, "{told:#}");
    nothing_left(&namespace, pid)
}

/// Waits until a self-test has its cgroup, and kills it.
fn kill_within(child: &mut Child) -> Result<PathBuf> {
    let cgroup = cgroup_of(child.id())?;
    until("an attempt", DEADLINE, || attempting(&cgroup))?;
    child.kill()?;
    ensure!(child.wait()?.signal().is_some(), "it had ended before");
    Ok(cgroup)
}

fn attempting(cgroup: &Path) -> Option<()> {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).ok()?;
    (!processes.is_empty()).then_some(())
}

#[test]
fn one_that_is_killed_leaves_a_cgroup_which_the_next_one_removes() -> Result<()> {
    let namespace = Namespace::new()?;
    let cgroup = kill_within(&mut alone(&namespace)?.spawn()?)?;
    until("its interface to go", DEADLINE, || (interfaces(&namespace).ok()? == 0).then_some(()))?;
    let output = alone(&namespace)?.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(!cgroup.exists(), "it is left");
    Ok(())
}

#[test]
fn an_agent_that_is_killed_within_one_starts_again_without_a_trace_of_it() -> Result<()> {
    let (namespace, mut agent) = (Namespace::new()?, Agent::new()?);
    agent.test_itself_every("1h")?;
    agent.write(&policy(agent.parent(), &[ENTRY], &[]))?;
    agent.start_within(&namespace)?;
    let cgroup = cgroup_of(agent.pid())?;
    until("an attempt", DEADLINE, || attempting(&cgroup))?;
    agent.kill()?;
    agent.start_within(&namespace)?;
    agent.wait_metric("selftest_passing", &[], 1.0)?;
    ensure!(!cgroup.exists(), "its cgroup is left");
    assert_eq!(fs::read_dir(agent.pins().join("links"))?.count(), 0);
    assert_eq!(fs::read_dir(agent.pins().join("interfaces"))?.count(), 0);
    assert_eq!(agent.metric("node_violations_total", &[])?, 0.0);
    nothing_left(&namespace, agent.pid())
}
