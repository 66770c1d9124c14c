//! Raw sockets under the agent: opened and closed by a reload, and by nothing else.

use std::time::Duration;

use anyhow::{Context, Result};
use egress_warden_tests::World;
use egress_warden_tests::wait::until;

use super::support::{Agent, Job, policy};

const ENTRY: &str = "cidrs: [10.77.2.2/32], icmp: all";

/// Makes a raw socket of the protocol that it is told, over both versions.
const MAKES: &str = r#"
while True:
    protocol = int(wait())
    families = (socket.AF_INET, socket.AF_INET6)
    say(*(how(lambda: socket.socket(family, socket.SOCK_RAW, protocol).close()) for family in families))
"#;

fn ruleset(agent: &Agent) -> Result<String> {
    let status = agent.status()?;
    Ok(status["workloads"][0]["ruleset"].as_str().context("no ruleset")?.to_owned())
}

/// Writes the allowlist anew and waits until it is in force.
fn reload(agent: &Agent, more: &[&str]) -> Result<()> {
    let before = ruleset(agent)?;
    agent.write(&policy(agent.parent(), &[ENTRY], more))?;
    until("the other ruleset", Duration::from_secs(5), || ruleset(agent).ok().filter(|now| *now != before))?;
    Ok(())
}

#[test]
fn a_reload_opens_and_closes_them() -> Result<()> {
    let world = World::new(&["job"])?;
    let mut agent = Agent::started(&[ENTRY], &[])?;
    let workload = agent.workload("maker")?;
    let mut job = Job::start(world.host("job"), &workload, MAKES)?;
    assert_eq!(job.ask("1")?, "EPERM EPERM");
    reload(&agent, &["raw: [icmp]"])?;
    assert_eq!((job.ask("1")?, job.ask("6")?), ("ok ok".to_owned(), "EPERM EPERM".to_owned()));
    // It stands in the kernel, and whoever starts next reads it there.
    agent.kill()?;
    assert_eq!((job.ask("1")?, job.ask("58")?), ("ok ok".to_owned(), "EPERM EPERM".to_owned()));
    agent.start()?;
    agent.wait_enforced("maker")?;
    assert_eq!((job.ask("1")?, job.ask("255")?), ("ok ok".to_owned(), "EPERM EPERM".to_owned()));
    reload(&agent, &[])?;
    assert_eq!(job.ask("1")?, "EPERM EPERM");
    for (protocol, count) in [("icmp", 6.0), ("tcp", 2.0), ("other", 2.0)] {
        let labels = ["reason=\"socket_type\"", &format!("protocol=\"{protocol}\"")];
        agent.wait_metric("violations_total", &labels, count)?;
    }
    assert_eq!(agent.metric("violations_total", &[])?, 10.0);
    Ok(())
}
