//! Machines and input on which `exec` must not run anything: one clear line, exit code 125, nothing ran, nothing stays.

#[path = "faults/foreign.rs"]
mod foreign;
#[path = "faults/input.rs"]
mod input;
#[path = "faults/interrupted.rs"]
mod interrupted;
#[path = "faults/machine.rs"]
mod machine;
#[path = "faults/output.rs"]
mod output;
#[path = "faults/tables.rs"]
mod tables;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::Result;
use egress_warden_tests::job::Allowlists;
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Namespace, TestCgroup, agent_binary};

/// A place to run `exec` in, where it is seen what it leaves.
struct Bench {
    namespace: Namespace,
    cgroup: TestCgroup,
    lists: Allowlists,
}

impl Bench {
    fn new() -> Result<Bench> {
        Ok(Bench {
            namespace: Namespace::new()?,
            cgroup: TestCgroup::new()?,
            lists: Allowlists::new(&[], &[])?,
        })
    }

    /// What the command would have made.
    fn marker(&self) -> PathBuf {
        self.lists.scratch("marker")
    }

    /// The arguments of an `exec` that leaves the marker.
    fn arguments(&self) -> Vec<String> {
        let lists = self.lists.path().display().to_string();
        let mut arguments = vec!["exec".to_owned(), "--allowlists".to_owned(), lists];
        arguments.extend(["--policy", "job", "--", "touch"].map(str::to_owned));
        arguments.push(self.marker().display().to_string());
        arguments
    }

    /// `exec` with these arguments.
    fn exec<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<Command> {
        let mut command = self.namespace.command(agent_binary()?);
        command.args(arguments);
        Ok(command)
    }

    fn run(&self, mut command: Command) -> Result<Output> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(self.cgroup.spawn(command)?.wait_with_output()?)
    }

    /// Runs it where it must fail, and returns what it says.
    fn refused(&self, command: Command) -> Result<String> {
        let output = self.run(command)?;
        let text = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(125), "{text}");
        assert!(output.stdout.is_empty(), "standard output is the command's");
        self.assert_nothing_ran()?;
        Ok(text)
    }

    /// The same, where one line says it all. Asserts that each of `needles` stands in it.
    fn refused_with(&self, command: Command, needles: &[&str]) -> Result<()> {
        let text = self.refused(command)?;
        assert_eq!(text.lines().count(), 1, "one clear line: {text}");
        assert!(text.starts_with("egress-warden: "), "{text}");
        for needle in needles {
            assert!(text.contains(needle), "no `{needle}` in: {text}");
        }
        Ok(())
    }

    /// The positive control: the same run succeeds.
    fn succeeds(&self, command: Command) -> Result<String> {
        let output = self.run(command)?;
        let text = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(self.marker().exists(), "the command ran");
        fs::remove_file(self.marker())?;
        self.assert_nothing_stays()?;
        Ok(text)
    }

    fn assert_nothing_ran(&self) -> Result<()> {
        assert!(!self.marker().exists(), "the command ran");
        self.assert_nothing_stays()
    }

    /// No cgroup below ours, and nobody in it; a janitor may need a moment.
    fn assert_nothing_stays(&self) -> Result<()> {
        until("nothing of exec is left", DEADLINE, || {
            let below = fs::read_dir(self.cgroup.path()).ok()?.flatten();
            let cgroups = below.filter(|entry| entry.path().is_dir()).count();
            (cgroups == 0 && self.cgroup.processes().ok()?.is_empty()).then_some(())
        })
    }
}
