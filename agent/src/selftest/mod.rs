//! `selftest`: tries the ways out of a workload that this kernel lets it try, against the programs that are loaded.
//!
//! `ways` lists them, `attempt` makes them, in a process of its own (`probe`) on a `stage` that leads nowhere. What
//! is tested is a `Subject`: the running agent's own programs, or a set loaded for the purpose.
#![forbid(unsafe_code)]

pub mod agent;
mod attempt;
mod frames;
mod place;
mod policy;
mod probe;
mod report;
pub(crate) mod stage;
mod standalone;
mod ways;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use egress_warden_common::Reason;
use egress_warden_common::state::State;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{RecvFlags, recv};

use crate::enforce::trial::Trial;
use crate::kernel::{OwnNamespace, Probe};
use crate::ruleset::CompileError;
use crate::text::rfc3339;
use place::Token;
use stage::{Stage, StageError};
use ways::{Seen, WAYS, Way};

pub use probe::run_helper;
pub use report::{Finding, LastSelftest, Report, SCHEMA, Verdict};
pub use standalone::run as standalone;

/// How long a frame may take over this wire.
const ARRIVES_WITHIN: Duration = Duration::from_secs(1);
/// Longer than any frame here.
const LONGEST_FRAME: usize = 2048;

/// Why no self-test was made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SelftestError {
    /// There is one.
    #[error("a self-test runs already; it takes a second")]
    Busy,
    /// Nowhere to try.
    #[error("the self-test cannot run: {0}")]
    Stage(#[from] Arc<StageError>),
    /// Nothing to test.
    #[error("the self-test cannot run: {0}")]
    Subject(String),
    /// A namespace that this agent cannot examine.
    #[error("the self-test cannot run: its own network namespace cannot be examined: {0}")]
    Namespace(String),
    /// The self-test's own policy.
    #[error("the self-test cannot run: {0}")]
    Policy(#[from] Arc<CompileError>),
}

/// The programs that are tested.
pub(crate) trait Subject {
    /// Enforces a ruleset on a cgroup.
    fn enforce(&mut self, trial: Trial) -> Result<(), String>;
    /// What is counted of it.
    fn state(&mut self, cgroup: u64) -> Result<Box<State>, String>;
    /// Ends its enforcement.
    fn release(&mut self, cgroup: u64) -> Result<(), String>;
}

/// Tries every way. Takes about a second, and blocks.
pub(crate) fn run(subject: &mut dyn Subject, mount: &Path, by_agent: bool) -> Result<Report, SelftestError> {
    let began = Instant::now();
    let words = policy::words().map_err(Arc::new)?;
    let stage = Stage::set_up(mount).map_err(Arc::new)?;
    let unknown = |error: &dyn std::fmt::Display| SelftestError::Namespace(error.to_string());
    let file = stage.pod.0.try_clone().map_err(|error| unknown(&error))?;
    let namespace = OwnNamespace::of_file(file)
        .map_err(|error| unknown(&error))?
        .ok_or_else(|| unknown(&"it belongs to another user namespace"))?;
    let cgroup = &stage.cgroup;
    let directory =
        cgroup.directory.try_clone().map_err(|error| SelftestError::Subject(error.to_string()))?;
    let trial = Trial { cgroup: cgroup.id, directory, path: cgroup.path.clone(), words, namespace };
    subject.enforce(trial).map_err(SelftestError::Subject)?;
    let tried = try_all(subject, &stage);
    // Also where something went wrong meanwhile; the first error tells what.
    let released = subject.release(cgroup.id);
    let ways = tried?;
    released.map_err(SelftestError::Subject)?;
    let has = |verdict| ways.iter().any(|found| found.verdict == verdict);
    Ok(Report {
        schema: SCHEMA,
        passed: has(Verdict::Closed) && !has(Verdict::Open),
        by_agent,
        kernel: Probe::new().map(|probe| probe.release).unwrap_or_default(),
        at: rfc3339(SystemTime::now()),
        milliseconds: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        ways,
    })
}

fn try_all(subject: &mut dyn Subject, stage: &Stage) -> Result<Vec<Finding>, SelftestError> {
    let run = run_number();
    let mut found = Vec::new();
    for (way, number) in WAYS.iter().zip(0..) {
        let token = Token { run, way: number };
        let state = |subject: &mut dyn Subject| {
            let state = subject.state(stage.cgroup.id).map_err(SelftestError::Subject)?;
            Ok::<_, SelftestError>(counted(&state, way.reason))
        };
        let before = state(subject)?;
        let seen = observe(stage, token);
        let counted = state(subject)? > before;
        found.push(finding(way, &Seen { counted, ..seen }));
    }
    Ok(found)
}

/// A number that no frame of another run carries.
fn run_number() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

fn counted(state: &State, reason: Reason) -> u64 {
    state.counts[reason as usize].iter().sum()
}

fn finding(way: &Way, seen: &Seen) -> Finding {
    let (verdict, why) = way.judge(seen);
    Finding {
        way: way.name.to_owned(),
        means: way.means.to_owned(),
        verdict,
        reason: way.reason.name().to_owned(),
        why,
    }
}

/// Makes an attempt and looks at what left and what arrived.
fn observe(stage: &Stage, token: Token) -> Seen {
    let made = stage.pod.enter(|| probe::make(&stage.cgroup.path, token));
    let (attempt, control) = match made {
        Ok(outcome) => (outcome.attempt, outcome.control),
        Err(error) => (Err(format!("the probe: {error}")), Err("it was not sent".to_owned())),
    };
    let mut arrived = false;
    let mut arrival = Err(io::ErrorKind::TimedOut.into());
    if control.is_ok() {
        arrival = watch(&stage.far, Instant::now() + ARRIVES_WITHIN, |frame| {
            arrived |= token.is_attempt(frame);
            token.is_control(frame)
        });
    }
    // Whatever is there by now; without a control there is nothing to wait for.
    let rest = watch(&stage.far, Instant::now(), |frame| {
        arrived |= token.is_attempt(frame);
        false
    });
    let mut left = false;
    let near = watch(&stage.near, Instant::now(), |frame| {
        left |= token.is_attempt(frame);
        false
    });
    let control = control
        .and_then(|()| arrival.map_err(|error: io::Error| error.to_string()))
        .and_then(|()| lost(rest))
        .and_then(|()| lost(near));
    Seen { attempt, left, arrived, control, counted: false }
}

/// Looking on after the end is no error; everything else means that frames may have been missed.
fn lost(watched: io::Result<()>) -> Result<(), String> {
    match watched {
        Err(error) if error.kind() != io::ErrorKind::TimedOut => {
            Err(format!("frames were not seen: {error}"))
        }
        _ => Ok(()),
    }
}

/// Looks at every frame until one is what was waited for, or nothing more comes in time.
fn watch(socket: &OwnedFd, end: Instant, mut is_it: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut frame = [0; LONGEST_FRAME];
    loop {
        match recv(socket, &mut frame, RecvFlags::DONTWAIT) {
            Ok((_, length)) if is_it(&frame[..length.min(LONGEST_FRAME)]) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
