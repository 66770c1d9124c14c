//! What exec does not do, with exit code 125 and one line that says why.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use super::support::{UNDER_ARGUMENTS, exec, own_cgroup, stderr, stdout};

fn assert_refused(output: &Output, needle: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(125), "{text}");
    assert!(text.contains(needle), "no `{needle}` in: {text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert_eq!(stdout(output), "");
}

fn refused(arguments: &[&str], needle: &str) {
    assert_refused(&exec(arguments).output().expect("start"), needle);
}

#[test]
fn a_command_that_cannot_be_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = directory.path().join("script");
    fs::write(&script, "#!/does/not/exist\n").expect("write");
    let path = script.to_str().expect("text");
    refused(&["--", "no-such-command-here"], "no-such-command-here: command not found in PATH");
    refused(&["--", "/no/such/file"], "no such file");
    refused(&["--", path], "permission denied");
    refused(&["--", "/usr"], "it is a directory");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    refused(&["--", path], "interpreter");
}

#[test]
fn capabilities_that_open_the_jail() {
    refused(&["--keep-caps", "CHOWN,sys_admin", "--", "true"], "SYS_ADMIN cannot be kept");
    refused(&["--keep-caps", "NET_RAWW", "--", "true"], "unknown capability `NET_RAWW`");
}

#[test]
fn kept_capabilities_and_no_other() {
    let show = ["--", "grep", "-h", "-E", "^Cap(Prm|Eff|Bnd)", "/proc/self/status"];
    for (list, mask) in [(None, 0x4eb), (Some("none"), 0), (Some("net_raw,CAP_NET_ADMIN"), 0x3000)] {
        let mut arguments: Vec<&str> = list.map_or(Vec::new(), |list| vec!["--keep-caps", list]);
        arguments.extend(show);
        let output = exec(&arguments).output().expect("start");
        let masks: Vec<u64> = stdout(&output)
            .lines()
            .map(|line| u64::from_str_radix(line.split_whitespace().nth(1).expect("mask"), 16).expect("hex"))
            .collect();
        assert_eq!(masks, [mask; 3], "{list:?}: {}", stderr(&output));
    }
}

#[test]
fn a_network_socket_as_standard_input() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("bind");
    let output = exec(&["--", "true"]).stdin(OwnedFd::from(socket)).output().expect("start");
    assert_refused(&output, "standard input is a network socket");
}

#[test]
fn a_directory_as_standard_input() {
    let directory = File::open("/usr").expect("open");
    assert_refused(&exec(&["--", "true"]).stdin(directory).output().expect("start"), "is a directory");
}

#[test]
fn a_control_file_as_standard_input() {
    let file = File::open(own_cgroup().join("cgroup.procs")).expect("open");
    assert_refused(&exec(&["--", "true"]).stdin(file).output().expect("start"), "control file of a cgroup");
}

#[test]
fn a_current_directory_in_the_cgroup_tree() {
    let own = own_cgroup();
    let output = exec(&["--", "true"]).current_dir(own.join(".")).output().expect("start");
    // On a unified hierarchy the same path exists in the jail, but is another directory: the own cgroup's.
    if own.starts_with("/sys/fs/cgroup/unified") {
        assert_refused(&output, "does not exist in the jail");
    }
}

#[test]
fn another_user_than_root() {
    // Its own directory may be closed to that user.
    let directory = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in("/tmp")
        .expect("a directory");
    let copy = directory.path().join("egress-warden");
    fs::copy(env!("CARGO_BIN_EXE_egress-warden"), &copy).expect("copy");
    let output = Command::new(&copy)
        .arg("exec")
        .args(UNDER_ARGUMENTS)
        .args(["--", "true"])
        .uid(65534)
        .gid(65534)
        .output()
        .expect("start");
    assert_refused(&output, "needs root");
}
