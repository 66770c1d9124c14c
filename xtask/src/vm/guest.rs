//! Inside the test machine: runs the cases and tells on the serial line how each went.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::cases;
use super::kernel::Expectation;
use super::report::{CASE, DONE, FAIL, OK, RELEASE};
use super::scenario::{Scenario, serve};

/// What makes `cargo xtask vm` do this.
pub(super) const ARGUMENT: &str = "--guest";
/// Before a port: be the server that a case starts under a policy.
pub(super) const SERVE: &str = "serve";
/// How many letters of a detail are told.
const LONGEST: usize = 1000;
/// Where the image has the allowlists that ship.
pub(super) const SHIPPED_ALLOWLISTS: &str = "/allowlists";

/// Runs the cases for a kernel from which this is expected.
pub(super) fn main(args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let expectation = match words[..] {
        [SERVE, port] => return serve(port.parse().context("a port")?),
        [word] if word == Expectation::Works.name() => Expectation::Works,
        [word] if word == Expectation::Refuses.name() => Expectation::Refuses,
        _ => bail!("{ARGUMENT} is for the inside of a test machine"),
    };
    println!("{RELEASE}{}", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim_end());
    let scenario = Scenario::new();
    for case in cases::of(expectation) {
        let start = Instant::now();
        let result = match &scenario {
            Ok(scenario) => (case.run)(scenario),
            // Which feature is missing stands in the error.
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        match result {
            Ok(detail) => println!("{CASE}{} {OK} {} in {:?}", case.name, one_line(&detail), start.elapsed()),
            Err(error) => println!("{CASE}{} {FAIL} {}", case.name, one_line(&format!("{error:#}"))),
        }
    }
    println!("{DONE}");
    Ok(())
}

/// The end of a text on one line: what went wrong is told last.
fn one_line(text: &str) -> String {
    let line = text.trim().replace('\n', " | ");
    match line.char_indices().rev().nth(LONGEST) {
        Some((start, _)) => format!("… {}", &line[start..]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_details_lose_their_beginning() {
        assert_eq!(one_line("first\nsecond\n"), "first | second");
        let long = one_line(&format!("begin{}é end", "x".repeat(LONGEST)));
        assert!(long.starts_with('…') && long.ends_with("é end") && !long.contains("begin"));
    }
}
