//! Quarantine beyond what the kernel does by itself. The kernel sets a workload's state and refuses from that packet on
//! ([`egress_warden_common::decide()`]); here is what follows: the `action`, the end of connections that can no longer be
//! used, release when its time has come, and the memory of who did what and why.
//!
//! Nothing here decides whether a packet passes, and nothing that fails here lets one pass.

pub mod actions;
pub mod cut;
pub mod history;
mod judge;
pub mod state;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::allowlist::Action;
use crate::enforce::snapshot::QuarantineStatus;
use crate::kernel::clock::boot_ns;
use crate::workload::path_text;
use actions::Actions;
use cut::{Judge, UnderWay};
use history::{Entry, History, What};
pub use judge::{refused_behind_services, refused_in_quarantine};
use state::{Lasting, Store};

/// A release that failed is due again after so long.
const RETRY_NS: u64 = 10_000_000_000;
/// Of names and reasons that somebody gives, so much is kept.
const LONGEST: usize = 1_000;

/// Who writes in history where nobody asked.
const AGENT: &str = "agent";

/// A quarantine that begins. The kernel has set its state already.
pub struct Begin<'a> {
    /// Id of the workload's cgroup.
    pub cgroup: u64,
    /// The directory of the cgroup.
    pub directory: OwnedFd,
    /// Its path under the mount of cgroup2.
    pub path: &'a Path,
    /// What people call the workload.
    pub workload: &'a str,
    /// Its policy.
    pub policy: &'a str,
    /// What is done with it.
    pub action: Action,
    /// Who does it: `kernel`, or the user who asked.
    pub who: &'a str,
    /// Why.
    pub why: &'a str,
    /// Boot time in nanoseconds, as it stands in the kernel's state.
    pub quarantined_at: u64,
    /// How many nanoseconds after that it ends by itself.
    pub release: Option<u64>,
    /// The workload's violations so far.
    pub violations: u64,
    /// Which connections are to be ended: [`refused_in_quarantine`].
    pub judge: Judge,
}

/// What came of an action.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What did not work, in words. The quarantine lasts all the same.
    pub problems: Vec<String>,
    /// The number of the cut, where connections are to be ended: what comes of it is told to [`Quarantines::ended`].
    pub cut: Option<u64>,
}

/// What a restarted agent found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// In quarantine, and nobody remembers why: to be begun.
    pub unknown: Vec<u64>,
    /// Remembered, but the action was not seen to its end: to be finished.
    pub unfinished: Vec<u64>,
}

/// Why a workload was not let out.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// It is not in quarantine.
    #[error("it is not in quarantine")]
    NotQuarantined,
    /// It stays frozen.
    #[error("it cannot be thawed: {0}")]
    Thaw(#[source] io::Error),
}

/// The quarantines that last, and those that were.
#[derive(Debug)]
pub struct Quarantines<A> {
    actions: A,
    lasting: BTreeMap<u64, Lasting>,
    directories: HashMap<u64, OwnedFd>,
    store: Store,
    history: History,
    /// By number.
    cuts: BTreeMap<u64, UnderWay>,
    next_cut: u64,
}

impl<A: Actions> Quarantines<A> {
    /// What the files of the state directory say. Files that cannot be read are told of and not a reason to stop: the
    /// kernel knows what is in quarantine.
    pub fn open(state_directory: &Path, boot: String, actions: A) -> Self {
        let store = Store::new(state_directory, boot);
        let lasting = store.load().unwrap_or_else(|error| {
            tracing::error!(%error, "who quarantined what and why cannot be read, and is forgotten");
            BTreeMap::new()
        });
        let history = History::open(state_directory).unwrap_or_else(|error| {
            tracing::error!(%error, "the history of quarantines cannot be read");
            History::unread(state_directory)
        });
        Self {
            actions,
            lasting,
            directories: HashMap::new(),
            store,
            history,
            cuts: BTreeMap::new(),
            next_cut: 0,
        }
    }

    /// Compares what is remembered with what the kernel says: ids of cgroups in quarantine, each with the boot time at
    /// which it began. What is no longer in quarantine is thawed and forgotten.
    pub fn adopt(&mut self, live: &[(u64, u64)]) -> Adopted {
        let live: HashMap<u64, u64> = live.iter().copied().collect();
        let over: Vec<u64> = self.lasting.keys().copied().filter(|id| !live.contains_key(id)).collect();
        for cgroup in over {
            self.let_go(cgroup, "it was not in quarantine when the agent started");
        }
        let mut adopted = Adopted::default();
        for (cgroup, quarantined_at) in live {
            match self.lasting.get(&cgroup) {
                Some(known) if known.quarantined_at == quarantined_at && known.done => {}
                Some(known) if known.quarantined_at == quarantined_at => adopted.unfinished.push(cgroup),
                _ => adopted.unknown.push(cgroup),
            }
        }
        adopted.unknown.sort_unstable();
        adopted.unfinished.sort_unstable();
        adopted
    }

    /// Acts. A second quarantine of the same workload takes the place of the first, but not with a milder action.
    pub fn begin(&mut self, mut begin: Begin<'_>) -> Outcome {
        let before = self.lasting.get(&begin.cgroup);
        begin.action = before.map_or(begin.action, |before| before.action.max(begin.action));
        let frozen = before.is_some_and(|before| before.frozen);
        let mut lasting = Lasting::new(&begin, wall_time_of(begin.quarantined_at));
        lasting.frozen |= frozen;
        self.lasting.insert(begin.cgroup, lasting);
        self.directories.insert(begin.cgroup, begin.directory);
        let mut outcome = Outcome::default();
        // Before anything is frozen it is on the disk that it will have to be thawed.
        self.save(&mut outcome.problems);
        self.note(begin.cgroup, What::Quarantined, None, &mut outcome.problems);
        self.act(begin.cgroup, begin.judge, &mut outcome);
        outcome
    }

    /// Does again what was not seen to its end before the agent ended.
    pub fn finish(&mut self, cgroup: u64, judge: Judge) -> Outcome {
        let mut outcome = Outcome::default();
        self.act(cgroup, judge, &mut outcome);
        outcome
    }

    fn act(&mut self, cgroup: u64, judge: Judge, outcome: &mut Outcome) {
        let Some(action) = self.lasting.get(&cgroup).map(|lasting| lasting.action) else { return };
        let done = self.directory(cgroup).and_then(|directory| {
            match action {
                Action::Isolate => return self.cut(cgroup, directory, judge).map(Some),
                Action::Freeze => self.actions.freeze(directory.as_fd(), true)?,
                Action::Kill => self.actions.kill(directory.as_fd())?,
            }
            Ok(None)
        });
        match done {
            Ok(Some(number)) => outcome.cut = Some(number),
            Ok(None) => self.done(cgroup, &mut outcome.problems),
            Err(error) => self.failed(cgroup, action, &error.to_string(), &mut outcome.problems),
        }
    }

    fn done(&mut self, cgroup: u64, problems: &mut Vec<String>) {
        if let Some(lasting) = self.lasting.get_mut(&cgroup) {
            lasting.done = true;
        }
        self.save(problems);
    }

    fn failed(&mut self, cgroup: u64, action: Action, problem: &str, problems: &mut Vec<String>) {
        let problem = format!("{}: {problem}", name(action));
        let workload = self.lasting.get(&cgroup).map(|lasting| lasting.workload.as_str());
        tracing::error!(workload, %problem, "in quarantine, but not all that follows was done");
        self.note(cgroup, What::Failed, Some((AGENT, &problem)), problems);
        problems.push(problem);
    }

    /// Lets a workload go on. The kernel has to let its packets pass before, so that it meets no refusal.
    ///
    /// # Errors
    /// When it is in no quarantine, or stays frozen; then it stays in the list.
    pub fn end(&mut self, cgroup: u64, who: &str, why: &str) -> Result<(), EndError> {
        let frozen = self.lasting.get(&cgroup).ok_or(EndError::NotQuarantined)?.frozen;
        let mut told = Vec::new();
        if frozen && let Err(error) = self.thaw(cgroup) {
            self.note(cgroup, What::Failed, Some((who, &format!("release: {error}"))), &mut told);
            if let Some(lasting) = self.lasting.get_mut(&cgroup) {
                lasting.until = lasting.until.map(|until| until.max(boot_ns().unwrap_or(until)) + RETRY_NS);
            }
            return Err(EndError::Thaw(error));
        }
        self.note(cgroup, What::Released, Some((who, why)), &mut told);
        self.gone(cgroup);
        Ok(())
    }

    /// The kernel no longer has a workload in quarantine, or its cgroup was removed: nothing of it stays frozen.
    pub fn let_go(&mut self, cgroup: u64, why: &str) {
        let Some(lasting) = self.lasting.get(&cgroup) else { return };
        // Of a cgroup that is gone there is nothing to tell.
        if self.actions.open(&lasting.path, cgroup).is_err_and(|error| is_gone(&error)) {
            return self.gone(cgroup);
        }
        if let Err(error) = self.end(cgroup, AGENT, why) {
            tracing::error!(cgroup, %error, "a workload stays frozen");
        }
    }

    fn thaw(&mut self, cgroup: u64) -> io::Result<()> {
        let thawed = match self.directory(cgroup) {
            Ok(directory) => self.actions.freeze(directory.as_fd(), false),
            Err(error) => Err(error),
        };
        match thawed {
            // It is gone with all that was in it.
            Err(error) if is_gone(&error) => Ok(()),
            other => other,
        }
    }

    /// Forgets a workload whose cgroup was removed.
    pub fn gone(&mut self, cgroup: u64) {
        self.directories.remove(&cgroup);
        self.call_off(cgroup);
        if self.lasting.remove(&cgroup).is_some() {
            self.save(&mut Vec::new());
        }
    }

    /// Those whose time has come at this boot time in nanoseconds.
    #[must_use]
    pub fn due(&self, now: u64) -> Vec<u64> {
        let due = |lasting: &Lasting| lasting.until.is_some_and(|until| until <= now);
        self.lasting.iter().filter(|(_, lasting)| due(lasting)).map(|(cgroup, _)| *cgroup).collect()
    }

    /// Boot time in nanoseconds of the next release.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.lasting.values().filter_map(|lasting| lasting.until).min()
    }

    /// The quarantine of this cgroup.
    #[must_use]
    pub fn status(&self, cgroup: u64) -> Option<QuarantineStatus> {
        self.lasting.get(&cgroup).map(Lasting::status)
    }

    /// Every quarantine that lasts, by id of the cgroup.
    pub fn list(&self) -> impl Iterator<Item = (u64, &Lasting)> {
        self.lasting.iter().map(|(cgroup, lasting)| (*cgroup, lasting))
    }

    /// What happened last, the newest at the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn history(&self, limit: usize) -> io::Result<Vec<Entry>> {
        self.history.newest(limit)
    }

    /// The directory of a workload's cgroup, opened again after a restart.
    fn directory(&mut self, cgroup: u64) -> io::Result<OwnedFd> {
        if let Some(directory) = self.directories.get(&cgroup) {
            return directory.try_clone();
        }
        let lasting = self.lasting.get(&cgroup).ok_or(io::ErrorKind::NotFound)?;
        let directory = self.actions.open(&lasting.path, cgroup)?;
        self.directories.insert(cgroup, directory.try_clone()?);
        Ok(directory)
    }

    fn save(&self, problems: &mut Vec<String>) {
        if let Err(error) = self.store.save(&self.lasting) {
            tracing::error!(%error, "which quarantines last cannot be written; a restart will not know why");
            problems.push(format!("which quarantines last cannot be written: {error}"));
        }
    }

    /// Writes a line of history; `by` where it is not who and why it was quarantined.
    fn note(&mut self, cgroup: u64, what: What, by: Option<(&str, &str)>, problems: &mut Vec<String>) {
        let Some(lasting) = self.lasting.get(&cgroup) else { return };
        let (who, why) = by.unwrap_or((&lasting.who, &lasting.why));
        let entry = Entry {
            time: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            workload: lasting.workload.clone(),
            path: path_text(&lasting.path).into(),
            policy: lasting.policy.clone(),
            what,
            action: lasting.action,
            who: bounded(who),
            why: bounded(why),
            violations: lasting.violations,
        };
        if let Err(error) = self.history.append(&entry) {
            tracing::error!(%error, ?entry, "the history of quarantines cannot be written");
            problems.push(format!("the history of quarantines cannot be written: {error}"));
        }
    }
}

/// As policies write it.
const fn name(action: Action) -> &'static str {
    match action {
        Action::Isolate => "isolate",
        Action::Freeze => "freeze",
        Action::Kill => "kill",
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn bounded(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

fn wall_time_of(boot_time: u64) -> SystemTime {
    let ago = boot_ns().map_or(0, |now| now.saturating_sub(boot_time));
    let now = SystemTime::now();
    now.checked_sub(Duration::from_nanos(ago)).unwrap_or(now)
}

#[cfg(test)]
mod tests;
