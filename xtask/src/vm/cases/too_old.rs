//! A kernel on which enforcement would be a fiction.

use std::fs;
use std::process::Command;

use anyhow::{Result, bail};

use super::super::guest::SHIPPED_ALLOWLISTS;
use super::super::scenario::{Finished, Scenario};
use super::expect;

/// `check` and `explain` ask nothing of the kernel.
pub(super) fn shipped_allowlists(scenario: &Scenario) -> Result<String> {
    let agent = || Command::new(&scenario.agent);
    Finished::new(&agent().args(["check", SHIPPED_ALLOWLISTS]).output()?)?.expect_code(0)?;
    let explain = |to: &str| {
        let mut command = agent();
        command.args(["explain", "--allowlists", SHIPPED_ALLOWLISTS, "--policy", "training", "--to", to]);
        Finished::new(&command.output()?)
    };
    explain("10.0.20.10:3128")?.expect_code(0)?;
    explain("203.0.113.7:443")?.expect_code(3)?;
    Ok("check and explain work".to_owned())
}

pub(super) fn exec_refuses(scenario: &Scenario) -> Result<String> {
    let marker = scenario.directory().join("it-ran");
    let line = ["touch".as_ref(), marker.as_os_str()];
    let finished = scenario.run(scenario.exec(Some(scenario.job()), &["--policy", "closed"], line))?;
    let finished = finished.expect_code(125)?;
    if marker.exists() {
        bail!("the command ran");
    }
    let message = finished.stderr.trim_end();
    if message.lines().count() != 1 || !message.contains("is too old") || !finished.stdout.is_empty() {
        bail!("{message} {}", finished.stdout);
    }
    Ok(message.to_owned())
}

/// After the refusal above.
pub(super) fn nothing_left(scenario: &Scenario) -> Result<String> {
    let entries = fs::read_dir(scenario.cgroup.path())?.collect::<Result<Vec<_>, _>>()?;
    let cgroups = entries.iter().filter(|entry| entry.path().is_dir()).count();
    expect("cgroups", &cgroups, &0)?;
    expect("processes", &scenario.cgroup.processes()?.len(), &0)?;
    Ok("no cgroup, no process".to_owned())
}
