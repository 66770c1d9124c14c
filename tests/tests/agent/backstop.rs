//! What the agent tells of interfaces without a backstop, and of policies that require one.

use anyhow::{Context, Result, ensure};
use egress_warden_tests::World;
use egress_warden_tests::wait::{DEADLINE, until};
use serde_json::Value;

use super::support::{Agent, Job, policy};

const ENTRY: &str = "cidrs: [10.77.2.2/32], ports: [80]";

fn workload(agent: &Agent) -> Option<Value> {
    agent.status().ok()?.get("workloads")?.as_array()?.first().cloned()
}

/// Waits until the workload's network is known.
fn known(agent: &Agent) -> Result<Value> {
    until("its network to be known", DEADLINE, || {
        workload(agent).filter(|found| found["interfaces"].as_array().is_some_and(|list| !list.is_empty()))
    })
    .with_context(|| agent.log())
}

#[test]
fn the_other_end_in_the_agents_namespace_gets_a_backstop() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let mut agent = Agent::new()?;
    agent.write(&policy(agent.parent(), &[ENTRY], &["require: [backstop]"]))?;
    agent.start_within(world.router())?;
    let cgroup = agent.workload_made("job")?;
    let _job = Job::start(world.host("job"), &cgroup, "wait()")?;
    let found = known(&agent)?;
    assert_eq!((&found["tier"], &found["network"]), (&"backstop".into(), &"own".into()), "{found}");
    assert_eq!(found["interfaces"][0]["name"], "eth0");
    ensure!(found["enforced_since"].is_string() && found["failure"].is_null(), "{found}");
    agent.wait_metric("workload_tier", &["tier=\"backstop\""], 1.0)?;
    assert_eq!(agent.get("/readyz")?.0, 200);
    // An agent that takes over finds it as it was.
    agent.kill()?;
    agent.start_within(world.router())?;
    until("the tier after a restart", DEADLINE, || {
        workload(&agent).filter(|found| found["tier"] == "backstop")
    })?;
    Ok(())
}

#[test]
fn without_one_a_policy_that_requires_it_is_not_met_and_others_are() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let mut agent = Agent::new()?;
    agent.write(&policy(agent.parent(), &[ENTRY], &[]))?;
    // Elsewhere than where the other end is.
    agent.start()?;
    let cgroup = agent.workload_made("job")?;
    let _job = Job::start(world.host("job"), &cgroup, "wait()")?;
    let found = known(&agent)?;
    assert_eq!((&found["tier"], &found["interfaces"][0]["tier"]), (&"cgroup".into(), &"cgroup".into()));
    ensure!(found["interfaces"][0]["why"].as_str().is_some_and(|why| why.contains("not in the agent's")));
    assert_eq!(agent.get("/readyz")?.0, 200);
    agent.write(&policy(agent.parent(), &[ENTRY], &["require: [backstop]"]))?;
    agent.wait_metric("workload_tier", &["tier=\"unenforced\""], 1.0)?;
    let found = workload(&agent).context("it is there")?;
    ensure!(found["failure"].as_str().is_some_and(|why| why.contains("requires a backstop")), "{found}");
    ensure!(found["enforced_since"].is_null(), "{found}");
    assert_eq!(agent.get("/readyz")?.0, 503);
    until("the seconds to count", DEADLINE, || {
        agent.metric("unenforced_seconds_total", &[]).ok().filter(|seconds| *seconds > 0.0)
    })?;
    agent.write(&policy(agent.parent(), &[ENTRY], &[]))?;
    agent.wait_metric("workload_tier", &["tier=\"cgroup\""], 1.0)?;
    assert_eq!(agent.get("/readyz")?.0, 200);
    Ok(())
}
