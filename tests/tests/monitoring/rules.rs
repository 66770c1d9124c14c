//! The rules that ship: valid, tested, explained, and about metrics that there are.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use egress_warden::metrics::catalogue::{EXPORTED, Metric, PREFIX};
use serde_yaml::Value;

use egress_warden_tests::World;

use super::agent::{Agent, Job};
use super::process::answer;
use super::repository;

const RULES: &str = "deploy/alerts.yaml";
const CASES: &str = "deploy/alerts-tests/alerts.yaml";

/// Runs promtool in the repository; fails with what it said.
fn promtool(args: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("promtool")
        .args(args)
        .current_dir(repository())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool comes with Debian's prometheus: `cargo xtask setup test`")?;
    child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {args:?}: {}\n{said}", output.status);
    Ok(())
}

fn read(path: &str) -> Result<Value> {
    Ok(serde_yaml::from_str(&fs::read_to_string(repository().join(path))?)?)
}

/// Every rule, in the order of the file.
fn alerts() -> Result<Vec<Value>> {
    let file = read(RULES)?;
    let groups = file["groups"].as_sequence().context("groups")?;
    let rules = groups.iter().filter_map(|group| group["rules"].as_sequence());
    Ok(rules.flatten().cloned().collect())
}

fn text<'a>(value: &'a Value, what: &str) -> Result<&'a str> {
    value.as_str().filter(|text| !text.is_empty()).with_context(|| format!("no {what}"))
}

#[test]
fn the_rules_are_valid_and_do_what_their_cases_say() -> Result<()> {
    promtool(&["check", "rules", RULES], "")?;
    promtool(&["test", "rules", CASES], "")
}

#[test]
fn the_page_follows_the_conventions() -> Result<()> {
    let agent = Agent::started(&["cidrs: [10.99.0.0/16]"], &[])?;
    let workload = agent.workload("noisy")?;
    // Series of violations exist once there is one.
    let world = World::new(&["job"])?;
    let program = "say(how(lambda: tcp('10.98.0.1', 80)))";
    assert_eq!(Job::start(world.host("job"), &workload, program)?.line()?, "EPERM");
    let page = answer(agent.metrics(), "/metrics")?;
    let known: Vec<String> = EXPORTED.iter().map(Metric::full_name).collect();
    let exported: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    // Some exist only once something happened that did not happen here.
    assert!(exported.len() > 15, "{page}");
    assert!(exported.iter().all(|name| known.iter().any(|metric| metric == name)), "{page}");
    promtool(&["check", "metrics"], &page)
}

#[test]
fn every_alert_is_explained_in_the_runbook() -> Result<()> {
    let runbook = fs::read_to_string(repository().join("docs/runbook.md"))?;
    for alert in alerts()? {
        let name = text(&alert["alert"], "name")?;
        let annotations = &alert["annotations"];
        for what in ["summary", "description"] {
            text(&annotations[what], what).with_context(|| name.to_owned())?;
        }
        let severity = text(&alert["labels"]["severity"], "severity").with_context(|| name.to_owned())?;
        assert!(["critical", "warning"].contains(&severity), "{name}: {severity}");
        let anchor = format!("docs/runbook.md#alert-{}", name.to_lowercase());
        assert_eq!(text(&annotations["runbook"], "runbook")?, anchor, "{name}");
        let heading = format!("### Alert: {name}");
        assert!(runbook.lines().any(|line| line == heading), "docs/runbook.md has no `{heading}`");
    }
    Ok(())
}

#[test]
fn every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> Result<()> {
    let cases = read(CASES)?;
    let mut tried = BTreeSet::new();
    for case in cases["tests"].as_sequence().context("tests")? {
        for expected in case["alert_rule_test"].as_sequence().context("alert_rule_test")? {
            let fires = !expected["exp_alerts"].as_sequence().context("exp_alerts")?.is_empty();
            tried.insert((text(&expected["alertname"], "alertname")?.to_owned(), fires));
        }
    }
    let mut wanted = BTreeSet::new();
    for alert in alerts()? {
        let name = text(&alert["alert"], "name")?;
        wanted.extend([(name.to_owned(), true), (name.to_owned(), false)]);
    }
    assert_eq!(tried, wanted);
    Ok(())
}

#[test]
fn alerts_name_only_metrics_of_the_catalogue() -> Result<()> {
    let known: BTreeSet<String> = EXPORTED.iter().map(Metric::full_name).collect();
    for alert in alerts()? {
        let expression = text(&alert["expr"], "expr")?;
        let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let named: Vec<&str> = words.filter(|word| word.starts_with(PREFIX)).collect();
        assert!(!named.is_empty(), "{expression} names no metric");
        for name in named {
            assert!(known.contains(name), "{expression}: no metric {name}");
        }
    }
    Ok(())
}
