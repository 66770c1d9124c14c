//! The command's life: its exit code, its cgroup, its end.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};
use egress_warden_tests::wait::{DEADLINE, until};

use super::super::scenario::{Finished, Scenario};
use super::expect;

pub(super) fn exit_codes(scenario: &Scenario) -> Result<String> {
    let run =
        |line: &[&str]| scenario.run(scenario.exec(Some(scenario.job()), &["--policy", "closed"], line));
    run(&["true"])?.expect_code(0)?;
    run(&["sh", "-c", "exit 7"])?.expect_code(7)?;
    run(&["sh", "-c", "kill -TERM $$"])?.expect_code(128 + 15)?;
    let failed = run(&["no-such-command"])?.expect_code(125)?;
    expect("lines on standard error", &failed.stderr.lines().count(), &1)?;
    Ok("0, 7, 143, 125".to_owned())
}

/// Ways to another cgroup, for a shell with uid 0. Each prints if it is open.
const WAYS_OUT: &str = r"
for file in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/../cgroup.procs /proc/1/root/sys/fs/cgroup/cgroup.procs; do
    echo $$ 2>/dev/null >$file && echo open $file
done 2>/dev/null
for way in 'mkdir /sys/fs/cgroup/x' 'mount -o remount,rw /sys/fs/cgroup' 'umount /sys/fs/cgroup' \
    'mount -t cgroup2 cgroup2 /mnt' 'mount -t bpf bpf /mnt' 'nsenter -t 1 -C true'; do
    $way 2>/dev/null && echo open $way
done
find /sys/fs/bpf -mindepth 1
sed 's/.*:/own cgroup /' /proc/self/cgroup
echo tried
read -r _
";

/// Looked at from outside, while the command waits.
pub(super) fn stays_inside(scenario: &Scenario) -> Result<String> {
    let mut command = scenario.exec(Some(scenario.job()), &["--policy", "closed"], ["sh", "-c", WAYS_OUT]);
    command.stdin(Stdio::piped());
    let mut wrapper = scenario.cgroup.spawn(command)?;
    let mut said = Vec::new();
    for line in BufReader::new(wrapper.stdout.take().context("no standard output")?).lines() {
        said.push(line?);
        if said.last().is_some_and(|line| line == "tried") {
            break;
        }
    }
    let inside = members(&cgroup_of(scenario, &wrapper));
    wrapper.stdin.take().context("no standard input")?.write_all(b"\n").ok();
    Finished::new(&wrapper.wait_with_output()?)?.expect_code(0)?;
    expect("what it found", &said, &vec!["own cgroup /".to_owned(), "tried".to_owned()])?;
    expect("processes in the cgroup, init and the shell", &inside.len(), &2)?;
    Ok("no way to another cgroup".to_owned())
}

/// SIGKILL of the wrapper: nobody is left but the janitor.
pub(super) fn janitor(scenario: &Scenario) -> Result<String> {
    let script = "setsid sleep 1000 & echo ready; exec sleep 1000";
    let command = scenario.exec(Some(scenario.job()), &["--policy", "closed"], ["sh", "-c", script]);
    let mut wrapper = scenario.cgroup.spawn(command)?;
    let mut ready = String::new();
    BufReader::new(wrapper.stdout.take().context("no standard output")?).read_line(&mut ready)?;
    let cgroup = cgroup_of(scenario, &wrapper);
    let before = members(&cgroup);
    wrapper.kill()?;
    let status = wrapper.wait()?;
    if status.signal() != Some(9) || before.len() < 3 {
        bail!("{status}, with {} processes in the cgroup: {ready}", before.len());
    }
    until("the cgroup goes", DEADLINE, || (!cgroup.exists()).then_some(()))?;
    let gone = || before.iter().all(|pid| !Path::new("/proc").join(pid).exists());
    until("its processes go", DEADLINE, || gone().then_some(()))?;
    Ok(format!("{} processes and the cgroup gone after SIGKILL", before.len()))
}

fn cgroup_of(scenario: &Scenario, wrapper: &Child) -> PathBuf {
    scenario.cgroup.path().join(format!("egress-warden-exec.{}", wrapper.id()))
}

fn members(cgroup: &Path) -> Vec<String> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
