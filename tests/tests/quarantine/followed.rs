//! The agent that ships follows up what the kernel did, and what people ask for, over its own death.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{TestCgroup, World};

use crate::agent::Agent;
use crate::connections::{AT_ONCE, Job, echo_server};
use crate::processes::{Counter, has};

#[test]
fn a_job_that_crosses_the_threshold_hears_it_at_once_and_is_let_out_by_hand() -> Result<()> {
    let world = World::new(&["job", "outside", "kept"])?;
    let (near, outside, kept) = (world.host("job"), world.host("outside"), world.host("kept"));
    echo_server(outside, outside.at(80))?;
    echo_server(kept, kept.at(80))?;
    let cgroup = TestCgroup::new()?;
    let mut agent = Agent::start(&cgroup, "{violations: 3, within: 60s, keep: [kept]}")?;
    let mut job = Job::start(&cgroup, "", near)?;
    job.connect("open", outside.at(80))?;
    job.connect("kept", kept.at(80))?;
    job.block(&["open"])?;
    let mut crossed = Instant::now();
    for _ in 0..3 {
        crossed = Instant::now();
        assert_eq!(job.tell("refused('10.77.2.9', 80)")?, "EPERM");
    }
    job.wait_for_reads(1, DEADLINE)?;
    let (_, told, at) = job.reads.first().with_context(|| agent.log())?;
    assert_eq!(told, "ECONNABORTED");
    ensure!(*at - crossed < AT_ONCE, "{:?}: {}", *at - crossed, agent.log());
    assert_eq!(job.tell("echo('kept')")?, "True");
    assert_eq!(job.tell("refused('10.77.2.2', 80)")?, "EPERM");

    agent.kill()?;
    assert_eq!(job.tell("refused('10.77.2.2', 80)")?, "EPERM", "the kernel needs no agent");
    agent.start_again()?;
    let quarantine = agent.quarantine()?;
    assert_eq!((&quarantine["who"], &quarantine["action"]), (&"kernel".into(), &"isolate".into()));
    agent.order(&["release"])?;
    job.connect("again", outside.at(80))?;
    assert!(agent.quarantine()?.is_null());
    let history = agent.history()?;
    assert_eq!(history.len(), 2, "{history:?}");
    assert_eq!(history[0], "quarantined isolate kernel");
    assert!(history[1].starts_with("released isolate ann"), "{history:?}");
    assert!(agent.order(&["release"]).is_err(), "it is in none");
    Ok(())
}

#[test]
fn a_frozen_job_goes_on_at_its_time_though_the_agent_was_killed() -> Result<()> {
    let (cgroup, directory) = (TestCgroup::new()?, tempfile::tempdir()?);
    let world = World::new(&["job"])?;
    let mut agent =
        Agent::start(&cgroup, "{violations: 1, within: 60s, keep: [kept], action: freeze, release: 3s}")?;
    let counter = Counter::start(&cgroup, "", directory.path(), "count")?;
    let mut job = Job::start(&cgroup, "", world.host("job"))?;
    job.send("refused('10.77.2.9', 80)")?;
    until("it is frozen", DEADLINE, || has(cgroup.path(), "frozen 1").then_some(()))
        .with_context(|| agent.log())?;
    agent.kill()?;
    ensure!(counter.stands_still(), "it goes on without the agent");
    agent.start_again()?;
    counter.wait_for_progress().with_context(|| agent.log())?;
    until("the agent says so", DEADLINE, || agent.quarantine().ok().filter(serde_json::Value::is_null))?;
    assert_eq!(agent.history()?, ["quarantined freeze kernel", "released freeze agent"]);
    Ok(())
}

#[test]
fn what_is_frozen_goes_on_when_no_policy_selects_it_any_more() -> Result<()> {
    let (cgroup, directory) = (TestCgroup::new()?, tempfile::tempdir()?);
    let agent = Agent::start(&cgroup, "{violations: 1, within: 60s, keep: [kept]}")?;
    let counter = Counter::start(&cgroup, "", directory.path(), "count")?;
    agent.order(&["add", "--action", "freeze"])?;
    until("it is frozen", DEADLINE, || has(cgroup.path(), "frozen 1").then_some(()))?;
    agent.deselect()?;
    counter.wait_for_progress().with_context(|| agent.log())?;
    assert_eq!(agent.history()?.len(), 2);
    Ok(())
}

#[test]
fn what_is_frozen_goes_on_when_enforcement_is_taken_out() -> Result<()> {
    let (cgroup, directory) = (TestCgroup::new()?, tempfile::tempdir()?);
    let agent = Agent::start(&cgroup, "{violations: 1, within: 60s, keep: [kept]}")?;
    let counter = Counter::start(&cgroup, "", directory.path(), "count")?;
    agent.order(&["add", "--action", "freeze"])?;
    until("it is frozen", DEADLINE, || has(cgroup.path(), "frozen 1").then_some(()))?;
    agent.detach()?;
    counter.wait_for_progress().with_context(|| agent.log())
}

#[test]
fn killed_by_hand_is_killed_and_what_starts_afterwards_is_cut_off() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let outside = world.host("outside");
    echo_server(outside, outside.at(80))?;
    let (cgroup, directory) = (TestCgroup::new()?, tempfile::tempdir()?);
    let agent = Agent::start(&cgroup, "{violations: 1, within: 60s, keep: [kept]}")?;
    let counter = Counter::start(&cgroup, "", directory.path(), "count")?;
    agent.order(&["add", "--action", "kill"])?;
    until("nothing runs", DEADLINE, || has(cgroup.path(), "populated 0").then_some(()))?;
    ensure!(counter.stands_still(), "it goes on");
    let mut job = Job::start(&cgroup, "", world.host("job"))?;
    assert_eq!(job.tell("refused('10.77.2.2', 80)")?, "EPERM");
    assert_eq!(job.tell("echo")?.split(' ').next(), Some("<function"), "and is not killed");
    let listed = agent.ask(&["quarantine", "list"])?;
    ensure!(listed.contains("kill") && listed.contains("ann"), "{listed}");
    Ok(())
}

#[test]
fn who_asks_for_what_cannot_be_done_is_told_and_the_job_is_cut_off() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let outside = world.host("outside");
    echo_server(outside, outside.at(80))?;
    let cgroup = TestCgroup::new()?;
    // As a delegated one: the agent needs a capability to write there, and this one lacks it.
    std::os::unix::fs::chown(cgroup.path().join("cgroup.kill"), Some(1), None)?;
    let agent =
        Agent::start_without(Some("-dac_override"), &cgroup, "{violations: 1, within: 60s, keep: [kept]}")?;
    let mut job = Job::start(&cgroup, "", world.host("job"))?;
    job.connect("open", outside.at(80))?;
    let told = agent.order(&["add", "--action", "kill"]).expect_err("it is not killed").to_string();
    ensure!(told.contains("is cut off, but") && told.contains("kill: Permission denied"), "{told}");
    assert_eq!(job.tell("refused('10.77.2.2', 80)")?, "EPERM");
    let history = agent.history()?;
    assert_eq!(history.len(), 2);
    assert_eq!(history[1], "failed kill agent");
    Ok(())
}
