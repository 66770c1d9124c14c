//! `exec` from beginning to end: everything that can be known is checked before anything is made, and nothing runs
//! before every program is attached.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Instant;

use egress_warden_common::state::NamedRecord;

use super::cgroup::CgroupError;
use super::events::{self, write_line};
use super::jail::JailError;
use super::summary::{Culprits, Summary};
use super::{CapabilitySet, Cgroup, ExtraPoll, Jail};
use crate::allowlist::{self, AllowlistSet, Diagnostic};
use crate::kernel::clock::{ClockWatch, boot_ns, wall_clock};
use crate::kernel::{Ancestor, Enforcer, KernelError, OwnNamespace, Preparation, Probe, Sizes};
use crate::policy::{Beyond, Mode, NameRule, Policy, Rule};
use crate::records::Origin;
use crate::ruleset::{CompileError, Compiled, compile};
use crate::text::{complain, tell, visible};

/// The one workload's place in the maps.
const SLOT: u32 = 0;
/// Its ruleset is the first and stays.
const GENERATION: u32 = 1;

/// What `exec` is asked to do.
#[derive(Debug)]
pub struct Options {
    /// Files and directories with allowlists.
    pub allowlists: Vec<PathBuf>,
    /// The policy's name.
    pub policy: String,
    /// Overrides the policy's mode.
    pub mode: Option<Mode>,
    /// Where records go.
    pub events: Option<PathBuf>,
    /// Capabilities that the command keeps.
    pub keep_caps: CapabilitySet,
    /// Turns on the programs' diagnostics.
    pub kernel_log: bool,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

/// Why nothing was run, or why it was ended.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The allowlists have errors.
    #[error("the allowlists have errors; nothing was run")]
    Allowlists(Vec<Diagnostic>),
    /// There is no such policy.
    #[error("--policy {name}: no such policy; the allowlists have: {known}")]
    NoPolicy {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The policy asks for what exec cannot enforce.
    #[error("policy {policy} asks for what exec cannot enforce yet; nothing was run\n{}", list(.entries))]
    Beyond {
        /// Its name.
        policy: String,
        /// The entries.
        entries: Vec<Beyond>,
    },
    /// It does not fit.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The kernel's side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The jail, or a command that cannot be started.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// The file of `--events` does not take all records.
    #[error(
        "--events {} is not complete: {source}; the command ran under enforcement and exited with {code}",
        path.display()
    )]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// The command's exit code, which this failure hides.
        code: i32,
        /// What the system said.
        source: io::Error,
    },
    /// The file of `--events`.
    #[error("--events {}: {source}", path.display())]
    Events {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn list(entries: &[Beyond]) -> String {
    let lines: Vec<String> =
        entries.iter().map(|entry| visible(&format!("  {}: {}", entry.origin, entry.what))).collect();
    lines.join("\n")
}

/// Runs the command. Returns its exit code, after the summary was written to standard error.
pub fn run(options: &Options) -> Result<i32, ExecError> {
    Jail::check()?;
    Probe::new()?.check()?;
    let preparation = Preparation::begin();
    let set = allowlist::load(&options.allowlists).map_err(ExecError::Allowlists)?;
    let policy = choose(&set, options)?;
    let compiled = compile(&policy)?;
    let namespace = OwnNamespace::of_caller()?;
    let events = options.events.as_ref().map(|path| {
        let made = events::create(path, set.files());
        made.map_err(|source| ExecError::Events { path: path.clone(), source })
    });
    let events = events.transpose()?;
    let unjudged = options.keep_caps.unjudged();
    if let Some(note) = &unjudged {
        complain(note);
    }

    let cgroup = Cgroup::create()?;
    let mut enforcer = enforce(preparation, &cgroup, &compiled, &namespace, options.kernel_log)?;
    let clock = if policy.has_deadline() || compiled.judges_names() {
        Some(watch_clock(&mut enforcer, policy.has_deadline())?)
    } else {
        None
    };
    let workload = cgroup.name();
    let origin = Origin { workload: &workload, clock_offset: wall_clock()?.offset };
    let mut session = Session {
        enforcer,
        compiled: &compiled,
        events,
        origin,
        clock,
        culprits: Culprits::default(),
        failure: None,
    };

    let (started, started_at) = (Instant::now(), boot_ns()?);
    let mut running = Jail::spawn(&cgroup, &options.command, &options.keep_caps)?;
    let outcome = running.wait(&mut session);
    drop(running);
    session.ready();
    let duration = started.elapsed();
    let Session { enforcer, events, culprits, failure, .. } = session;
    let written = close_events(events, failure);
    let destinations: Vec<Rule> = set.destinations().iter().flat_map(|one| one.rules.clone()).collect();
    let named: Vec<NameRule> = set.destinations().iter().flat_map(|one| one.names.clone()).collect();
    let summary = Summary {
        policy: &policy,
        compiled: &compiled,
        destinations: &destinations,
        named: &named,
        state: &enforcer.state(SLOT)?,
        refused: enforcer.refused()?,
        culprits: &culprits,
        unjudged: unjudged.as_deref(),
        started_at,
        duration,
    };
    let code = outcome?;
    // Standard error may be closed by now; that is no reason to forget the command's exit code.
    tell(&summary.text());
    cgroup.remove()?;
    // Told last: the summary is true all the same.
    match (written, &options.events) {
        (Err(source), Some(path)) => Err(ExecError::Incomplete { path: path.clone(), code, source }),
        _ => Ok(code),
    }
}

fn choose(set: &AllowlistSet, options: &Options) -> Result<Policy, ExecError> {
    let Some(mut policy) = set.policy(&options.policy) else {
        let known = set.policies().join(", ");
        return Err(ExecError::NoPolicy { name: options.policy.clone(), known });
    };
    if !policy.beyond_exec.is_empty() {
        return Err(ExecError::Beyond { policy: policy.name, entries: policy.beyond_exec });
    }
    policy.mode = options.mode.unwrap_or(policy.mode);
    Ok(policy)
}

/// Loads, binds, attaches: in this order, so that the first packet already finds its ruleset.
fn enforce(
    preparation: Preparation,
    cgroup: &Cgroup,
    compiled: &Compiled,
    namespace: &OwnNamespace,
    kernel_log: bool,
) -> Result<Enforcer, ExecError> {
    for ancestor in Ancestor::between(cgroup.mount(), cgroup.path()) {
        ancestor.refuse_exclusive()?;
    }
    let words = u32::try_from(compiled.words.len()).map_err(|_| KernelError::Full {
        map: "WORDS",
        wanted: compiled.words.len(),
        capacity: u32::MAX as usize,
    })?;
    let sizes = Sizes { words, workloads: 1, refused_destinations: 1024, names: compiled.judges_names() };
    let mut enforcer = Enforcer::load(preparation, sizes, kernel_log)?;
    enforcer.write_words(0, &compiled.words)?;
    enforcer.bind(SLOT, cgroup.id(), 0, GENERATION, namespace)?;
    enforcer.attach(cgroup.fd(), cgroup.path())?;
    Ok(enforcer)
}

fn watch_clock(enforcer: &mut Enforcer, has_deadline: bool) -> Result<ClockWatch, KernelError> {
    let watch = ClockWatch::new()?;
    let clock = wall_clock()?;
    if has_deadline && clock.synchronised == 0 {
        complain("the clock is not synchronised: entries with `expires` stay closed until it is");
    }
    enforcer.set_clock(clock)?;
    Ok(watch)
}

fn close_events(events: Option<BufWriter<File>>, failure: Option<io::Error>) -> io::Result<()> {
    let flushed = events.map_or(Ok(()), events::close);
    failure.map_or(flushed, Err)
}

/// What the waiting loop does beside waiting.
struct Session<'a> {
    enforcer: Enforcer,
    compiled: &'a Compiled,
    events: Option<BufWriter<File>>,
    origin: Origin<'a>,
    /// Tells of the wall clock's jumps, and when it is time to sweep what names opened.
    clock: Option<ClockWatch>,
    culprits: Culprits,
    /// The first failure to write a record; told at the end, because the command runs on under enforcement.
    failure: Option<io::Error>,
}

impl ExtraPoll for Session<'_> {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = self.enforcer.fds();
        fds.extend(self.clock.as_ref().map(AsFd::as_fd));
        fds
    }

    fn ready(&mut self) {
        let Self { enforcer, compiled, events, origin, culprits, failure, .. } = self;
        enforcer.drain_records(|record: &NamedRecord| {
            culprits.add(record);
            if let Some(events) = events
                && let Err(error) = write_line(events, record, origin, compiled)
            {
                failure.get_or_insert(error);
            }
        });
        enforcer.flush_log();
        if self.clock.as_mut().is_some_and(ClockWatch::fired) {
            // A clock that cannot be read keeps the deadlines that were told last.
            if let Ok(clock) = wall_clock() {
                let _ = self.enforcer.set_clock(clock);
            }
            // What cannot be removed now can be the next time; until then it only takes room.
            if let Some(now) = boot_ns().ok().filter(|_| self.compiled.judges_names()) {
                let _ = self.enforcer.sweep_grants(SLOT, now);
            }
        }
    }
}
