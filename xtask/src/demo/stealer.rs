//! The steps with the stealer, which ignores the proxy and walks out directly.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Ran;
use super::screen::{Screen, plural};
use super::stage::Stage;
use super::welcome::EXEC;
use super::wire::Wire;

/// What it tries, in its own order: the name, whether it is TCP, whether it is IPv4.
const ATTEMPTS: [(&str, bool, bool); 4] = [
    ("TCP 10.77.5.2:80", true, true),
    ("UDP 10.77.5.2:53", false, true),
    ("TCP [fd77:5::2]:80", true, false),
    ("UDP [fd77:5::2]:53", false, false),
];
/// A refusal is not a time-out. Generous, for a loaded machine.
pub(super) const AT_ONCE: Duration = Duration::from_millis(500);

/// One attempt: what the stealer saw, and what the outside host's wire saw.
struct Attempt {
    outcome: String,
    after: Duration,
    frames: usize,
}

impl Attempt {
    fn cell(&self) -> String {
        let milliseconds = self.after.as_secs_f64() * 1000.0;
        format!("{} in {milliseconds:.2} ms, {}", self.outcome, plural(self.frames, "frame"))
    }

    fn is_refused(&self) -> bool {
        self.outcome == "EPERM"
    }

    fn got_out(&self) -> bool {
        self.outcome == "answered" && self.frames > 0
    }
}

/// Runs the stealer, by way of these words.
fn steal(stage: &Stage, line: &[&str]) -> Result<(Ran, Vec<Attempt>)> {
    let wire = Wire::of(stage, "outside")?;
    let ran = stage.run(line)?.expect_success("the stealer")?;
    wire.settle()?;
    let mut attempts = Vec::new();
    for (line, (_, is_tcp, is_v4)) in ran.stdout.lines().zip(ATTEMPTS) {
        let (outcome, after) = line.split_once(' ').context("the stealer printed something else")?;
        let after = Duration::from_secs_f64(after.parse::<f64>()? / 1000.0);
        attempts.push(Attempt {
            outcome: outcome.to_owned(),
            after,
            frames: wire.attempt_frames(is_tcp, is_v4),
        });
    }
    Ok((ran, attempts))
}

fn table(screen: &Screen, columns: &[(&str, &[Attempt])]) -> Result<()> {
    let heads: Vec<String> = columns.iter().map(|(head, _)| (*head).to_owned()).collect();
    screen.row("", &heads)?;
    for (number, (name, ..)) in ATTEMPTS.iter().enumerate() {
        let cells: Vec<String> = columns
            .iter()
            .map(|(_, attempts)| attempts.get(number).map_or_else(|| "missing".to_owned(), Attempt::cell))
            .collect();
        screen.row(name, &cells)?;
    }
    Ok(())
}

fn all(attempts: &[Attempt], fits: impl Fn(&Attempt) -> bool) -> bool {
    attempts.len() == ATTEMPTS.len() && attempts.iter().all(fits)
}

/// Refused at once, and nothing on the wire. Returns the run.
pub(super) fn enforced(stage: &Stage, screen: &mut Screen) -> Result<Ran> {
    screen.step(
        "A stealer that goes straight to the outside host is refused at once, and nothing of it gets out.",
    )?;
    let line = [&EXEC[..6], &["--events", "refused.jsonl", "--", "./stealer"]].concat();
    screen.command(&line.join(" "))?;
    // First this one: a late frame of the run without a policy must not be counted against it.
    let (ran, refused) = steal(stage, &line)?;
    let (_, free) = steal(stage, &["./stealer"])?;
    table(screen, &[("under the policy", &refused), ("without it, for comparison", &free)])?;

    let slowest = refused.iter().map(|attempt| attempt.after).max().unwrap_or_default();
    screen.prove(
        all(&refused, Attempt::is_refused) && slowest < AT_ONCE,
        format!(
            "all {} attempts got EPERM, the slowest in {:.2} ms",
            ATTEMPTS.len(),
            slowest.as_secs_f64() * 1000.0
        ),
    )?;
    let frames: usize = refused.iter().map(|attempt| attempt.frames).sum();
    screen.prove(
        frames == 0,
        format!("nothing of it reached the outside host: {} there", plural(frames, "frame")),
    )?;
    let control: usize = free.iter().map(|attempt| attempt.frames).sum();
    screen.prove(
        all(&free, Attempt::got_out),
        format!("the same program without a policy got {control} frames and every answer through: the way itself is open"),
    )?;
    Ok(ran)
}

/// Audit lets it through and counts it.
pub(super) fn audited(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step("Audit mode changes nothing for the job, and counts exactly what enforce would refuse.")?;
    let line = [&EXEC[..6], &["--mode", "audit", "--", "./stealer"]].concat();
    screen.command(&line.join(" "))?;
    let (ran, attempts) = steal(stage, &line)?;
    table(screen, &[("under the policy, in audit", &attempts)])?;
    let frames: usize = attempts.iter().map(|attempt| attempt.frames).sum();
    screen.prove(
        all(&attempts, Attempt::got_out),
        format!("all {} attempts got out: {frames} frames at the outside host", ATTEMPTS.len()),
    )?;
    let counted = ran.summary("would refuse");
    let expected = format!("would refuse {} attempts", ATTEMPTS.len());
    screen.prove(counted.starts_with(&expected), format!("its summary says: {counted}"))
}

/// Who did it, and what came nearest.
pub(super) fn who(stage: &Stage, screen: &mut Screen, refused: &Ran) -> Result<()> {
    screen.step("It is clear who tried what, why it was refused, and which rule came nearest.")?;
    screen.prose("   The summary that exec printed at the end of step 3:")?;
    screen.output(&refused.stderr)?;
    let by_stealer = refused.stderr.matches("by stealer (pid ").count();
    screen.prove(
        by_stealer == ATTEMPTS.len(),
        format!("the summary names the process for {by_stealer} of {} destinations", ATTEMPTS.len()),
    )?;

    screen.command("head -n 1 refused.jsonl")?;
    let events = stage.read("refused.jsonl")?;
    screen.output(events.lines().next().unwrap_or(""))?;
    let complete = events
        .lines()
        .filter(|line| {
            // To port 53 it is no resolver that is asked.
            let reason = ["not_allowlisted", "dns_server"].map(|reason| format!("\"reason\":\"{reason}\""));
            ["\"comm\":\"stealer\"", "\"mode\":\"enforce\""].iter().all(|part| line.contains(part))
                && reason.iter().any(|part| line.contains(part))
        })
        .count();
    screen.prove(
        complete == ATTEMPTS.len() && events.lines().count() == complete,
        format!("{complete} records, one for each attempt, with process and reason"),
    )?;

    explain(stage, screen, "10.77.3.2:443", "not_allowlisted", "ask with the name")?;
    explain(stage, screen, "internal.test:22", "port_not_allowed", "nearest: ")
}

/// Asks for a destination that is refused for this reason, with this hint.
fn explain(stage: &Stage, screen: &mut Screen, to: &str, reason: &str, hint: &str) -> Result<()> {
    let line = ["egress-warden", "explain", "--allowlists", "allowlists", "--policy", "training", "--to", to];
    screen.command(&line.join(" "))?;
    let ran = stage.run(&line)?;
    screen.output(&ran.stdout)?;
    screen.prove(
        ran.code == Some(3) && ran.stdout.contains(reason) && ran.stdout.contains(hint),
        format!("explain says so without running anything (exit code 3): {reason}, and what comes nearest"),
    )
}
