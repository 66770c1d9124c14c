//! A program under `egress-warden exec`, or beside it, that a test talks with line by line; and what is known of it when
//! it has ended.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::wait::{DEADLINE, until};
use crate::{Namespace, TestCgroup, agent_binary};

/// What every Python program of a test begins with.
const PRELUDE: &str = include_str!("job.py");

/// Allowlists on disk, and where the records of a run under them go.
#[derive(Debug)]
pub struct Allowlists {
    directory: TempDir,
}

impl Allowlists {
    /// One policy `job` that enforces. `to` are the entries of the Destinations that it allows, without the key `why`;
    /// `more` are further keys of its spec. Each is YAML on one line.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn new(to: &[&str], more: &[&str]) -> Result<Allowlists> {
        let head = "apiVersion: egress-warden.dev/v1\n";
        let mut text = format!(
            "{head}kind: EgressPolicy\nmetadata: {{name: job}}\nspec:\n  select: {{all: true}}\n  mode: enforce\n"
        );
        text += if to.is_empty() { "  allow: []\n" } else { "  allow: [places]\n" };
        for line in more {
            text += &format!("  {line}\n");
        }
        if !to.is_empty() {
            text += &format!("---\n{head}kind: Destinations\nmetadata: {{name: places}}\nspec:\n  to:\n");
            for entry in to {
                text += &format!("    - {{{entry}, why: test}}\n");
            }
        }
        Self::of_text(&text)
    }

    /// One file with this text.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn of_text(text: &str) -> Result<Allowlists> {
        let directory = tempfile::tempdir()?;
        fs::create_dir(directory.path().join("lists"))?;
        fs::write(directory.path().join("lists/list.yaml"), text)?;
        Ok(Allowlists { directory })
    }

    /// The directory that `--allowlists` is given.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("lists")
    }

    /// A place for files of the test.
    #[must_use]
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `exec` with its options so far, in a namespace.
    ///
    /// # Errors
    /// Without an agent.
    pub fn exec(&self, namespace: &Namespace, options: &[&str]) -> Result<Command> {
        let mut command = namespace.command(agent_binary()?);
        command.arg("exec").arg("--allowlists").arg(self.path()).args(["--policy", "job"]);
        command.arg("--events").arg(self.scratch("events")).args(options).arg("--").stdin(Stdio::null());
        Ok(command)
    }

    /// Starts a Python program under the policy.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&self, namespace: &Namespace, options: &[&str], program: &str) -> Result<Job> {
        let mut command = self.exec(namespace, options)?;
        command.args(python(program));
        Job::start(command, &self.scratch("events"), |mut command| Ok(command.spawn()?))
    }

    /// The same, with the wrapper inside a cgroup of the test.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_below(&self, cgroup: &TestCgroup, namespace: &Namespace, program: &str) -> Result<Job> {
        let mut command = self.exec(namespace, &[])?;
        command.args(python(program));
        Job::start(command, &self.scratch("events"), |command| cgroup.spawn(command))
    }
}

/// Starts a Python program in a namespace, under no policy.
///
/// # Errors
/// When it does not start.
pub fn outsider(namespace: &Namespace, program: &str) -> Result<Job> {
    let mut command = namespace.command("python3");
    command.args(&python(program)[1..]);
    Job::start(command, Path::new("/dev/null"), |mut command| Ok(command.spawn()?))
}

/// The command line of a Python program.
#[must_use]
pub fn python(program: &str) -> [String; 3] {
    ["python3".to_owned(), "-c".to_owned(), format!("{PRELUDE}\n{program}")]
}

/// A running program. It is killed if the test forgets it.
#[derive(Debug)]
pub struct Job {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
    events: PathBuf,
}

impl Job {
    fn start(
        mut command: Command,
        events: &Path,
        spawn: impl FnOnce(Command) -> Result<Child>,
    ) -> Result<Job> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(command)?;
        let output = child.stdout.take().context("no pipe")?;
        let mut errors = child.stderr.take().context("no pipe")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            errors.read_to_end(&mut text).ok();
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok(Job { input: child.stdin.take(), child, lines, errors: Some(errors), events: events.to_owned() })
    }

    /// Its next line.
    ///
    /// # Errors
    /// When none comes in time, with what it said on standard error if it has ended.
    pub fn line(&mut self) -> Result<String> {
        self.lines.recv_timeout(DEADLINE).map_err(|_| {
            self.child.kill().ok();
            let said = self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
            anyhow!("the program said nothing more; on standard error: {said}")
        })
    }

    /// Waits for exactly this line.
    ///
    /// # Errors
    /// When it says something else.
    pub fn expect(&mut self, line: &str) -> Result<()> {
        let said = self.line()?;
        if said == line { Ok(()) } else { bail!("the program said `{said}` instead of `{line}`") }
    }

    /// Sends it a line, for which its `wait()` waits.
    ///
    /// # Errors
    /// When it has ended.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        writeln!(input, "{line}").context("the program does not read any more")
    }

    /// Sends a line and returns the answer.
    ///
    /// # Errors
    /// When there is none.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        self.tell(line)?;
        self.line()
    }

    /// Closes its input, waits for its end, and tells what is known. It must have succeeded.
    ///
    /// # Errors
    /// When it does not end or did not succeed.
    pub fn finish(mut self) -> Result<Report> {
        drop(self.input.take());
        let status = until("the program ends", DEADLINE, || self.child.try_wait().transpose())??;
        let errors = self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if !status.success() {
            bail!("the program ended with {status}: {errors}");
        }
        Report::new(errors, &self.events)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Its input is closed first: who waits for a line ends by himself, and takes his cgroup along.
        drop(self.input.take());
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// What `exec` told of a run.
#[derive(Debug)]
pub struct Report {
    /// Standard error: the program's, and then the summary.
    pub errors: String,
    /// The records.
    pub events: Vec<Value>,
}

impl Report {
    /// Reads what a run left.
    ///
    /// # Errors
    /// When a record is no JSON.
    pub fn new(errors: String, events: &Path) -> Result<Report> {
        let text = fs::read_to_string(events).unwrap_or_default();
        let events = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Report { errors, events })
    }

    /// The exact counters of violations, by reason, as the summary prints them.
    ///
    /// # Errors
    /// When the summary cannot be read.
    pub fn refused(&self) -> Result<BTreeMap<String, u64>> {
        let line = self.errors.lines().rev().find_map(|line| line.strip_prefix("  refused      "));
        let line = line.with_context(|| format!("no summary: {}", self.errors))?;
        if line == "nothing" {
            return Ok(BTreeMap::new());
        }
        if let Some((parts, only)) = line.split_once(", ").filter(|_| !line.contains(": ")) {
            return Ok([(only.to_owned(), number_before(parts)?)].into());
        }
        let (_, parts) = line.split_once(": ").with_context(|| format!("unreadable: {line}"))?;
        parts
            .split(", ")
            .map(|part| {
                let (_, reason) = part.split_once(' ').with_context(|| format!("unreadable: {line}"))?;
                Ok((reason.to_owned(), number_before(part)?))
            })
            .collect()
    }

    /// Asserts the exact counters, and that there is one record for each of what they count.
    ///
    /// # Panics
    /// When they are others.
    pub fn assert_refused(&self, expected: &[(&str, u64)]) {
        let counted = self.refused().unwrap_or_else(|error| panic!("{error:#}"));
        let expected: BTreeMap<String, u64> =
            expected.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        assert_eq!(counted, expected, "{}", self.errors);
        let mut recorded = BTreeMap::new();
        for event in &self.events {
            *recorded.entry(event["reason"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        assert_eq!(recorded, expected, "records: {:?}", self.events);
    }

    /// The number in front of a note of the summary; 0 when it is not there.
    #[must_use]
    pub fn note(&self, what: &str) -> u64 {
        let notes = self.errors.lines().filter_map(|line| line.strip_prefix("  note         "));
        notes.filter(|note| note.contains(what)).find_map(|note| number_before(note).ok()).unwrap_or(0)
    }
}

fn number_before(text: &str) -> Result<u64> {
    let number = text.split(' ').next().unwrap_or_default();
    number.parse().with_context(|| format!("no number in front: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> Vec<(String, u64)> {
        let report = Report { errors: format!("egress-warden: policy\n{line}\n"), events: Vec::new() };
        report.refused().unwrap().into_iter().collect()
    }

    #[test]
    fn summaries() {
        assert_eq!(refused("  refused      nothing"), []);
        assert_eq!(refused("  refused      1 attempt, denied"), [("denied".to_owned(), 1)]);
        assert_eq!(
            refused("  refused      5 attempts: 2 denied, 3 fragment"),
            [("denied".to_owned(), 2), ("fragment".to_owned(), 3)]
        );
    }
}
