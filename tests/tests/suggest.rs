//! `suggest`: drafts of allowlists that pass `check`, and what stands in them is what was tried, or what an index said.

#[path = "suggest/from_events.rs"]
mod from_events;
#[path = "suggest/index.rs"]
mod index;
#[path = "suggest/machine.rs"]
mod machine;
#[path = "suggest/real_pip.rs"]
mod real_pip;
#[path = "suggest/web.rs"]
mod web;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use egress_warden_tests::agent_binary;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/suggest").join(name)
}

/// The agent's own binary with these arguments.
fn warden(arguments: &[&str]) -> Result<Output> {
    Command::new(agent_binary()?).args(arguments).output().context("cannot start the agent")
}

/// What `suggest` printed, in a file that `check` accepts.
fn checked(draft: &Output, at: &Path) -> Result<String> {
    let errors = String::from_utf8_lossy(&draft.stderr);
    ensure!(draft.status.success() && errors.is_empty(), "{}: {errors}", draft.status);
    std::fs::write(at, &draft.stdout)?;
    let check = warden(&["check", &at.display().to_string()])?;
    let text = String::from_utf8(draft.stdout.clone())?;
    ensure!(check.status.success(), "{}\n{text}", String::from_utf8_lossy(&check.stderr));
    Ok(text)
}

/// A run that failed: exit code 1, nothing on standard output; what it said.
fn refused(output: &Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{}: {said}", output.status);
    Ok(said)
}
