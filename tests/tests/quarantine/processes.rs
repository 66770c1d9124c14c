//! `freeze` and `kill`.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use egress_warden::allowlist::Action;
use egress_warden::kernel::clock::boot_ns;
use egress_warden::quarantine::Adopted;
use egress_warden::quarantine::actions::{Actions, Kernel};
use egress_warden::quarantine::cut;
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{TestCgroup, cgroup2_mount};

use crate::{Agent, Case};

/// Long enough for a shell to count on.
const MOMENT: Duration = Duration::from_millis(200);

/// A process that counts in a file, in a cgroup below or in the cgroup itself.
pub(crate) struct Counter {
    file: PathBuf,
    child: Child,
}

impl Counter {
    pub(crate) fn start(cgroup: &TestCgroup, below: &str, directory: &Path, name: &str) -> Result<Counter> {
        let file = directory.join(name);
        let mut command = Command::new("python3");
        let program = "import sys, time\nopen(sys.argv[2], 'w').write('0')\nn = 0\nwhile True:\n  \
                       n += 1\n  open(sys.argv[1], 'w').write(str(n))\n  time.sleep(0.001)";
        let procs = cgroup.path().join(below).join("cgroup.procs");
        command.args(["-c", program]).args([&file, &procs]);
        let child = cgroup.spawn(command)?;
        let counter = Counter { file, child };
        counter.wait_for_progress()?;
        Ok(counter)
    }

    /// 0 while the file is being written.
    fn count(&self) -> u64 {
        fs::read_to_string(&self.file).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn wait_for_progress(&self) -> Result<()> {
        let before = until("a count", DEADLINE, || Some(self.count()).filter(|count| *count > 0));
        // Frozen in the middle of writing the file is empty until it goes on.
        let before = before.unwrap_or(0);
        until("the counter goes on", DEADLINE, || (self.count() > before).then_some(()))
    }

    pub(crate) fn stands_still(&self) -> bool {
        let text = || fs::read_to_string(&self.file).unwrap_or_default();
        let before = text();
        sleep(MOMENT);
        text() == before
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // Killed already where its cgroup was.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn has(cgroup: &Path, event: &str) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|text| text.lines().any(|line| line == event))
}

#[test]
fn what_is_frozen_stands_still_until_its_release_also_over_a_restart() -> Result<()> {
    let (job, other, directory) = (TestCgroup::new()?, TestCgroup::new()?, tempfile::tempdir()?);
    fs::create_dir_all(job.path().join("a/b"))?;
    let inside = [
        Counter::start(&job, "", directory.path(), "top")?,
        Counter::start(&job, "a/b", directory.path(), "below")?,
    ];
    let outside = Counter::start(&other, "", directory.path(), "other")?;

    let state = tempfile::tempdir()?;
    let mut agent = Agent::new(&state)?;
    let at = boot_ns()?;
    let case =
        Case { cgroup: &job, action: Action::Freeze, quarantined_at: at, release: Some(1_000_000_000) };
    assert_eq!(case.begin(&mut agent, Box::new(|_| true))?, Vec::<String>::new());
    until("everything is frozen", DEADLINE, || has(job.path(), "frozen 1").then_some(()))?;
    ensure!(inside.iter().all(Counter::stands_still), "something goes on");
    outside.wait_for_progress()?;
    drop(agent);

    let mut agent = Agent::new(&state)?;
    assert_eq!(agent.quarantines.adopt(&[(job.id()?, at)]), Adopted::default());
    ensure!(inside.iter().all(Counter::stands_still), "a restart thawed it");
    until("its time comes", DEADLINE, || boot_ns().ok().filter(|now| *now >= at + 1_000_000_000))?;
    assert_eq!(agent.quarantines.due(boot_ns()?), [job.id()?]);
    agent.quarantines.end(job.id()?, "agent", "its time has come")?;
    for counter in &inside {
        counter.wait_for_progress()?;
    }
    assert_eq!(agent.quarantines.history(9)?.len(), 2);
    Ok(())
}

#[test]
fn what_is_no_longer_in_quarantine_is_thawed_by_the_next_agent() -> Result<()> {
    let (job, directory, state) = (TestCgroup::new()?, tempfile::tempdir()?, tempfile::tempdir()?);
    let counter = Counter::start(&job, "", directory.path(), "count")?;
    let mut agent = Agent::new(&state)?;
    Case { cgroup: &job, action: Action::Freeze, quarantined_at: 1, release: None }
        .begin(&mut agent, Box::new(|_| true))?;
    until("it is frozen", DEADLINE, || has(job.path(), "frozen 1").then_some(()))?;
    drop(agent);
    Agent::new(&state)?.quarantines.adopt(&[]);
    counter.wait_for_progress()
}

#[test]
fn everything_is_killed_and_nothing_else() -> Result<()> {
    let (job, other, directory) = (TestCgroup::new()?, TestCgroup::new()?, tempfile::tempdir()?);
    fs::create_dir_all(job.path().join("a/b"))?;
    let outside = Counter::start(&other, "", directory.path(), "other")?;
    let below = Counter::start(&job, "a/b", directory.path(), "below")?;
    // A hundred that sit there, of which each that forks goes on forking, faster than anybody could name them.
    let mut bomb = Command::new("sh");
    bomb.args(["-c", "for i in $(seq 100); do sleep 1000 & done; while :; do (sleep 0.02 &); done"]);
    let mut bomb = job.spawn(bomb)?;
    until("a hundred run", DEADLINE, || job.processes().ok().filter(|all| all.len() > 100))?;

    let mut agent = Agent::new(&directory)?;
    let case = Case { cgroup: &job, action: Action::Kill, quarantined_at: 1, release: None };
    assert_eq!(case.begin(&mut agent, Box::new(|_| true))?, Vec::<String>::new());
    until("nothing runs", DEADLINE, || has(job.path(), "populated 0").then_some(()))?;
    assert!(!bomb.wait()?.success());
    ensure!(below.stands_still(), "something below goes on");
    outside.wait_for_progress()?;
    assert!(has(job.path(), "populated 0"));
    Ok(())
}

#[test]
fn a_cgroup_that_took_the_place_of_another_is_left_alone() -> Result<()> {
    let (parent, directory) = (TestCgroup::new()?, tempfile::tempdir()?);
    let path = parent.path().join("job");
    fs::create_dir(&path)?;
    let old = File::open(&path)?;
    fs::remove_dir(&path)?;
    fs::create_dir(&path)?;
    let counter = Counter::start(&parent, "job", directory.path(), "count")?;
    let kernel = Kernel { mount: cgroup2_mount()?, cuts: cut::start()?.0 };
    assert!(kernel.freeze(old.as_fd(), true).is_err());
    assert!(kernel.kill(old.as_fd()).is_err());
    assert_eq!(fs::read_to_string(path.join("cgroup.freeze"))?.trim(), "0");
    counter.wait_for_progress()
}
