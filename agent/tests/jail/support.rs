//! Starts the program, waits for conditions, and finds what it made.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Far more than anything here takes on a loaded machine.
const LIMIT: Duration = Duration::from_secs(20);

/// The policy under which every jail is made, as a shell reads it: the one that ships.
pub(crate) const UNDER: &str =
    concat!("--allowlists '", env!("CARGO_MANIFEST_DIR"), "/../allowlists' --policy training");

/// The same as arguments.
pub(crate) const UNDER_ARGUMENTS: [&str; 4] =
    ["--allowlists", concat!(env!("CARGO_MANIFEST_DIR"), "/../allowlists"), "--policy", "training"];

/// The program, with the signals as a login gives them: whoever started the tests may ignore some (nohup does), which
/// everything below would inherit.
pub(crate) const PROGRAM: [&str; 2] = ["--default-signal", env!("CARGO_BIN_EXE_egress-warden")];

/// `egress-warden exec ARGUMENTS…` under [`UNDER`], with nothing to read.
pub(crate) fn exec(arguments: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.args(PROGRAM);
    command.arg("exec").args(UNDER_ARGUMENTS).args(arguments).stdin(Stdio::null());
    command
}

/// Runs a shell script in the jail to its end.
pub(crate) fn sh(script: &str) -> Output {
    exec(&["--", "sh", "-c", script]).output().expect("start exec")
}

/// Runs a Python program in the jail to its end.
pub(crate) fn python(script: &str) -> Output {
    exec(&["--", "python3", "-c", script]).output().expect("start exec")
}

/// Standard output, as text.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error, as text.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits for something to become true.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The cgroup2 mount of this machine.
pub(crate) fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup2 mount");
    PathBuf::from(line.split(' ').nth(4).expect("a mount point"))
}

/// The directory of the cgroup that this test runs in.
pub(crate) fn own_cgroup() -> PathBuf {
    let own = fs::read_to_string("/proc/self/cgroup").expect("own cgroup");
    let path =
        own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a cgroup2 membership").to_owned();
    cgroup_root().join(path)
}

/// The cgroup of a running `exec`.
pub(crate) fn cgroup_of(wrapper: &Child) -> PathBuf {
    own_cgroup().join(format!("egress-warden-exec.{}", wrapper.id()))
}

/// Processes of this PID namespace with exactly this command line, which only the test uses.
pub(crate) fn processes_with(command: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.trim_end() == command
    })
    .collect()
}
