//! Names, limits and files that somebody chose to be in the agent's way.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_warden_tests::World;
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::{DEADLINE, until};

use super::support::{Agent, Job, policy};

const PLACE: &str = "cidrs: [10.77.2.2/32], ports: [80/tcp]";
const CALL: &str = "say(how(lambda: tcp('10.77.2.2', 99)))";

#[test]
fn a_name_that_is_no_text_is_enforced_like_any_other() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let _service = Server::tcp_greeter(outside, outside.at(99), b"hello")?;
    let mut agent = Agent::started(&[PLACE], &[])?;
    let before = agent.parent().path().join(OsStr::from_bytes(b"before\xff"));
    let after = agent.parent().path().join(OsStr::from_bytes(b"after\xfe"));
    fs::create_dir(&before)?;
    agent.wait_enforced(r"before\xff")?;
    assert_eq!(Job::start(job, &before, CALL)?.line()?, "EPERM");
    let asked = agent.ask(&["quarantine", "add", r"before\xff", "--why", "a test", "--action", "freeze"])?;
    ensure!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    agent.kill()?;
    fs::create_dir(&after)?;
    agent.start()?;
    agent.wait_enforced(r"after\xfe")?;
    assert_eq!(Job::start(job, &after, CALL)?.line()?, "EPERM");
    // What was kept of it on the disk leads to the same cgroup.
    let asked = agent.ask(&["quarantine", "release", r"before\xff", "--why", "a test"])?;
    ensure!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    assert!(fs::read_to_string(before.join("cgroup.events"))?.contains("frozen 0"));
    ensure!(agent.ask(&["quarantine", "list", "--history"])?.status.success());
    assert!(agent.get("/metrics")?.1.contains(r"after\\xfe"));
    assert_eq!(agent.get("/readyz")?.0, 200);
    Ok(())
}

#[test]
fn who_could_not_be_enforced_at_first_is_whole_afterwards() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let agent = Agent::started(&[PLACE], &[])?;
    // No link can be pinned.
    let links = agent.pins().join("links");
    fs::remove_dir(&links)?;
    symlink("/nowhere/at/all", &links)?;
    let path = agent.parent().path().join("late");
    fs::create_dir(&path)?;
    let mut first = Job::start(job, &path, "say('ready')\nwait()")?;
    ensure!(first.line()? == "ready");
    // Longer than between two attempts, which do not begin the count anew.
    let seconds = || agent.metric("unenforced_seconds_total", &[]).ok().filter(|seconds| *seconds > 7.0);
    until("the time without enforcement", Duration::from_secs(20), seconds)?;
    assert_eq!(agent.get("/readyz")?.0, 503);
    fs::remove_file(&links)?;
    fs::create_dir(&links)?;
    agent.wait_enforced("late")?;
    assert_eq!(agent.get("/readyz")?.0, 200);
    ensure!(agent.metric("unenforced_seconds_total", &[])? > 7.0, "a counter never falls");
    // What is enforced only now listens only now; of the network nothing new is told.
    let program = "listener = listen('0.0.0.0', 80)\nsay('ready')\nwhile True:\n  made, _ = listener.accept()\n  made.sendall(b'hello')\n  made.close()";
    let mut server = Job::start(job, &path, program)?;
    ensure!(server.line()? == "ready");
    let calls = || {
        outside.enter(|| {
            use std::io::Read;
            let mut stream =
                std::net::TcpStream::connect_timeout(&job.at(80), Duration::from_secs(1)).ok()?;
            let mut said = String::new();
            stream.read_to_string(&mut said).ok()?;
            (said == "hello").then_some(())
        })
    };
    until("an answer: its network was not forgotten", DEADLINE, calls)
}

#[test]
fn what_was_counted_outlives_detach() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let job = world.host("job");
    let mut agent = Agent::started(&[PLACE], &[])?;
    let path = agent.workload("job")?;
    assert_eq!(Job::start(job, &path, CALL)?.line()?, "EPERM");
    let reason = ["reason=\"port_not_allowed\""];
    agent.wait_metric("node_violations_total", &reason, 1.0)?;
    ensure!(agent.ask(&["detach"])?.status.success());
    agent.wait_metric("node_violations_total", &reason, 1.0)?;
    agent.kill()?;
    agent.start()?;
    agent.wait_enforced("job")?;
    agent.wait_metric("node_violations_total", &reason, 1.0)
}

#[test]
fn without_any_policy_a_pinned_workload_makes_nobody_ready() -> Result<()> {
    let mut agent = Agent::started(&[PLACE], &[])?;
    agent.workload("pinned")?;
    agent.stop()?;
    agent.write("bad: [")?;
    fs::remove_dir_all(agent.path("state"))?;
    // Nobody can be asked who quarantined what; that is no reason to let new workloads run without an agent.
    fs::create_dir_all(agent.path("state/quarantine-history.jsonl"))?;
    agent.start()?;
    let (status, reason) = agent.get("/readyz")?;
    assert_eq!(status, 503);
    assert!(reason.contains("only what is pinned is enforced"), "{reason}");
    let list = agent.ask(&["quarantine", "list", "--history"])?;
    ensure!(!list.status.success() && String::from_utf8_lossy(&list.stderr).contains("history"));
    Ok(())
}

#[test]
fn changes_that_cannot_be_heard_of_are_found_all_the_same() -> Result<()> {
    let mut agent = Agent::started(&[PLACE], &[])?;
    let text = policy(agent.parent(), &[PLACE], &[]);
    // The kernel does not even look at a name as long as this.
    let long = agent.lists().join("long.yaml");
    symlink("x".repeat(300), &long)?;
    let deaf = || agent.log().contains("cannot be heard of").then_some(());
    until("the agent to say that it hears nothing", DEADLINE, deaf)?;
    agent.wait_metric("allowlist_last_reload_successful", &[], 0.0)?;
    fs::remove_file(&long)?;
    agent.write(&text.replace("mode: enforce", "mode: audit"))?;
    agent.wait_metric("allowlist_last_reload_successful", &[], 1.0)?;
    agent.wait_metric("workloads", &["mode=\"audit\""], 0.0)?;
    until("it to hear again", DEADLINE, || agent.log().contains("heard of again").then_some(()))?;
    agent.stop().context("it still ends orderly")
}
