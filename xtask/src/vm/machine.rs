//! One test machine, from power on to power off.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::kernel::Expectation;

/// What came of it.
#[derive(Debug)]
pub(super) struct Output {
    /// What it wrote to its serial line.
    pub(super) lines: Vec<String>,
    /// How long it ran.
    pub(super) elapsed: Duration,
    /// Whether it was ended because it did not end by itself.
    pub(super) timed_out: bool,
}

/// A running machine, which is gone when this is dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Either fails only where it has ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Boots a kernel, and returns what it said until it powered off.
pub(super) fn boot(kernel: &Path, image: &Path, expectation: Expectation, limit: Duration) -> Result<Output> {
    let start = Instant::now();
    // Should this process be killed, the machine goes as well.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-nic", "none"]);
    // A reboot is a panic. One processor: QEMU 7.2 hangs with two now and then.
    command.args(["-no-reboot", "-accel", "tcg", "-smp", "1", "-m", "512"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    // In emulation, page table isolation and the like only cost time.
    let line = format!("console=ttyS0 quiet panic=-1 mitigations=off -- {}", expectation.name());
    command.args(["-append", &line]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut machine = Machine(command.spawn().context("cannot start setpriv and qemu-system-x86_64")?);
    let serial = machine.0.stdout.take().context("the machine has no serial line")?;
    let (lines, timed_out) = collect(&read_lines(serial), start + limit);
    drop(machine);
    Ok(Output { lines, elapsed: start.elapsed(), timed_out })
}

fn read_lines(serial: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // The line is not always text: firmware clears the screen.
        for line in BufReader::new(serial).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// All lines until the other end closes or the time is up; and whether it was.
fn collect(source: &Receiver<String>, end: Instant) -> (Vec<String>, bool) {
    let mut lines = Vec::new();
    loop {
        match source.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => lines.push(line),
            Err(RecvTimeoutError::Disconnected) => return (lines, false),
            Err(RecvTimeoutError::Timeout) => return (lines, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_the_time_was_up_is_kept() {
        let (sender, receiver) = mpsc::channel();
        sender.send("said".to_owned()).unwrap();
        assert_eq!(
            collect(&receiver, Instant::now() + Duration::from_millis(20)),
            (vec!["said".to_owned()], true)
        );
        drop(sender);
        assert_eq!(collect(&receiver, Instant::now() + Duration::from_secs(60)), (vec![], false));
    }

    #[test]
    fn carriage_returns_and_bytes_that_are_no_text_do_no_harm() {
        let lines: Vec<String> = read_lines(&b"\x1bc\xff\r\nsecond\r\n"[..]).iter().collect();
        assert_eq!(lines[1], "second");
        assert_eq!(lines.len(), 2);
    }
}
