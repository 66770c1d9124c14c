//! Rounds of resolving a name nobody has asked for before and connecting at once, from every processor.

use std::env;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use egress_warden_tests::dns::{Client, Family, Lab, Resolver, Surroundings, Target};
use serde_json::Value;

/// How many rounds of each kind, where the caller does not say.
const ROUNDS: u32 = 2_000;
const VARIABLE: &str = "EGRESS_WARDEN_NAME_ROUNDS";
/// How many names there are.
const POOL: u32 = 200_000;

pub(crate) fn how_many() -> Result<u32> {
    match env::var(VARIABLE) {
        Ok(count) => count.parse().with_context(|| format!("{VARIABLE}={count}: not a number")),
        Err(_) => Ok(ROUNDS),
    }
}

/// Starts one client for each of two processors, by way of `spawn`; returns how many rounds were unresolved and how many were lost.
pub(crate) fn rounds(
    lab: &Lab,
    client: Client,
    family: Family,
    count: u32,
    spawn: impl Fn(Command) -> Result<Child>,
) -> Result<(u64, u64)> {
    let resolver = Resolver::Dnsmasq.address(family);
    let (pattern, version) =
        if family == Family::V4 { ("r*.load4.test", "4") } else { ("r*.load6.test", "6") };
    let surroundings = Surroundings::new(&[resolver], &[], &[])?;
    let program = client.command_line(resolver, &Target::new("", 80, None))?.remove(0);
    let mut running: Vec<Child> = Vec::new();
    for first in [0, POOL / 2] {
        let mut command: Command = lab.job().command(&program);
        let numbers = [first, count / 2, POOL].map(|number| number.to_string());
        command.args([pattern, "80", version]).args(numbers).stdout(Stdio::piped());
        surroundings.surround(&mut command)?;
        running.push(spawn(command)?);
    }
    let (mut unresolved, mut lost) = (0, 0);
    for child in running {
        let output = child.wait_with_output()?;
        let told: Value = serde_json::from_slice(&output.stdout)?;
        let number = |key: &str| told[key].as_u64().with_context(|| format!("{told}"));
        ensure!(number("rounds")? == u64::from(count / 2), "{told}");
        (unresolved, lost) = (unresolved + number("unresolved")?, lost + number("lost")?);
        println!("{told}");
    }
    Ok((unresolved, lost))
}

#[test]
fn every_round_connects() -> Result<()> {
    let (lab, count) = (Lab::new()?, how_many()?);
    for (client, family) in [(Client::Glibc, Family::V4), (Client::Musl, Family::V6)] {
        let before = lab.web().accepted();
        ensure!(
            rounds(&lab, client, family, count, |mut command| Ok(command.spawn()?))? == (0, 0),
            "{client:?}"
        );
        lab.web().wait_accepted(before + count as usize)?;
    }
    Ok(())
}
