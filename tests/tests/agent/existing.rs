//! Connections that are older than the attach: `existing` in a policy.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use anyhow::{Context, Result, anyhow};
use egress_warden::allowlist;
use egress_warden::kernel::diag::{TCP_AND_UDP, connections};
use egress_warden::kernel::node::{How, Node, NodeOptions, Older};
use egress_warden::ruleset::compile;
use egress_warden_tests::World;
use egress_warden_tests::job::Allowlists;
use egress_warden_tests::wait::{DEADLINE, until};

use super::support::{Agent, Job, policy};

const OPEN: &str = "cidrs: [10.77.2.2/32], ports: [81]";

/// Sends on its one connection, or makes another one first.
const PROGRAM: &str = r#"
def exchange(made):
    made.sendall(b"x")
    made.recv(9)
made = tcp("10.77.2.2", 80)
exchange(made)
say("ready")
while True:
    line = wait()
    if line == "new":
        made = tcp("10.77.2.2", 81)
    say(how(lambda: exchange(made)))
"#;

/// Sends everything back; tells how each connection ended.
fn echo(world: &World, at: SocketAddr) -> Result<Receiver<Option<ErrorKind>>> {
    let listener = world.host("outside").enter(|| TcpListener::bind(at))?;
    let (tell, told) = channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept()?;
        let ended = io::copy(&mut &stream, &mut &stream).err().map(|error| error.kind());
        tell.send(ended).map_err(io::Error::other)
    });
    Ok(told)
}

struct Scene {
    far: [Receiver<Option<ErrorKind>>; 2],
    job: Job,
    agent: Agent,
    world: World,
}

impl Scene {
    /// A job with a connection, then an agent that enforces.
    fn new(existing: &str, more: &[&str]) -> Result<Scene> {
        let world = World::new(&["job", "outside"])?;
        let outside = world.host("outside");
        let far = [echo(&world, outside.at(80))?, echo(&world, outside.at(81))?];
        let mut agent = Agent::new()?;
        let cgroup = agent.workload_made("job")?;
        let mut job = Job::start(world.host("job"), &cgroup, PROGRAM)?;
        assert_eq!(job.line()?, "ready");
        agent.write(&policy(agent.parent(), &[OPEN], &[&[existing], more].concat()))?;
        agent.start_within(world.router())?;
        agent.wait_enforced("job")?;
        agent.wait_metric("workload_tier", &["tier=\"backstop\""], 1.0)?;
        Ok(Scene { far, job, agent, world })
    }

    fn outcome(&self, outcome: &str, count: f64) -> Result<()> {
        self.agent.wait_metric("existing_connections_total", &[&format!("outcome=\"{outcome}\"")], count)
    }
}

#[test]
fn what_is_cut_hears_it_on_both_sides_and_nothing_later_is_cut() -> Result<()> {
    let Scene { far, mut job, mut agent, world } = Scene::new("existing: cut", &[])?;
    assert_eq!(far[0].recv_timeout(DEADLINE)?, Some(ErrorKind::ConnectionReset));
    assert_eq!(job.ask("send")?, "ECONNABORTED");
    agent.wait_metric("existing_connections_total", &["outcome=\"cut\""], 1.0)?;
    agent.wait_metric("map_entries", &["map=\"kept\""], 0.0)?;
    assert_eq!(job.ask("new")?, "ok");
    // Neither an agent that takes over nor another policy ends what was begun since.
    agent.kill()?;
    agent.start_within(world.router())?;
    agent.wait_enforced("job")?;
    assert_eq!(job.ask("send")?, "ok");
    for existing in ["existing: judge", "existing: cut"] {
        let before = agent.metric("allowlist_last_reload_timestamp_seconds", &[])?;
        agent.write(&policy(agent.parent(), &[OPEN, "cidrs: [10.9.9.9/32]"], &[existing]))?;
        until("the edit to be in force", DEADLINE, || {
            agent.metric("allowlist_last_reload_timestamp_seconds", &[]).ok().filter(|at| *at > before)
        })?;
        assert_eq!(job.ask("send")?, "ok", "{existing}");
    }
    agent.wait_metric("violations_total", &[], 0.0)?;
    Ok(())
}

#[test]
fn what_is_kept_goes_on_until_the_policy_takes_it_back() -> Result<()> {
    let mut scene = Scene::new("existing: keep", &[])?;
    scene.outcome("kept", 1.0)?;
    assert_eq!(scene.job.ask("send")?, "ok");
    scene.agent.kill()?;
    assert_eq!(scene.job.ask("send")?, "ok", "without an agent");
    scene.agent.start_within(scene.world.router())?;
    scene.agent.wait_enforced("job")?;
    assert_eq!(scene.job.ask("send")?, "ok", "under the next one");
    scene.agent.wait_metric("violations_total", &[], 0.0)?;
    scene.agent.write(&policy(scene.agent.parent(), &[OPEN], &["existing: judge"]))?;
    scene.agent.wait_metric("map_entries", &["map=\"kept\""], 0.0)?;
    assert_eq!(scene.job.ask("send")?, "ETIMEDOUT");
    let refused = scene.agent.metric("violations_total", &["reason=\"port_not_allowed\""])?;
    assert!(refused > 0.0, "{refused}");
    Ok(())
}

/// An agent that was killed between the attach and the end of the connections left its marks in the kernel.
#[test]
fn a_cut_that_an_agent_did_not_finish_the_next_one_does() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let far = echo(&world, world.host("outside").at(80))?;
    let mut agent = Agent::new()?;
    let cgroup = agent.workload_made("job")?;
    let mut job = Job::start(world.host("job"), &cgroup, PROGRAM)?;
    assert_eq!(job.line()?, "ready");
    agent.write(&policy(agent.parent(), &[OPEN], &["existing: cut"]))?;
    let directory = File::open(&cgroup)?;
    let id = directory.metadata()?.ino();
    {
        let options = NodeOptions { bpffs: agent.path("bpf"), ..NodeOptions::default() };
        let (mut node, _) = Node::open(&options)?;
        let found = connections(directory.as_fd(), TCP_AND_UDP)?.connections;
        assert_eq!(found.len(), 1, "{found:?}");
        let older = Older { connections: &found, how: How::Ends };
        node.enforce_beside(id, directory.as_fd(), &cgroup, &nothing()?, None, &older)?;
    }
    agent.start_within(world.router())?;
    assert_eq!(far.recv_timeout(DEADLINE)?, Some(ErrorKind::ConnectionReset));
    assert_eq!(job.ask("send")?, "ECONNABORTED");
    agent.wait_metric("map_entries", &["map=\"kept\""], 0.0)?;
    Ok(())
}

/// A ruleset that allows nothing.
fn nothing() -> Result<Vec<u64>> {
    let lists = Allowlists::new(&[], &[])?;
    let set = allowlist::load(&[lists.path()]).map_err(|errors| anyhow!("{errors:?}"))?;
    Ok(compile(&set.policy("job").context("no policy `job`")?)?.words)
}

#[test]
fn in_audit_nothing_is_cut() -> Result<()> {
    let mut scene = Scene::new("existing: cut", &["mode: audit"])?;
    assert_eq!(scene.job.ask("send")?, "ok");
    scene.outcome("cut", 0.0)?;
    let log = scene.agent.log();
    log.find("older connections would have been ended").context(log)?;
    Ok(())
}
