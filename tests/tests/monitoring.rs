//! Metrics and alerts as operators use them: a real Prometheus scrapes, a real Alertmanager is told.

#[path = "agent/support.rs"]
#[expect(dead_code, reason = "of what the tests of the agent need, this needs a part")]
mod agent;
#[path = "monitoring/process.rs"]
mod process;
#[path = "monitoring/rules.rs"]
mod rules;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use agent::{Agent, Job};
use anyhow::{Context, Result};
use egress_warden_tests::World;
use egress_warden_tests::wait::until;
use process::{Service, free_port, get};
use serde_json::Value;

/// Prometheus and Alertmanager start, scrape, evaluate and send within seconds; machines in CI are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// The repository.
fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

#[test]
fn a_violation_reaches_the_alertmanager() -> Result<()> {
    let world = World::new(&["job"])?;
    let agent = Agent::started(&["cidrs: [10.99.0.0/16]"], &[])?;
    let workload = agent.workload("noisy")?;
    let alert = alert_of(agent.metrics(), || {
        let program = "say(how(lambda: tcp('10.98.0.1', 80)))";
        let mut job = Job::start(world.host("job"), &workload, program)?;
        assert_eq!(job.line()?, "EPERM");
        Ok(())
    })?;
    let labels = &alert["labels"];
    assert_eq!(labels["policy"], "job", "{alert}");
    assert_eq!(labels["reason"], "not_allowlisted", "{alert}");
    assert_eq!(labels["severity"], "warning", "{alert}");
    assert_eq!(alert["annotations"]["runbook"], "docs/runbook.md#alert-egresswardenviolations", "{alert}");
    Ok(())
}

/// Has an agent scraped under the rules that ship, and tells which alert of violations the Alertmanager was sent after
/// one was provoked.
fn alert_of(target: SocketAddr, provoke: impl FnOnce() -> Result<()>) -> Result<Value> {
    let room = tempfile::tempdir()?;
    let alertmanager = alertmanager(room.path())?;
    let prometheus = prometheus(room.path(), target, alertmanager.address())?;
    // An increase is seen only where the figure before it was.
    until("the first scrape", PATIENCE, || {
        let query = "/api/v1/query?query=egress_warden_node_violations_total";
        let answer = get(prometheus.address(), query).ok()?;
        (!answer["data"]["result"].as_array()?.is_empty()).then_some(())
    })
    .with_context(|| prometheus.log())?;
    assert!(violation_alert(&alertmanager).is_none(), "before there was a violation");
    provoke()?;
    until("the alert at the Alertmanager", PATIENCE, || violation_alert(&alertmanager))
        .with_context(|| format!("{}\n{}", prometheus.log(), alertmanager.log()))
}

fn violation_alert(alertmanager: &Service) -> Option<Value> {
    let alerts = get(alertmanager.address(), "/api/v2/alerts").ok()?;
    let mut alerts = alerts.as_array()?.iter();
    alerts.find(|alert| alert["labels"]["alertname"] == "EgressWardenViolations").cloned()
}

fn alertmanager(room: &Path) -> Result<Service> {
    let config = room.join("alertmanager.yaml");
    fs::write(&config, "route: {receiver: nobody, group_wait: 0s}\nreceivers: [{name: nobody}]\n")?;
    let address = free_port()?;
    Service::start(
        "prometheus-alertmanager",
        address,
        room,
        &[
            format!("--config.file={}", config.display()),
            format!("--storage.path={}", room.join("alertmanager").display()),
            format!("--web.listen-address={address}"),
            // Empty: no cluster, and no port for one.
            "--cluster.listen-address=".to_owned(),
        ],
    )
}

fn prometheus(room: &Path, target: SocketAddr, alertmanager: SocketAddr) -> Result<Service> {
    let rules = room.join("alerts.yaml");
    fs::write(&rules, without_delay(&fs::read_to_string(repository().join("deploy/alerts.yaml"))?))?;
    let config = room.join("prometheus.yaml");
    let text = format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}\n\
         rule_files: [{}]\n\
         scrape_configs: [{{job_name: egress-warden, static_configs: [{{targets: ['{target}']}}]}}]\n\
         alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager}']}}]}}]}}\n",
        rules.display()
    );
    fs::write(&config, text)?;
    let address = free_port()?;
    Service::start(
        "prometheus",
        address,
        room,
        &[
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", room.join("prometheus").display()),
            format!("--web.listen-address={address}"),
        ],
    )
}

/// The rules without `for:`, so that a test need not wait for minutes.
fn without_delay(rules: &str) -> String {
    let kept = rules.lines().filter(|line| !line.trim_start().starts_with("for:"));
    kept.map(|line| format!("{line}\n")).collect()
}
