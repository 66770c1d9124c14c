//! docs/soak.md: a section for each job, written anew when the job has run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Figure;
use crate::run;

const HEAD: &str = "\
# Soak

Written by `cargo xtask soak`, not by hand: what the jobs that take too long for every change found when they ran last.
`cargo xtask soak --list` names them.
";

/// The text of a job's section behind its heading.
pub(super) struct Section(String);

impl Section {
    pub(super) fn new(name: &str, what: &str, figures: &[Figure], took: Duration) -> Result<Section> {
        let told = |command: &str, args: &[&str]| -> Result<String> {
            let output =
                Command::new(command).args(args).output().with_context(|| format!("cannot run {command}"))?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let (date, kernel) = (told("date", &["-u", "+%Y-%m-%d"])?, told("uname", &["-r"])?);
        let mut text = format!("{what}\n\n");
        let _ = writeln!(
            text,
            "`cargo xtask soak --only {name}`, {date}, Linux {kernel}, {} processors, {} s:\n",
            available_parallelism()?,
            took.as_secs()
        );
        text += "| figure | value |\n| --- | --- |\n";
        for (figure, value) in figures {
            let _ = writeln!(text, "| {figure} | {value} |");
        }
        Ok(Section(text))
    }
}

/// The page, by the names of the jobs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page(BTreeMap<String, String>);

impl Page {
    /// The committed page; empty where there is none.
    pub(super) fn load() -> Result<Page> {
        match fs::read_to_string(path()) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Page(BTreeMap::new())),
            Err(error) => Err(error).with_context(|| path().display().to_string()),
        }
    }

    fn parse(text: &str) -> Page {
        let sections = text.split("\n## ").skip(1).filter_map(|section| section.split_once("\n\n"));
        Page(sections.map(|(name, text)| (name.to_owned(), format!("{}\n", text.trim_end()))).collect())
    }

    pub(super) fn put(mut self, name: &str, section: Section) -> Page {
        self.0.insert(name.to_owned(), section.0);
        self
    }

    fn text(&self) -> String {
        self.0.iter().fold(HEAD.to_owned(), |page, (name, text)| format!("{page}\n## {name}\n\n{text}"))
    }

    pub(super) fn write(&self) -> Result<()> {
        fs::write(path(), self.text()).with_context(|| path().display().to_string())?;
        println!("written to {}", path().display());
        Ok(())
    }
}

fn path() -> PathBuf {
    run::workspace().join("docs/soak.md")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_did_not_run_keeps_its_section() {
        let figures = |value: &str| vec![("packets".to_owned(), value.to_owned())];
        let section = |name, value| {
            Section::new(name, "What it does.", &figures(value), Duration::from_secs(7)).unwrap()
        };
        let both =
            Page(BTreeMap::new()).put("fuzz", section("fuzz", "1")).put("kills", section("kills", "2"));
        let read = Page::parse(&both.text());
        assert_eq!(read, both);
        let again = read.put("fuzz", section("fuzz", "3")).text();
        assert!(again.contains("| packets | 3 |") && again.contains("| packets | 2 |"), "{again}");
        assert!(!again.contains("| packets | 1 |"), "{again}");
        assert!(again.starts_with(HEAD) && again.ends_with("|\n"), "{again}");
    }
}
