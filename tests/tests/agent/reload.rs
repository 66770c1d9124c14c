//! Allowlists that change while packets fly.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::until;
use egress_warden_tests::{Capture, Direction, World};

use super::support::{Agent, Job, SENDER, counts, policy};

const ONE: &str = "cidrs: [10.77.2.2/32], ports: [81/udp]";
/// Two policies that disagree on the first two ports. Both allow the third and refuse the fourth: only a mixture, an
/// address of one with the ports of the other, would let that out.
const OLD: [&str; 2] =
    ["cidrs: [10.77.2.2/32], ports: [81/udp, 83/udp]", "cidrs: [10.77.3.2/32], ports: [84/udp]"];
const NEW: [&str; 2] =
    ["cidrs: [10.77.2.0/24], ports: [82/udp, 83/udp]", "cidrs: [10.77.4.0/24], ports: [84/udp]"];
const PORTS: [u16; 4] = [81, 82, 83, 84];
const RELOADS: usize = 51;
/// From the last write until the new policy is in force.
const WITHIN: Duration = Duration::from_secs(1);

fn ruleset(agent: &Agent) -> Option<String> {
    let status = agent.status().ok()?;
    Some(status["workloads"][0]["ruleset"].as_str()?.to_owned())
}

#[test]
fn every_packet_is_judged_by_one_of_two_policies_and_never_by_a_mixture() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let wire = Capture::start(outside, "eth0")?;
    let _services = PORTS.map(|port| Server::udp_echo(outside, outside.at(port)));
    let agent = Agent::started(&OLD, &[])?;
    let workload = agent.workload("busy")?;
    let program = format!("{SENDER}\nsender(*(('10.77.2.2', port) for port in range(81, 85)))");
    let mut sender = Job::start(job, &workload, &program)?;
    ensure!(sender.line()? == "ready");
    let list = agent.lists().join("list.yaml");
    let mut took = Vec::new();
    for round in 0..RELOADS {
        let before = ruleset(&agent);
        let text = policy(agent.parent(), if round % 2 == 0 { &NEW } else { &OLD }, &[]);
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
        took.push(written.elapsed());
    }
    took.sort_unstable();
    // On a busy machine one or the other may wait for a processor.
    ensure!(took[RELOADS * 9 / 10] < WITHIN, "{took:?}");
    let counts: [u64; 12] = counts(&sender.ask("stop")?)?;
    wire.settle(job, outside.at(9))?;
    let [first, second, both, neither] = [0, 3, 6, 9].map(|at| [counts[at], counts[at + 1], counts[at + 2]]);
    ensure!([first, second, both, neither].iter().all(|[.., failed]| *failed == 0), "{counts:?}");
    // The positive control: each policy was in force for a while.
    ensure!(
        [first[0], first[1], second[0], second[1]].iter().all(|count| *count > RELOADS as u64),
        "{counts:?}"
    );
    assert_eq!((both[1], neither[0]), (0, 0), "one was allowed and one refused throughout");
    let arrived = |port: u16| {
        wire.count(|frame| frame.direction == Direction::In && frame.destination_port == Some(port)) as u64
    };
    assert_eq!(PORTS.map(arrived), [first[0], second[0], both[0], 0]);
    let refused = (first[1] + second[1] + neither[1]) as f64;
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
