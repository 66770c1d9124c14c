//! Who is served.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use egress_warden::enforce::snapshot::WorkloadStatus;

use crate::support::{Agent, eventually, node, program, stderr, stdout, workload};

/// A cgroup of the test's own, which is removed with all below it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(name: &str) -> Self {
        let path = mount().join(format!("egress-warden-control-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("below")).expect("make a cgroup: root is needed");
        Self(path)
    }

    /// Its path from the root of the hierarchy.
    fn name(&self) -> PathBuf {
        Path::new("/").join(self.0.strip_prefix(mount()).expect("below the mount"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let below = self.0.join("below");
        eventually("the cgroup is empty", || fs::remove_dir(&below).is_ok() || !below.exists());
        eventually("the cgroup is empty", || fs::remove_dir(&self.0).is_ok());
    }
}

fn mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup2 mount");
    PathBuf::from(line.split(' ').nth(4).expect("a mount point"))
}

/// `status`, from a process of this cgroup.
fn status_from(agent: &Agent, cgroup: &Path) -> Output {
    let mut status = Command::new("sh");
    status.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(cgroup);
    let asking = agent.command(&["status"]);
    status.arg(asking.get_program()).args(asking.get_args());
    status.stdin(Stdio::null()).output().expect("start sh")
}

#[test]
fn a_peer_in_an_enforced_workload_is_refused() {
    let (enforced, other) = (Cgroup::make("a"), Cgroup::make("ab"));
    let id = fs::metadata(&enforced.0).expect("it is there").ino();
    let agent = Agent::start(node(vec![WorkloadStatus { cgroup: id, ..workload(&enforced.name()) }]));
    for inside in [enforced.0.clone(), enforced.0.join("below")] {
        let output = status_from(&agent, &inside);
        let expected = format!(
            "egress-warden: the peer runs in the workload {}, which is enforced; ask from outside of it\n",
            enforced.name().display()
        );
        assert_eq!(
            (stdout(&output), stderr(&output), output.status.code()),
            (String::new(), expected, Some(1))
        );
    }
    // Beside it, under a name that begins the same, and in the test's own cgroup.
    for outside in [other.0.clone(), other.0.join("below")] {
        let output = status_from(&agent, &outside);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert!(agent.run(&["status"]).status.success());
}

#[test]
fn a_peer_that_has_ended_is_not_placed_by_its_successor() {
    let agent = Agent::start(node(Vec::new()));
    // The connection belongs to the process that made it; a child of it asks when that is gone.
    let script = r#"
import os, socket, sys, time
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.01)
connection.sendall(b'{"version":1,"request":"status"}\n')
print(connection.makefile().readline())
"#;
    let output = Command::new("python3").args(["-c", script]).arg(agent.socket()).output().expect("python3");
    assert!(stdout(&output).contains("the peer cannot be placed"), "{}{}", stdout(&output), stderr(&output));
}

#[test]
fn only_root_is_served() {
    let agent = Agent::start(node(Vec::new()));
    // Open every other door, so that what refuses is the agent.
    fs::set_permissions(agent.directory.path(), Permissions::from_mode(0o755)).expect("chmod");
    fs::set_permissions(agent.socket(), Permissions::from_mode(0o666)).expect("chmod");
    let told = "{\"error\":\"only root is served; the peer is uid 65534\"}\n\n";
    let output = connect_as_nobody(&agent);
    assert_eq!(stdout(&output), told, "{}", stderr(&output));
}

/// Connects without root's rights, and prints what it is told.
fn connect_as_nobody(agent: &Agent) -> Output {
    // The rights are given up by the program itself: a stranger may not reach where python3 is.
    let script = r#"
import os, socket, sys
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
print(connection.makefile().readline())
"#;
    Command::new("python3").args(["-c", script]).arg(agent.socket()).output().expect("python3")
}

#[test]
fn the_socket_is_for_root_alone() {
    let agent = Agent::start(node(Vec::new()));
    let mode = fs::metadata(agent.socket()).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    fs::set_permissions(agent.directory.path(), Permissions::from_mode(0o755)).expect("chmod");
    let output = connect_as_nobody(&agent);
    assert!(stderr(&output).contains("PermissionError"), "{}", stderr(&output));
    assert!(program(&["status", "--socket"]).arg(agent.socket()).status().expect("start").success());
}
