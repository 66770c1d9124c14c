//! Ten million packets, judged here and by the loaded program.

use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::{Figure, Job};
use crate::run;

const PACKETS: &str = "10000000";

pub(super) const JOB: Job = Job {
    name: "fuzz",
    what: "Every chain of up to three IPv6 extension headers, then random, well-made and spoilt packets, IPv4 and IPv6, \
           by an uplink and by loopback, under a policy that allows nothing and under one that allows much: judged by \
           the library on the host and by the program in the kernel (`tests/tests/fuzz.rs`, which runs 200,000 of them \
           on every change). The verdict, the reason, the rule, both addresses, the protocol and both ports agree.",
    takes: "5 minutes",
    run: packets,
};

fn packets() -> Result<Vec<Figure>> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?.as_secs();
    let output = run::cargo()
        .args([
            "test",
            "--release",
            "--package",
            "egress-warden-tests",
            "--test",
            "fuzz",
            "--",
            "--nocapture",
        ])
        .env("EGRESS_WARDEN_FUZZ_PACKETS", PACKETS)
        .env("EGRESS_WARDEN_FUZZ_SEED", seed.to_string())
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("seed {seed}: {}\n{text}", output.status);
    }
    let figures = figures(&text);
    match figures.iter().find(|(name, _)| name == "packets") {
        Some((_, count)) if count == PACKETS => Ok(figures),
        _ => bail!("{PACKETS} packets were asked for, and it told of: {figures:?}"),
    }
}

/// The lines `soak: NAME = VALUE` of a test.
fn figures(text: &str) -> Vec<Figure> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("soak: ")?.split_once(" = "));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
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
}
