//! Allowlists that change while packets fly.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::until;
use egress_warden_tests::{Capture, Direction, World};

use super::support::{Agent, Job, SENDER, counts, policy};

const ONE: &str = "cidrs: [10.77.2.2/32], ports: [81/udp]";
const OTHER: &str = "cidrs: [10.77.2.2/32], ports: [82/udp]";
/// From the last write until the new policy is in force.
const WITHIN: Duration = Duration::from_secs(1);

fn ruleset(agent: &Agent) -> Option<String> {
    let status = agent.status().ok()?;
    Some(status["workloads"][0]["ruleset"].as_str()?.to_owned())
}

#[test]
fn every_packet_is_judged_by_one_of_two_policies_that_disagree_on_all() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let wire = Capture::start(outside, "eth0")?;
    let _services = [81, 82].map(|port| Server::udp_echo(outside, outside.at(port)));
    let agent = Agent::started(&[ONE], &[])?;
    let workload = agent.workload("busy")?;
    let program = format!("{SENDER}\nsender(('10.77.2.2', 81), ('10.77.2.2', 82))");
    let mut sender = Job::start(job, &workload, &program)?;
    ensure!(sender.line()? == "ready");
    let list = agent.lists().join("list.yaml");
    for round in 0..12 {
        let before = ruleset(&agent);
        let text = policy(agent.parent(), &[if round % 2 == 0 { OTHER } else { ONE }], &[]);
        // The ways in which people and their tools change a file.
        match round % 3 {
            0 => fs::write(&list, text)?,
            1 => {
                fs::write(agent.lists().join("new"), text)?;
                fs::rename(agent.lists().join("new"), &list)?;
            }
            _ => {
                let target = agent.path(&format!("content-{round}"));
                fs::write(&target, text)?;
                std::os::unix::fs::symlink(&target, agent.lists().join("link"))?;
                fs::rename(agent.lists().join("link"), &list)?;
            }
        }
        let written = Instant::now();
        until("the other ruleset", Duration::from_secs(5), || {
            ruleset(&agent).filter(|now| Some(now) != before.as_ref())
        })?;
        assert!(written.elapsed() < WITHIN, "round {round} took {:?}", written.elapsed());
    }
    let [sent_one, refused_one, failed_one, sent_other, refused_other, failed_other] =
        counts(&sender.ask("stop")?)?;
    wire.settle(job, outside.at(9))?;
    assert_eq!((failed_one, failed_other), (0, 0));
    // The positive control: each policy was in force for a while.
    assert!([sent_one, refused_one, sent_other, refused_other].iter().all(|count| *count > 50));
    let arrived = |port: u16| {
        wire.count(|frame| frame.direction == Direction::In && frame.destination_port == Some(port)) as u64
    };
    assert_eq!((arrived(81), arrived(82)), (sent_one, sent_other));
    // A mixture of the two would find no interval, or no ruleset at all.
    let refused = (refused_one + refused_other) as f64;
    agent.wait_metric("violations_total", &["reason=\"port_not_allowed\""], refused)?;
    assert_eq!(agent.metric("violations_total", &[])?, refused);
    Ok(())
}

#[test]
fn what_says_the_same_changes_nothing() -> Result<()> {
    let agent = Agent::started(&[ONE], &[])?;
    agent.workload("quiet")?;
    let before = agent.log();
    let text = policy(agent.parent(), &[ONE], &[]);
    agent.write(&text)?;
    agent.write(&format!("{text}# a remark\n"))?;
    until("the remark to be read", Duration::from_secs(5), || {
        agent.log().strip_prefix(&before)?.contains("allowlists are in force").then_some(())
    })?;
    assert!(!agent.log().contains("another ruleset"), "{}", agent.log());
    agent.wait_metric("map_entries", &["map=\"workloads\""], 1.0)
}

#[test]
fn a_set_that_does_not_fit_is_refused_whole_with_the_figures() -> Result<()> {
    let agent = Agent::started(&[ONE], &[])?;
    agent.workload("quiet")?;
    let before = ruleset(&agent);
    let mut prefixes = String::new();
    for number in 0..700_000_u32 {
        // Every second address of a wide range: none can be merged.
        let address = std::net::Ipv4Addr::from(0x0b00_0000 + 2 * number);
        prefixes += &format!("{address}/32\n");
    }
    fs::write(agent.path("prefixes"), prefixes)?;
    let entry = format!("cidrsFrom: {}, ports: [81/udp]", agent.path("prefixes").display());
    agent.write(&policy(agent.parent(), &[&entry], &[]))?;
    until("the refusal", Duration::from_secs(30), || agent.log().contains("too large").then_some(()))?;
    assert!(agent.log().contains("the limit is"), "{}", agent.log());
    assert_eq!(ruleset(&agent), before);
    agent.wait_metric("allowlist_last_reload_successful", &[], 0.0)
}
