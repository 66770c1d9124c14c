//! What takes too long for every change: a list of jobs, and a page with what each of them found last.

mod names;
mod packets;
mod page;
mod repeats;
mod suite;

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{run, setup};
use page::{Page, Section};

pub(crate) const HELP: &str = "\
Usage: cargo xtask soak [--only NAME]... [--list]

Runs what takes too long for every change, and writes what it found into docs/soak.md; what was not run keeps its section
there. A job that fails writes nothing and fails the command. Needs root. Tests the agent that EGRESS_WARDEN_BIN names, where
it is set.

  --only NAME  this job only (packets, names, messages, connects, bypass, truth); may be given several times
  --list       the jobs, and how long each takes";

/// One job.
struct Job {
    /// Its name, one word.
    name: &'static str,
    /// What it does, in a sentence or two for the page.
    what: &'static str,
    /// How long it takes on two cores.
    takes: &'static str,
    /// Runs it. Fails where anything is not as it should be; else the figures, in the order of the page.
    run: fn() -> Result<Vec<Figure>>,
}

/// What was measured or counted, and the value.
type Figure = (String, String);

const JOBS: &[Job] =
    &[packets::JOB, names::JOB, names::LOADED, repeats::CONNECTS, repeats::BYPASS, repeats::TRUTH];

pub(crate) fn task(args: &[String]) -> Result<()> {
    let Some(jobs) = read(args)? else {
        for Job { name, what, takes, .. } in JOBS {
            println!("{name:<10}{takes:<16}{what}");
        }
        return Ok(());
    };
    run::need_root("`cargo xtask soak`")?;
    setup::ensure(&[setup::Group::Build, setup::Group::Test])?;
    for job in jobs {
        println!("soak: {} ({})", job.name, job.takes);
        let start = Instant::now();
        let figures = (job.run)().with_context(|| format!("soak job {}", job.name))?;
        let section = Section::new(job.name, job.what, &figures, start.elapsed())?;
        // After each job: a later one that fails does not take the figures of this one away.
        Page::load()?.put(job.name, section).write()?;
    }
    Ok(())
}

/// The jobs to run, in their own order; `None` when they are only to be listed.
fn read(args: &[String]) -> Result<Option<Vec<&'static Job>>> {
    let mut only = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--list" => return Ok(None),
            "--only" => only.push(rest.next().context("--only NAME: the name is missing")?.as_str()),
            _ => bail!("what is `{arg}`?\n\n{HELP}"),
        }
    }
    if let Some(unknown) = only.iter().find(|name| !JOBS.iter().any(|job| job.name == **name)) {
        let known: Vec<&str> = JOBS.iter().map(|job| job.name).collect();
        bail!("--only {unknown}: there is no such job; there are: {}", known.join(", "));
    }
    Ok(Some(JOBS.iter().filter(|job| only.is_empty() || only.contains(&job.name)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(args: &[&str]) -> Vec<&'static str> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        read(&args).unwrap().unwrap().iter().map(|job| job.name).collect()
    }

    #[test]
    fn one_job_or_all() {
        let all: Vec<&str> = JOBS.iter().map(|job| job.name).collect();
        assert_eq!(names(&[]), all);
        assert_eq!(names(&["--only", "packets"]), ["packets"]);
        assert_eq!(names(&["--only", "truth", "--only", "bypass"]), ["bypass", "truth"]);
        assert!(read(&["--only".to_owned(), "pack".to_owned()]).is_err());
        assert!(read(&["--only".to_owned()]).is_err());
        assert!(read(&["--list".to_owned()]).unwrap().is_none());
    }

    #[test]
    fn names_are_one_word_and_told_once() {
        let mut names: Vec<&str> = JOBS.iter().map(|job| job.name).collect();
        assert!(names.iter().all(|name| name.chars().all(|letter| letter.is_ascii_alphanumeric())));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), JOBS.len());
    }
}
