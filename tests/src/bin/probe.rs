//! One attempt to reach a place, from whatever cgroup and namespace it is started in: `KIND ADDRESS:PORT MILLISECONDS`.
//! Prints the outcome on one line and exits with 0 if the attempt succeeded, 1 if not.

use std::env::args;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use egress_warden_tests::probe::Attempt;

fn main() -> Result<ExitCode> {
    let args: Vec<String> = args().skip(1).collect();
    let [attempt, to, timeout] = &args[..] else { bail!("usage: KIND ADDRESS:PORT MILLISECONDS") };
    let outcome = attempt.parse::<Attempt>()?.make(to.parse()?, Duration::from_millis(timeout.parse()?));
    println!("{outcome}");
    Ok(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
