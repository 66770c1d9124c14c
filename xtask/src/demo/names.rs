//! The steps with names: a secret in queries, and addresses that no answer named.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Ran;
use super::screen::{Screen, plural};
use super::stage::Stage;
use super::stealer::AT_ONCE;
use super::welcome::EXEC;
use super::wire::Wire;

/// How many names the tunnel asks for.
pub(super) const NAMES: usize = 4;

/// What became of one name of the tunnel.
pub(super) struct Lookup {
    pub(super) name: String,
    pub(super) outcome: String,
    pub(super) after: Duration,
}

impl Lookup {
    pub(super) fn milliseconds(&self) -> f64 {
        self.after.as_secs_f64() * 1000.0
    }

    /// Reads what the tunnel printed, as far as it is the tunnel's.
    pub(super) fn all_in(printed: &str) -> Result<Vec<Lookup>> {
        let lines = printed.lines().filter(|line| line.contains(".evil.test "));
        lines.map(|line| Self::read(line).context("the tunnel printed something else")).collect()
    }

    fn read(line: &str) -> Option<Lookup> {
        let mut words = line.split(' ');
        let (name, outcome) = (words.next()?.to_owned(), words.next()?.to_owned());
        let after = Duration::from_secs_f64(words.next()?.parse::<f64>().ok()? / 1000.0);
        Some(Lookup { name, outcome, after })
    }
}

/// The slowest, in milliseconds.
pub(super) fn slowest(lookups: &[Lookup]) -> f64 {
    lookups.iter().map(Lookup::milliseconds).fold(0.0, f64::max)
}

/// Whether every name ended like this, at once.
pub(super) fn all_ended(lookups: &[Lookup], outcome: &str) -> bool {
    let ended = |lookup: &Lookup| lookup.outcome == outcome && lookup.after < AT_ONCE;
    lookups.len() == NAMES && lookups.iter().all(ended)
}

/// Runs the tunnel, by way of these words: the run, the names, and how many questions reached the resolver.
fn ask(stage: &Stage, line: &[&str]) -> Result<(Ran, Vec<Lookup>, usize)> {
    let wire = Wire::of(stage, "resolver")?;
    let ran = stage.run(line)?.expect_success("the tunnel")?;
    wire.settle()?;
    let lookups = Lookup::all_in(&ran.stdout)?;
    Ok((ran, lookups, wire.queries()))
}

/// Data in the names that a resolver is asked for stays here.
pub(super) fn tunnel(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step("A secret in names below the attacker's domain does not even reach the allowed resolver.")?;
    let line = [&EXEC[..6], &["--events", "tunnel.jsonl", "--", "./tunnel"]].concat();
    screen.command(&line.join(" "))?;
    let (ran, refused, leaked) = ask(stage, &line)?;
    let (_, free, asked) = ask(stage, &["./tunnel"])?;
    for lookup in &refused {
        screen.output(&format!("{}  {} in {:.2} ms", lookup.name, lookup.outcome, lookup.milliseconds()))?;
    }
    screen.prove(
        all_ended(&refused, "EAI_AGAIN") && leaked == 0,
        format!(
            "all {NAMES} names were refused, the slowest in {:.2} ms: {} at the resolver",
            slowest(&refused),
            plural(leaked, "query")
        ),
    )?;
    screen.prove(
        all_ended(&free, "answered") && asked >= NAMES,
        format!("without a policy every name was answered: {} at the resolver", plural(asked, "query")),
    )?;

    let events = stage.read("tunnel.jsonl")?;
    let recorded = |lookup: &Lookup| {
        let name = format!("\"name\":\"{}\"", lookup.name);
        events.lines().any(|line| line.contains(&name) && line.contains("\"reason\":\"dns_name\""))
    };
    screen.command("head -n 1 tunnel.jsonl")?;
    screen.output(events.lines().next().unwrap_or(""))?;
    screen.prove(
        refused.len() == NAMES && refused.iter().all(recorded),
        "each name is on record as it was asked for, with the reason `dns_name`",
    )?;
    screen.output(ran.summary("refused"))
}

/// An allowed name opens the addresses that the resolver answered with, inside `resolvesTo`, and no others.
pub(super) fn unanswered(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step("An allowed name opens the addresses that its answer names, and no others.")?;
    let outside = Wire::of(stage, "outside")?;
    for (line, claim) in [
        (
            "curl -sS --resolve files.packages.test:80:10.77.5.2 http://files.packages.test/",
            "files.packages.test is allowed, and no answer named the address that curl was given",
        ),
        (
            "curl -sS http://moved.packages.test/",
            "moved.packages.test is allowed, and its answer points outside of `resolvesTo`",
        ),
    ] {
        let words: Vec<&str> = EXEC.into_iter().chain(line.split(' ')).collect();
        screen.command(&format!("… {line}"))?;
        let ran = stage.run(&words)?;
        screen.output(ran.stderr.lines().next().unwrap_or(""))?;
        outside.settle()?;
        let frames = outside.job_frames();
        let refused = ran.summary("refused");
        screen.prove(
            ran.code == Some(7) && refused.starts_with("refused      1 attempt") && frames == 0,
            format!("{claim}: {refused}, {} at the outside host", plural(frames, "frame")),
        )?;
    }
    Ok(())
}
