//! The process that makes one attempt: this very program, started inside the namespace, which joins the cgroup first.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::attempt::{Failure, Tried};
use super::place::Token;
use super::ways::{WAYS, told};
use crate::text::complain;

/// The first argument by which this program knows that it is the probe.
const SUBCOMMAND: &str = "__selftest-probe";
/// Many times what an attempt takes. One that is not over by then is ended.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// What the probe tells of its attempt and of the control.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// The kernel's number, 0 where it let it go; or why it could not be made.
    pub(super) attempt: Result<i32, String>,
    pub(super) control: Result<(), String>,
}

/// Makes an attempt inside the cgroup, from the calling thread's network namespace.
pub(super) fn make(cgroup: &Path, token: Token) -> io::Result<Outcome> {
    let mut probe = Command::new("/proc/self/exe")
        .args([OsStr::new(SUBCOMMAND), cgroup.as_os_str()])
        .args([token.way.to_string(), token.run.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let told = read(&mut probe);
    // Ended already, or too late.
    let _ = probe.kill();
    probe.wait()?;
    serde_json::from_str(&told?).map_err(io::Error::other)
}

fn read(probe: &mut Child) -> io::Result<String> {
    let Some(mut output) = probe.stdout.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
    let end = Instant::now() + ENDS_WITHIN;
    let mut told = Vec::new();
    loop {
        let left =
            PollTimeout::try_from(end.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLIN)], left)? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the probe did not end"));
        }
        let mut part = [0; 1024];
        match output.read(&mut part)? {
            0 => return String::from_utf8(told).map_err(io::Error::other),
            length => told.extend(&part[..length]),
        }
    }
}

/// Where this process was started as a probe, makes its attempt and returns the exit code.
///
/// To be called before the command line is parsed, as [`crate::exec::run_helper`].
pub fn run_helper() -> Option<i32> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != SUBCOMMAND {
        return None;
    }
    let arguments: Vec<OsString> = arguments.collect();
    Some(match attempt(&arguments) {
        Ok(told) => {
            println!("{told}");
            0
        }
        Err(error) => {
            complain(format_args!("{SUBCOMMAND}: {error}"));
            1
        }
    })
}

fn attempt(arguments: &[OsString]) -> io::Result<String> {
    let [cgroup, way, run] = arguments else { return Err(started_by_hand()) };
    let number = |text: &OsStr| text.to_str()?.parse().ok();
    let (way, run): (u64, u64) =
        (number(way).ok_or_else(started_by_hand)?, number(run).ok_or_else(started_by_hand)?);
    let token = Token { run, way: u8::try_from(way).map_err(io::Error::other)? };
    let way = WAYS.get(usize::from(token.way)).ok_or_else(started_by_hand)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    fs::write(Path::new(cgroup).join("cgroup.procs"), "0")?;
    stay_on_one_processor()?;
    let attempt = match (way.attempt)(token) {
        Ok(()) => Ok(0),
        Err(Failure::Refused(errno)) => Ok(errno),
        Err(Failure::Impossible(why)) => Err(why),
    };
    let control = words((way.control)(token));
    serde_json::to_string(&Outcome { attempt, control }).map_err(io::Error::other)
}

fn words(tried: Tried) -> Result<(), String> {
    tried.map_err(|failure| match failure {
        Failure::Refused(errno) => told(errno),
        Failure::Impossible(why) => why,
    })
}

/// Each processor has a queue of its own to the other end of a wire: in one of them, what was sent first arrives first.
fn stay_on_one_processor() -> io::Result<()> {
    let mut here = CpuSet::new();
    here.set(sched_getcpu()?)?;
    Ok(sched_setaffinity(Pid::this(), &here)?)
}

fn started_by_hand() -> io::Error {
    io::Error::other("started by selftest alone")
}
