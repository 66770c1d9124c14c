//! Which cgroups are workloads, and from when on.

use std::fs;

use anyhow::{Result, ensure};
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{TestCgroup, World};

use super::support::{Agent, Job, policy};

const PLACE: &str = "cidrs: [10.77.2.2/32], ports: [80]";

#[test]
fn new_cgroups_are_enforced_within_milliseconds() -> Result<()> {
    let agent = Agent::started(&[PLACE], &[])?;
    for number in 0..200 {
        fs::create_dir(agent.parent().path().join(format!("job-{number}")))?;
        agent.wait_metric("workload_tier", &["tier=\"cgroup\""], f64::from(number + 1))?;
    }
    let count = agent.metric("enforcement_delay_seconds_count", &[])?;
    let within = agent.metric("enforcement_delay_seconds_bucket", &["le=\"0.005\""])?;
    let sum = agent.metric("enforcement_delay_seconds_sum", &[])?;
    println!(
        "figure: new cgroup to enforced: {within} of {count} within 5 ms, mean {:.2} ms",
        sum / count * 1e3
    );
    assert_eq!(count, 200.0);
    // The aim is 99 of 100; a test on a busy machine asks for less.
    assert!(within >= 190.0, "{within} of {count} within 5 ms");
    Ok(())
}

#[test]
fn replies_are_let_out_once_the_network_is_known() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let agent = Agent::started(&["cidrs: [10.99.0.0/16]"], &[])?;
    let workload = agent.workload("server")?;
    // It listens at once, long before anybody can know in which namespace it is.
    let program = "listener = listen('0.0.0.0', 80)\nsay('ready')\nwhile True:\n  made, _ = listener.accept()\n  made.sendall(b'hello')\n  made.close()";
    let mut server = Job::start(job, &workload, program)?;
    ensure!(server.line()? == "ready");
    let calls = || {
        outside.enter(|| {
            use std::io::Read;
            let mut stream =
                std::net::TcpStream::connect_timeout(&job.at(80), std::time::Duration::from_secs(1)).ok()?;
            let mut said = String::new();
            stream.read_to_string(&mut said).ok()?;
            (said == "hello").then_some(())
        })
    };
    until("an answer from the workload", DEADLINE, calls)
}

#[test]
fn its_own_cgroup_and_what_nobody_selects_are_left_alone() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let _service = Server::tcp_greeter(outside, outside.at(99), b"hello")?;
    let mut agent = Agent::new()?;
    let own = TestCgroup::named("egress-warden-agent-own")?;
    let own_name = own.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = policy(agent.parent(), &[PLACE], &[]);
    let selects = format!("\"/{own_name}\", \"/");
    agent.write(&text.replacen("\"/", &selects, 1))?;
    agent.start_in(Some(&own))?;
    let other = TestCgroup::named("egress-warden-other")?;
    agent.workload("selected")?;
    let status = agent.status()?;
    assert_eq!(status["workloads"].as_array().map(Vec::len), Some(1), "{status}");
    let program = "say(how(lambda: tcp('10.77.2.2', 99)))";
    assert_eq!(Job::start(job, other.path(), program)?.line()?, "ok");
    Ok(())
}

#[test]
fn a_policy_that_no_longer_selects_lets_go() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let _service = Server::tcp_greeter(outside, outside.at(99), b"hello")?;
    let agent = Agent::started(&[PLACE], &[])?;
    let workload = agent.workload("job")?;
    let program = "say(how(lambda: tcp('10.77.2.2', 99)))";
    assert_eq!(Job::start(job, &workload, program)?.line()?, "EPERM");
    let text = policy(agent.parent(), &[PLACE], &[]);
    agent.write(&text.replace("/*\"", "/other-*\""))?;
    agent.wait_metric("workload_tier", &["tier=\"cgroup\""], 0.0)?;
    assert_eq!(Job::start(job, &workload, program)?.line()?, "ok");
    // What it did before stays in the node's sum.
    agent.wait_metric("node_violations_total", &["reason=\"port_not_allowed\""], 1.0)?;
    // In audit it is counted and let through.
    agent.write(&text.replace("mode: enforce", "mode: audit"))?;
    agent.wait_metric("workload_tier", &["tier=\"cgroup\""], 1.0)?;
    assert_eq!(Job::start(job, &workload, program)?.line()?, "ok");
    agent.wait_metric("node_violations_total", &["mode=\"audit\"", "reason=\"port_not_allowed\""], 1.0)
}
