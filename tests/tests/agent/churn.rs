//! A thousand workloads come and go, and nothing of them stays.

use std::fs;

use anyhow::Result;
use egress_warden_tests::wait::{DEADLINE, until};

use super::support::Agent;

const BATCHES: usize = 4;
const BATCH: usize = 250;

fn descriptors(agent: &Agent) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", agent.pid()))?.count())
}

#[test]
fn a_thousand_workloads_leave_nothing() -> Result<()> {
    let agent = Agent::started(&["cidrs: [10.77.2.2/32]"], &[])?;
    let before = descriptors(&agent)?;
    for batch in 0..BATCHES {
        let paths: Vec<_> =
            (0..BATCH).map(|number| agent.parent().path().join(format!("job-{batch}-{number}"))).collect();
        paths.iter().try_for_each(fs::create_dir)?;
        agent.wait_metric("workload_tier", &["tier=\"cgroup\""], BATCH as f64)?;
        paths.iter().try_for_each(fs::remove_dir)?;
        agent.wait_metric("workload_tier", &["tier=\"cgroup\""], 0.0)?;
    }
    for map in ["workloads", "locals", "refused", "words"] {
        agent.wait_metric("map_entries", &[&format!("map=\"{map}\"")], 0.0)?;
    }
    assert_eq!(fs::read_dir(agent.pins().join("links"))?.count(), 0);
    // Who looks after what workloads have in reach may be reading a directory at this very moment.
    until("no descriptor too many", DEADLINE, || descriptors(&agent).ok().filter(|after| *after <= before))?;
    let delays = agent.metric("enforcement_delay_seconds_count", &[])?;
    assert_eq!(delays, (BATCHES * BATCH) as f64, "each was enforced when it was made");
    Ok(())
}
