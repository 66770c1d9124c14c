//! More cgroups come and go than the kernel can tell the agent of: it looks for itself.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use egress_warden_common::limits::CGROUPS_BYTES;
use egress_warden_common::state::{CGROUP_PATH, CgroupEvent};

use super::support::{Agent, policy};

const PLACE: &str = "cidrs: [10.77.2.2/32], ports: [80]";
/// Cgroups that nobody selects, one below the other's name.
const OTHERS: usize = 3_000;

fn signal(agent: &Agent, name: &str) -> Result<()> {
    let sent = Command::new("kill").args([name, &agent.pid().to_string()]).status()?;
    ensure!(sent.success(), "kill {name}: {sent}");
    Ok(())
}

#[test]
fn what_the_ring_has_no_room_for_is_found() -> Result<()> {
    let agent = Agent::started(&[PLACE], &[])?;
    let enforced = |count: f64| agent.wait_metric("workload_tier", &["tier=\"cgroup\""], count);
    for number in 0..50 {
        agent.workload_made(&format!("early-{number}"))?;
    }
    enforced(50.0)?;
    let crowd = agent.workload_made("crowd")?;
    enforced(51.0)?;

    signal(&agent, "-STOP")?;
    let filled = OTHERS * size_of::<CgroupEvent>() > CGROUPS_BYTES as usize;
    ensure!(filled, "{OTHERS} cgroups do not fill the ring");
    for number in 0..OTHERS {
        fs::create_dir(crowd.join(number.to_string()))?;
    }
    // None of these is told of any more.
    for number in 0..100 {
        agent.workload_made(&format!("late-{number}"))?;
    }
    for number in 0..50 {
        fs::remove_dir(agent.parent().path().join(format!("early-{number}")))?;
    }
    signal(&agent, "-CONT")?;
    agent.wait_enforced("late-99")?;
    enforced(101.0)?;
    // The next is told of as before, within milliseconds.
    let before = agent.metric("enforcement_delay_seconds_count", &[])?;
    agent.workload("after")?;
    assert_eq!(agent.metric("enforcement_delay_seconds_count", &[])?, before + 1.0);
    enforced(102.0)
}

/// The kernel takes paths of eight times the length.
#[test]
fn what_has_too_long_a_path_to_be_told_of_is_found() -> Result<()> {
    let mut agent = Agent::new()?;
    agent.write(&policy(agent.parent(), &[PLACE], &[]).replace("/*\"", "/*/*/job-*\""))?;
    let (first, second) = ("x".repeat(250), "y".repeat(250));
    let below = agent.parent().path().join(&first).join(&second);
    fs::create_dir_all(&below)?;
    ensure!(below.as_os_str().len() > CGROUP_PATH);
    agent.start()?;
    fs::create_dir(agent.parent().path().join("short"))?;
    fs::create_dir_all(agent.parent().path().join("short/er"))?;
    fs::create_dir(agent.parent().path().join("short/er/job-1"))?;
    agent.wait_metric("workload_tier", &["tier=\"cgroup\""], 1.0)?;
    // Nothing else happens afterwards that would make the agent look.
    fs::create_dir(below.join("job-2"))?;
    agent.wait_metric("workload_tier", &["tier=\"cgroup\""], 2.0)
}
