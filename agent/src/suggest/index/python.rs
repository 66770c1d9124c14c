//! Asking the machine's Python, within a bounded time.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// More than any list of installed packages takes.
const MAX_OUTPUT: u64 = 4 << 20;

/// An interpreter that has pip.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Python(&'static str);

/// A question that pip did not answer. What it said on standard error is not repeated: it may quote a password.
#[derive(Debug, thiserror::Error)]
#[error("`{command}` {problem}; run it to see why, or name the index with --index-url")]
pub struct PythonError {
    command: String,
    problem: String,
}

impl Python {
    /// The first on the search path that has pip.
    pub(crate) fn with_pip() -> Option<Self> {
        const HAS_PIP: &str = "import importlib.util, sys; sys.exit(importlib.util.find_spec('pip') is None)";
        let has_pip =
            |program: &&str| matches!(output(program, &["-c", HAS_PIP]), Ok((status, _)) if status.success());
        ["python3", "python"].into_iter().find(has_pip).map(Self)
    }

    /// What pip prints.
    pub(crate) fn pip(self, arguments: &[&str]) -> Result<String, PythonError> {
        self.run(&[&["-m", "pip", "--disable-pip-version-check"], arguments].concat())
    }

    /// What a program prints.
    pub(crate) fn run(self, arguments: &[&str]) -> Result<String, PythonError> {
        let fail =
            |problem: String| PythonError { command: format!("{} {}", self.0, arguments.join(" ")), problem };
        match output(self.0, arguments) {
            Ok((status, text)) if status.success() => Ok(text),
            Ok((status, _)) => Err(fail(format!("failed ({status})"))),
            Err(error) => Err(fail(format!("failed: {error}"))),
        }
    }

    /// How pip's answer to a question is called.
    pub(crate) fn called(self, question: &str) -> String {
        format!("{} -m pip {question}", self.0)
    }
}

fn output(program: &str, arguments: &[&str]) -> io::Result<(ExitStatus, String)> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // Python imports from the working directory first, and that may be anybody's.
    let mut child = command.current_dir("/").spawn()?;
    let read = read(&mut child);
    if read.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok((status, String::from_utf8_lossy(&read?).into_owned()))
}

fn read(child: &mut Child) -> io::Result<Vec<u8>> {
    let Some(stdout) = child.stdout.take() else { return Ok(Vec::new()) };
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        let read = stdout.take(MAX_OUTPUT).read_to_end(&mut text);
        // Nobody waits any more where it took too long.
        let _ = sender.send(read.map(|_| text));
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(read) => read,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", PATIENCE.as_secs())))
        }
    }
}
