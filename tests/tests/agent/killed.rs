//! An agent that is killed changes nothing in the kernel, and a new one takes over without a gap.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use egress_warden_tests::server::Server;
use egress_warden_tests::{Capture, Direction, World};

use super::support::{Agent, Job, SENDER, counts};

/// How often it is killed.
const TIMES: usize = 50;

#[test]
fn killed_fifty_times_under_traffic_it_lets_nothing_out_and_loses_nothing() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let wire = Capture::start(outside, "eth0")?;
    let allowed = Server::udp_echo(outside, outside.at(80))?;
    let mut agent = Agent::started(&["cidrs: [10.77.2.2/32], ports: [80/udp]"], &[])?;
    let workload = agent.workload("steady")?;
    let program = format!("{SENDER}\nsender(('10.77.2.2', 80), ('10.77.2.2', 99))");
    let mut sender = Job::start(job, &workload, &program)?;
    ensure!(sender.line()? == "ready");
    let mut seen = 0.0;
    for _ in 0..TIMES {
        agent.kill()?;
        agent.start()?;
        let violations = agent.metric("node_violations_total", &[])?;
        assert!(violations >= seen, "a counter fell from {seen} to {violations}");
        seen = violations;
    }
    let [sent, refused_allowed, failed, let_out, refused, failed_refused] = counts(&sender.ask("stop")?)?;
    wire.settle(job, outside.at(9))?;
    assert_eq!((refused_allowed, failed, let_out, failed_refused), (0, 0, 0, 0));
    assert!(sent > 1000 && refused > 1000, "{sent} sent, {refused} refused");
    let arrived = |port: u16| {
        wire.count(|frame| {
            frame.direction == Direction::In && frame.is_udp() && frame.destination_port == Some(port)
        })
    };
    assert_eq!((arrived(80) as u64, arrived(99)), (sent, 0));
    assert_eq!(allowed.served() as u64, sent);
    agent.wait_metric("violations_total", &["reason=\"port_not_allowed\""], refused as f64)?;
    agent.wait_metric("node_violations_total", &[], refused as f64)?;
    assert_eq!(outside.v4, Ipv4Addr::new(10, 77, 2, 2));
    Ok(())
}

#[test]
fn a_second_agent_is_refused_and_an_orderly_end_leaves_enforcement() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let _service = Server::udp_echo(outside, outside.at(80))?;
    let mut agent = Agent::started(&["cidrs: [10.77.2.2/32], ports: [80/udp]"], &[])?;
    let workload = agent.workload("steady")?;
    assert_eq!(agent.start_second()?, 1);
    ensure!(agent.log().contains("another agent is running"), "{}", agent.log());
    agent.stop()?;
    let program = "say(how(lambda: udp('0.0.0.0', 0).sendto(MARK, ('10.77.2.2', 80))))\n\
                   say(how(lambda: udp('0.0.0.0', 0).sendto(MARK, ('10.77.2.2', 99))))";
    let mut after = Job::start(job, &workload, program)?;
    assert_eq!([after.line()?, after.line()?], ["ok", "EPERM"]);
    // Without an agent the command takes it out itself.
    let detached = agent.ask(&[
        "detach",
        "--all",
        "--pin-directory",
        &agent.pins().parent().unwrap().display().to_string(),
    ])?;
    ensure!(detached.status.success(), "{}", String::from_utf8_lossy(&detached.stderr));
    let mut free = Job::start(job, &workload, program)?;
    assert_eq!([free.line()?, free.line()?], ["ok", "ok"]);
    assert!(!agent.pins().exists());
    Ok(())
}

#[test]
fn detach_with_an_agent_is_told_as_not_ready() -> Result<()> {
    let agent = Agent::started(&["cidrs: [10.77.2.2/32]"], &[])?;
    agent.workload("steady")?;
    assert_eq!(agent.get("/readyz")?.0, 200);
    let detached = agent.ask(&["detach"])?;
    ensure!(detached.status.success(), "{}", String::from_utf8_lossy(&detached.stderr));
    let (status, reason) = agent.get("/readyz")?;
    assert_eq!(status, 503);
    assert!(reason.contains("detached"), "{reason}");
    agent.wait_metric("workload_tier", &["tier=\"unenforced\""], 1.0)?;
    let unenforced = || agent.metric("unenforced_seconds_total", &[]).ok().filter(|seconds| *seconds > 0.0);
    egress_warden_tests::wait::until("unenforced seconds", egress_warden_tests::wait::DEADLINE, unenforced)?;
    Ok(())
}
