//! What a node of 250 workloads costs. The aims are printed beside what was measured; the test fails only far beyond
//! them, because it shares its machine.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use egress_warden_tests::wait::until;

use super::support::{Agent, policy};

const WORKLOADS: usize = 250;
const PREFIXES: u32 = 100_000;

fn prefixes(agent: &Agent, first: u32) -> Result<String> {
    let mut text = String::new();
    for number in 0..PREFIXES {
        text += &format!("{}/32\n", std::net::Ipv4Addr::from(first + 2 * number));
    }
    let path = agent.path("prefixes");
    // Replaced whole, as tools do it.
    fs::write(path.with_extension("new"), text)?;
    fs::rename(path.with_extension("new"), &path)?;
    Ok(format!("cidrsFrom: {}, ports: [443]", path.display()))
}

fn told(what: &str, measured: f64, unit: &str, aim: f64) {
    println!("figure: {what}: {measured:.1} {unit}, aim {aim} {unit}");
    assert!(measured < aim * 8.0, "{what}: {measured} {unit}");
}

fn resident_kilobytes(agent: &Agent) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Processor time in milliseconds.
fn processor_time(agent: &Agent) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/schedstat", agent.pid()))?;
    Ok(text.split(' ').next().context("schedstat")?.parse::<f64>()? / 1e6)
}

fn ruleset(agent: &Agent) -> Option<String> {
    Some(agent.status().ok()?["workloads"][0]["ruleset"].as_str()?.to_owned())
}

/// Milliseconds that the agent says its last reload took.
fn reload(agent: &Agent, change: impl FnOnce() -> Result<()>) -> Result<f64> {
    let before = ruleset(agent);
    let log = agent.log().len();
    change()?;
    until("another ruleset", Duration::from_secs(20), || {
        ruleset(agent).filter(|now| Some(now) != before.as_ref())
    })?;
    let told = agent.log();
    let line = told[log..]
        .lines()
        .rfind(|line| line.contains("allowlists were read"))
        .context("no word of it")?
        .to_owned();
    let (_, milliseconds) = line.rsplit_once("milliseconds=").context("no figure")?;
    Ok(milliseconds.trim().parse()?)
}

#[test]
fn two_hundred_and_fifty_workloads_share_a_hundred_thousand_prefixes() -> Result<()> {
    let mut agent = Agent::new()?;
    let entry = prefixes(&agent, 0x0b00_0000)?;
    agent.write(&policy(agent.parent(), &[&entry], &[]))?;
    let paths: Vec<PathBuf> =
        (0..WORKLOADS).map(|number| agent.parent().path().join(format!("job-{number}"))).collect();
    paths.iter().try_for_each(fs::create_dir)?;
    let start = Instant::now();
    agent.start()?;
    agent.wait_metric("workload_tier", &["tier=\"cgroup\""], WORKLOADS as f64)?;
    told("start, read and attach", start.elapsed().as_secs_f64() * 1e3, "ms", 2000.0);
    agent.kill()?;
    let start = Instant::now();
    agent.start()?;
    agent.wait_metric("workload_tier", &["tier=\"cgroup\""], WORKLOADS as f64)?;
    told("start and adopt", start.elapsed().as_secs_f64() * 1e3, "ms", 500.0);
    let scrapes: Result<Vec<f64>> = (0..10)
        .map(|_| {
            let start = Instant::now();
            agent.get("/metrics")?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        })
        .collect();
    told("scrape", scrapes?.into_iter().fold(f64::MAX, f64::min), "ms", 20.0);
    let whole = reload(&agent, || prefixes(&agent, 0x0c00_0000).map(drop))?;
    told("reload of other prefixes", whole, "ms", 200.0);
    let one = reload(&agent, || {
        let path = agent.path("prefixes");
        let text = fs::read_to_string(&path)?.replacen("12.0.0.0/32", "12.255.0.0/32", 1);
        Ok(fs::write(path, text)?)
    })?;
    told("reload of one prefix more", one, "ms", 50.0);
    told("resident memory", resident_kilobytes(&agent)? / 1024.0, "MiB", 20.0);
    let (before, since) = (processor_time(&agent)?, Instant::now());
    std::thread::sleep(Duration::from_secs(6));
    let used = (processor_time(&agent)? - before) / since.elapsed().as_secs_f64() / 10.0;
    told("idle processor use", used, "%", 0.1);
    Ok(())
}
