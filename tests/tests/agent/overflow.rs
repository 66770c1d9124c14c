//! More cgroups come and go than the kernel can tell the agent of: it looks for itself.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use egress_warden_common::state::CgroupEvent;

use super::support::Agent;

const PLACE: &str = "cidrs: [10.77.2.2/32], ports: [80]";
/// What the kernel keeps for an agent that does not read: `CGROUPS` of ebpf/src/maps.rs.
const RING: usize = 128 * 1024;
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
    let filled = OTHERS * size_of::<CgroupEvent>() > 2 * RING;
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
