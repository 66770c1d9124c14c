//! What a workload has in reach beside the network: capabilities on the host's network, and devices.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use egress_warden_tests::wait::{DEADLINE, until};
use serde_json::Value;

use super::support::Agent;

/// A process that ends with the test. It stays in the network namespace of the test, and sends nothing.
struct Running(Child);

impl Running {
    /// Moved into the cgroup once it is what it is to be: on its way there it may do more.
    fn start(cgroup: &Path, program: &[&str]) -> Result<Running> {
        let mut command = Command::new(program[0]);
        let running = Running(command.args(&program[1..]).stdin(Stdio::null()).spawn()?);
        let id = running.0.id();
        until("it to sleep", DEADLINE, || {
            let name = fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
            (name.trim_end() == "sleep").then_some(())
        })?;
        fs::write(cgroup.join("cgroup.procs"), id.to_string())?;
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn agent() -> Result<Agent> {
    Agent::started(&["cidrs: [10.9.9.0/24]"], &[])
}

/// Waits until something is told of the one workload.
fn told(agent: &Agent, fits: impl Fn(&Value) -> bool) -> Result<Value> {
    until("it to be told", DEADLINE, || {
        let found = agent.status().ok()?["workloads"].as_array()?.first()?.clone();
        fits(&found).then_some(found)
    })
    .with_context(|| format!("{:?}; its log: {}", agent.status(), agent.log()))
}

fn held(workload: &Value) -> Vec<&str> {
    let all = workload["capabilities"]["held"].as_array().into_iter().flatten();
    all.filter_map(|one| one["capability"].as_str()).collect()
}

#[test]
fn capabilities_on_the_hosts_network_are_told_once() -> Result<()> {
    let agent = agent()?;
    let cgroup = agent.workload("a")?;
    let root = Running::start(&cgroup, &["sleep", "1000"])?;
    let found = told(&agent, |found| held(found).contains(&"NET_RAW"))?;
    assert_eq!((&found["network"], &found["tier"]), (&"host".into(), &"cgroup".into()), "{found}");
    let first = &found["capabilities"]["held"][0];
    assert_eq!((&first["processes"], &first["pid"]), (&1.into(), &root.0.id().into()), "{first}");
    ensure!(first["why"].as_str().is_some_and(|why| !why.is_empty()), "{first}");
    agent.wait_metric("workloads_exposed", &["by=\"capabilities\""], 1.0)?;
    let text = String::from_utf8(agent.ask(&["status"])?.stdout)?;
    ensure!(text.contains("leads past") && text.contains("NET_RAW"), "{text}");
    let warnings = || agent.log().matches("with capabilities that lead past").count();
    assert_eq!(warnings(), 1, "{}", agent.log());
    // Whoever has them in a user namespace of its own can do nothing to the host's network.
    let nested = Running::start(&cgroup, &["unshare", "--user", "--map-root-user", "sleep", "1000"])?;
    drop(root);
    let found = told(&agent, |found| found["capabilities"]["held"] == Value::Array(Vec::new()))?;
    agent.wait_metric("workloads_exposed", &["by=\"capabilities\""], 0.0)?;
    ensure!(found["capabilities"]["obtainable"] == Value::Array(Vec::new()), "{found}");
    // One that has none now, and can get them back.
    drop(nested);
    let _bounded = Running::start(
        &cgroup,
        &["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sleep", "1000"],
    )?;
    let found = told(&agent, |found| {
        let obtainable = found["capabilities"]["obtainable"].as_array();
        obtainable.is_some_and(|names| names.contains(&"NET_RAW".into()))
    })?;
    assert_eq!(held(&found), [""; 0]);
    assert_eq!(warnings(), 1, "{}", agent.log());
    Ok(())
}

#[test]
fn a_device_file_in_its_own_view_is_told() -> Result<()> {
    let agent = agent()?;
    let cgroup = agent.workload("a")?;
    let plain = Running::start(&cgroup, &["sleep", "1000"])?;
    let found = told(&agent, |found| !found["rdma"].is_null())?;
    assert_eq!(
        (&found["rdma"]["in_reach"], &found["rdma"]["files"]),
        (&false.into(), &Value::Array(Vec::new()))
    );
    let view = "mount -t tmpfs none /dev && mkdir /dev/infiniband && mknod /dev/infiniband/uverbs0 c 231 192 && exec sleep 1000";
    let _device = Running::start(&cgroup, &["unshare", "--mount", "sh", "-c", view])?;
    let found = told(&agent, |found| found["rdma"]["in_reach"] == true)?;
    assert_eq!(found["rdma"]["files"], serde_json::json!(["/dev/infiniband/uverbs0"]));
    agent.wait_metric("workloads_exposed", &["by=\"devices\""], 1.0)?;
    let text = String::from_utf8(agent.ask(&["status"])?.stdout)?;
    ensure!(text.contains("in reach") && text.contains("uverbs0"), "{text}");
    ensure!(agent.log().contains("devices are in reach"), "{}", agent.log());
    drop(plain);
    Ok(())
}
