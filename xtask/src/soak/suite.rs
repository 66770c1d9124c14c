//! Running a suite of tests on this machine's kernel, and reading what it tells.

use std::env;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::Figure;
use crate::run;

/// Variable that tells the tests which agent to test.
const AGENT: &str = "EGRESS_WARDEN_BIN";

/// A command that runs a suite (`tests/tests/<name>.rs`) against the agent that ships.
pub(super) fn suite(name: &str) -> Result<Command> {
    let mut command = suite_without_agent(name);
    if env::var_os(AGENT).is_none() {
        run::run(run::cargo().args(["build", "--release", "--package", "egress-warden"]))?;
        command.env(AGENT, run::agent_binary());
    }
    Ok(command)
}

/// A command that runs a suite that needs none.
pub(super) fn suite_without_agent(name: &str) -> Command {
    let mut command = run::cargo();
    command.args(["test", "--package", "egress-warden-tests", "--test", name]);
    command
}

/// As many inputs as [`many`] runs where a suite is fast.
pub(super) const TEN_MILLION: &str = "10000000";

/// Runs a suite on so many inputs of this name, optimised, with a fresh seed. The suite takes their number and the seed from
/// these variables, and tells how many there were.
pub(super) fn many(
    count: &str,
    inputs: &str,
    command: &mut Command,
    variables: [&str; 2],
) -> Result<Vec<Figure>> {
    let (seed, [count_variable, seed_variable]) = (fresh_seed()?, variables);
    command.args(["--release", "--", "--nocapture"]);
    command.env(count_variable, count).env(seed_variable, seed.to_string());
    let figures = figures(&passed(command).with_context(|| format!("seed {seed}"))?);
    match figures.iter().find(|(name, _)| name == inputs) {
        Some((_, told)) if told == count => Ok(figures),
        _ => bail!("{count} {inputs} were asked for, and it told of: {figures:?}"),
    }
}

/// Runs it, and gives what it printed.
pub(super) fn passed(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("`{}`: {}\n{text}", run::typed(command), output.status);
    }
    Ok(text)
}

/// A seed that no run before had.
pub(super) fn fresh_seed() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?.as_secs())
}

/// The lines `soak: NAME = VALUE` of a test.
pub(super) fn figures(text: &str) -> Vec<Figure> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("soak: ")?.split_once(" = "));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// How many tests passed.
pub(super) fn tests_passed(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("test result: ok. ")?;
    rest.split_once(" passed")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_between_other_lines() {
        let text = "running 1 test\nsoak: packets = 7\nsoak: nothing\nsoak: packets a second = 3\nok\n";
        let found = figures(text);
        let found: Vec<(&str, &str)> =
            found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, [("packets", "7"), ("packets a second", "3")]);
    }

    #[test]
    fn passed_tests_are_counted_where_none_failed() {
        assert_eq!(tests_passed("\ntest result: ok. 28 passed; 0 failed; 0 ignored\n"), Some(28));
        assert_eq!(tests_passed("\ntest result: FAILED. 27 passed; 1 failed\n"), None);
    }
}
