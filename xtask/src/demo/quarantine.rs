//! The step with the job that goes on trying.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, ChildStdout};

use anyhow::{Context, Result};

use super::screen::{Screen, plural};
use super::stage::{Program, Stage};
use super::welcome::EXEC;
use super::wire::Wire;
use super::{Ran, interrupt};

/// The program under the policy. It says how a phase went and waits, so that frames can be counted between phases.
struct Noisy {
    // Dropped in this order: it ends once nobody talks with it.
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    program: Program,
}

impl Noisy {
    fn start(stage: &Stage, line: &[&str]) -> Result<Noisy> {
        let mut program = stage.converse(line)?;
        let input = program.0.stdin.take().context("standard input is a pipe")?;
        let output = BufReader::new(program.0.stdout.take().context("standard output is a pipe")?);
        Ok(Noisy { input, output, program })
    }

    /// How the phase went, a word for each attempt; empty when the program has ended early.
    fn hear(&mut self) -> Result<Vec<String>> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        interrupt::check()?;
        Ok(line.split_whitespace().map(str::to_owned).collect())
    }

    fn go_on(&mut self) {
        // One that has ended early is told by what it did not say.
        self.input.write_all(b"\n").ok();
    }

    fn finish(mut self) -> Result<Ran> {
        drop(self.input);
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.output.read_to_string(&mut stdout)?;
        if let Some(mut pipe) = self.program.0.stderr.take() {
            pipe.read_to_string(&mut stderr)?;
        }
        Ok(Ran { code: self.program.0.wait()?.code(), stdout, stderr })
    }
}

/// Crosses the threshold, and shows what is open before and after.
pub(super) fn run(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step(
        "A job that goes on trying is quarantined: the tenth violation closes even what was allowed.",
    )?;
    let line = [&EXEC[..6], &["--events", "noisy.jsonl", "--", "./noisy"]].concat();
    screen.command(&line.join(" "))?;
    let (index, internal) = (Wire::of(stage, "index")?, Wire::of(stage, "internal")?);
    let outside = Wire::of(stage, "outside")?;
    let count = || -> Result<(usize, usize)> {
        index.settle()?;
        internal.settle()?;
        Ok((index.job_frames(), internal.job_frames()))
    };

    let mut noisy = Noisy::start(stage, &line)?;
    let before = noisy.hear()?;
    let at_first = count()?;
    noisy.go_on();
    let nine = noisy.hear()?;
    noisy.go_on();
    let tenth = noisy.hear()?;
    let at_crossing = count()?;
    noisy.go_on();
    let after = noisy.hear()?;
    let at_end = count()?;
    noisy.go_on();
    let ran = noisy.finish()?;
    outside.settle()?;

    screen.prove(
        before == ["connected", "connected"] && at_first.0 > 0 && at_first.1 > 0,
        format!(
            "before: the index and the internal service answer; {} and {} frames from the job there",
            at_first.0, at_first.1
        ),
    )?;
    screen.prove(
        nine.len() == 10 && nine[..9].iter().all(|outcome| outcome == "EPERM") && nine[9] == "connected",
        "9 attempts on the outside host got EPERM, and the index still answers",
    )?;
    let quarantined = ran.summary("quarantined after");
    screen.prove(
        tenth == ["EPERM"] && quarantined.contains(": 10 violations"),
        "the tenth attempt got EPERM and crossed the threshold; the summary says:",
    )?;
    screen.output(quarantined)?;
    let frames = outside.job_frames();
    screen.prove(
        frames == 0,
        format!("none of the ten reached the outside host: {} there", plural(frames, "frame")),
    )?;
    let (to_index, to_internal) = (at_end.0 - at_crossing.0, at_end.1 - at_crossing.1);
    screen.prove(
        after.first().is_some_and(|outcome| outcome == "EPERM") && to_index == 0,
        format!(
            "after: the index is refused; {} there, not even from the connection that was open before",
            plural(to_index, "frame")
        ),
    )?;
    screen.prove(
        after.get(1).is_some_and(|outcome| outcome == "connected") && to_internal > 0,
        format!(
            "after: the internal service, which `keep` names, still answers: {}",
            plural(to_internal, "frame")
        ),
    )?;
    let recorded = stage
        .read("noisy.jsonl")?
        .lines()
        .any(|line| line.contains("\"reason\":\"quarantined\"") && line.contains("\"dst\":\"10.77.3.2\""));
    screen.prove(recorded, "the refused attempt on the index is on record with the reason `quarantined`")
}
