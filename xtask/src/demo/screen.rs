//! What the demo writes on the terminal.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Result, bail};

use super::interrupt;

const WIDTH: usize = 104;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "1;31";
const GREEN: &str = "32";

/// Standard output, and the proofs that were told so far.
pub(super) struct Screen {
    coloured: bool,
    steps: usize,
    proofs: usize,
    failed: Vec<String>,
}

impl Screen {
    pub(super) fn new() -> Screen {
        // https://no-color.org: set and not empty.
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let coloured = !refused && io::stdout().is_terminal();
        Screen { coloured, steps: 0, proofs: 0, failed: Vec::new() }
    }

    pub(super) fn title(&self, title: &str) -> Result<()> {
        self.line("")?;
        self.line(&self.styled(BOLD, title))
    }

    /// Begins a step with what it proves.
    pub(super) fn step(&mut self, claim: &str) -> Result<()> {
        self.steps += 1;
        self.line("")?;
        self.line(&self.styled(BOLD, &format!("{}. {claim}", self.steps)))
    }

    pub(super) fn prose(&self, text: &str) -> Result<()> {
        wrapped(text, WIDTH, "", ' ').iter().try_for_each(|line| self.line(line))
    }

    /// A command as one would type it.
    pub(super) fn command(&self, line: &str) -> Result<()> {
        self.line(&format!("   $ {line}"))
    }

    /// What a program printed.
    pub(super) fn output(&self, text: &str) -> Result<()> {
        for line in text.trim_end().lines() {
            let separator = if line.starts_with('{') { ',' } else { ' ' };
            let hanging = " ".repeat(line.len() - line.trim_start().len() + 2);
            for part in wrapped(line, WIDTH, &hanging, separator) {
                self.line(&self.styled(DIM, &format!("     {part}")))?;
            }
        }
        Ok(())
    }

    /// A row of a table: a first column, and others of equal width.
    pub(super) fn row(&self, first: &str, others: &[String]) -> Result<()> {
        let cells: String = others.iter().map(|cell| format!("{cell:<34}")).collect();
        self.line(format!("     {first:<20}{cells}").trim_end())
    }

    /// A proof: what is claimed, with what was measured, and whether that shows it.
    pub(super) fn prove(&mut self, holds: bool, claim: impl Display) -> Result<()> {
        // What was measured while things were being ended proves nothing.
        interrupt::check()?;
        self.proofs += 1;
        let claim = if holds { claim.to_string() } else { format!("not shown: {claim}") };
        let mark = if holds { self.styled(GREEN, "✓") } else { self.styled(RED, "✗") };
        for (number, part) in wrapped(&claim, WIDTH, "", ' ').iter().enumerate() {
            self.line(&format!("   {} {part}", if number == 0 { &mark } else { " " }))?;
        }
        if !holds {
            self.failed.push(format!("step {}: {claim}", self.steps));
        }
        Ok(())
    }

    pub(super) fn took(&self, duration: Duration) -> Result<()> {
        self.line("")?;
        self.line(&format!("{} proofs, {:.1} s.", self.proofs, duration.as_secs_f64()))
    }

    /// The last word.
    pub(super) fn finish(&self) -> Result<()> {
        if !self.failed.is_empty() {
            let (failed, proofs) = (self.failed.len(), self.proofs);
            bail!("{failed} of {proofs} proofs failed:\n  {}", self.failed.join("\n  "));
        }
        let all = self.styled(GREEN, "Every one holds.");
        self.line(&format!("{all} Nothing of the demo stays on this machine."))
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&self, line: &str) -> Result<()> {
        // Unlike println!, an error and not a panic when the reader has gone.
        Ok(writeln!(io::stdout(), "{line}")?)
    }
}

/// A count and what is counted.
pub(super) fn plural(count: usize, word: &str) -> String {
    match (count, word.strip_suffix('y')) {
        (1, _) => format!("1 {word}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {word}s"),
    }
}

/// Breaks a line at a separator where it is too wide; what follows begins with `hanging`.
fn wrapped(line: &str, width: usize, hanging: &str, separator: char) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    let mut is_empty = true;
    for word in line.split_inclusive(separator) {
        let last = lines.last_mut().expect("there is always a line");
        let length = last.chars().count() + word.trim_end().chars().count();
        if !is_empty && length > width {
            last.truncate(last.trim_end().len());
            lines.push(format!("{hanging}{word}"));
        } else {
            last.push_str(word);
        }
        is_empty = false;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn long_lines_break_at_the_separator() {
        assert_eq!(wrapped("one two three", 8, "", ' '), ["one two", "three"]);
        assert_eq!(wrapped("{\"a\":1,\"b\":2,\"c\":3}", 14, "  ", ','), ["{\"a\":1,\"b\":2,", "  \"c\":3}"]);
        assert_eq!(wrapped("  indented stays", 40, "    ", ' '), ["  indented stays"]);
        assert_eq!(wrapped("unbreakable", 4, "", ' '), ["unbreakable"]);
    }
}
