//! The programs loaded by the test itself, on a cgroup of its own: where time has to be set, or a cgroup nested.

use std::fs::File;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use egress_warden::allowlist;
use egress_warden::kernel::{Enforcer, OwnNamespace, Preparation, Sizes};
use egress_warden::ruleset::{Compiled, compile};
use egress_warden_common::Reason;
use egress_warden_common::state::{State, WallClock};
use egress_warden_tests::{Namespace, TestCgroup};

use crate::support::PRELUDE;

/// What the policy `test` of these allowlists compiles to.
pub(crate) fn compiled(allowlists: &Path) -> Result<Compiled> {
    let set = allowlist::load(&[PathBuf::from(allowlists)]).map_err(|errors| anyhow!("{errors:?}"))?;
    Ok(compile(&set.policy("test").context("no policy `test`")?)?)
}

/// Map sizes for one workload with this ruleset.
pub(crate) fn sizes(compiled: &Compiled) -> Result<Sizes> {
    Ok(Sizes {
        words: compiled.words.len().try_into()?,
        workloads: 1,
        refused_destinations: 1024,
        names: false,
    })
}

/// A cgroup under a policy, in a namespace of the world.
pub(crate) struct Enforced {
    pub(crate) cgroup: TestCgroup,
    enforcer: Enforcer,
}

impl Enforced {
    pub(crate) fn new(allowlists: &Path, namespace: &Namespace) -> Result<Enforced> {
        let compiled = compiled(allowlists)?;
        let cgroup = TestCgroup::new()?;
        let mut enforcer = Enforcer::load(Preparation::begin(), sizes(&compiled)?, false)?;
        enforcer.write_words(0, &compiled.words)?;
        // The thread is inside, the process is not: what it finds out of the host's is not meant.
        let own = OwnNamespace { is_host: false, ..namespace.enter(OwnNamespace::of_caller)? };
        enforcer.bind(0, cgroup.id()?, 0, 1, &own)?;
        enforcer.attach(File::open(cgroup.path())?.as_fd(), cgroup.path())?;
        Ok(Enforced { cgroup, enforcer })
    }

    /// Tells the programs that it is this Unix time, or that nobody knows.
    pub(crate) fn set_time(&mut self, seconds: Option<u64>) -> Result<()> {
        let boot = i64::try_from(egress_warden::kernel::clock::boot_ns()?)?;
        let now = i64::try_from(seconds.unwrap_or_default())? * 1_000_000_000;
        let clock = WallClock { offset: now - boot, synchronised: u64::from(seconds.is_some()) };
        Ok(self.enforcer.set_clock(clock)?)
    }

    fn state(&self) -> Result<State> {
        Ok(self.enforcer.state(0)?)
    }

    /// Violations with this reason.
    pub(crate) fn count(&self, reason: Reason) -> Result<u64> {
        Ok(self.state()?.counts[reason as usize].iter().sum())
    }

    /// All violations.
    pub(crate) fn total(&self) -> Result<u64> {
        Ok(self.state()?.counts.iter().flatten().sum())
    }

    /// Closes every descriptor of the programs and their maps; the cgroup stays.
    pub(crate) fn let_go(self) -> TestCgroup {
        self.cgroup
    }

    /// Starts a Python program inside that does, line by line, what it is told.
    pub(crate) fn python(&self, namespace: &Namespace) -> Result<Python> {
        let mut command = namespace.command("python3");
        command.args(["-c", &format!("{PRELUDE}\n{TOLD}")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = self.cgroup.spawn(command)?;
        let input = child.stdin.take().context("a pipe")?;
        let output = BufReader::new(child.stdout.take().context("a pipe")?).lines();
        Ok(Python { child, input, output })
    }
}

/// Evaluates each line of its input and prints the value on a line.
const TOLD: &str = r#"
for line in sys.stdin:
    print(eval(line), flush=True)
"#;

/// A Python program that does what it is told.
pub(crate) struct Python {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Python {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Evaluates an expression there, and returns its text.
    pub(crate) fn tell(&mut self, expression: &str) -> Result<String> {
        writeln!(self.input, "{expression}")?;
        match self.output.next().transpose()? {
            Some(line) => Ok(line),
            None => bail!("the program ended at `{expression}`"),
        }
    }

    /// The error number of a call there; 0 when it succeeded.
    pub(crate) fn errno_of(&mut self, arguments: &str) -> Result<i32> {
        Ok(self.tell(&format!("errno_of({arguments})"))?.parse()?)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // Gone already where its cgroup was removed first.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
