//! Machines that are set up in other ways, imitated in a mount namespace of the test's own.

use std::process::{Command, Output, Stdio};

use super::support::{UNDER, cgroup_root, own_cgroup, stderr, stdout};

/// Changes the mounts, then runs exec among them.
fn exec_after(setup: &str, script: &str) -> Output {
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!("set -e; {setup}; exec \"$0\" exec {UNDER} -- sh -c \"$1\""))
        .args([env!("CARGO_BIN_EXE_egress-warden"), script])
        .stdin(Stdio::null())
        .output()
        .expect("start")
}

fn assert_refused(setup: &str, needle: &str) {
    let output = exec_after(setup, "true");
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(stderr(&output).contains(needle), "{}", stderr(&output));
}

#[test]
fn a_unified_hierarchy() {
    let setup = "umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup";
    let output =
        exec_after(setup, "grep -c ' - cgroup2 ' /proc/self/mountinfo; wc -l </sys/fs/cgroup/cgroup.procs");
    // Init, the shell and wc.
    assert_eq!(stdout(&output), "1\n3\n", "{}", stderr(&output));
}

#[test]
fn the_tree_mounted_twice_and_under_a_name_with_a_space() {
    let setup = "mount -t tmpfs none /mnt; mkdir '/mnt/a b' /mnt/c; mount -t cgroup2 none '/mnt/a b'; \
        mount --bind '/mnt/a b' /mnt/c; mount -t bpf none /media";
    let output =
        exec_after(setup, "ls -A '/mnt/a b' /mnt/c /media; grep -c ' - cgroup2 ' /proc/self/mountinfo");
    assert_eq!(stdout(&output), "/media:\n\n/mnt/a b:\n\n/mnt/c:\n1\n", "{}", stderr(&output));
}

#[test]
fn a_tree_that_comes_to_light_when_its_cover_goes() {
    let setup = "mount -t cgroup2 none /mnt; mount -t proc none /mnt";
    let output = exec_after(setup, "cut -d' ' -f5 /proc/self/mountinfo | grep -cx /mnt");
    assert_eq!(stdout(&output), "0\n", "{}", stderr(&output));
}

#[test]
fn the_agents_socket_and_those_of_daemons_are_covered() {
    let setup = "mount -t tmpfs none /run; mkdir /run/egress-warden; : > /run/egress-warden/control.sock; \
        for socket in dbus/system_bus_socket nscd/socket user/1000/bus \
            systemd/resolve/io.systemd.Resolve systemd/resolve/io.systemd.Resolve.Monitor; do \
            mkdir -p /run/${socket%/*}; : > /run/$socket; done";
    let output = exec_after(
        setup,
        "ls -A /run/egress-warden; cd /run; for socket in dbus/* nscd/* user/1000/* systemd/resolve/*; do \
         test -c $socket && echo covered; done",
    );
    assert_eq!(stdout(&output), "covered\n".repeat(5), "{}", stderr(&output));
}

#[test]
fn no_cgroup2() {
    let root = cgroup_root();
    let unmount = format!("umount -l {}", root.display());
    let all = "umount -l /sys/fs/cgroup";
    assert_refused(all, "no cgroup2 is mounted; mount it: ");
    // Only a hybrid machine has the old ones left when cgroup2 is gone.
    if root.ends_with("unified") {
        assert_refused(&unmount, "only cgroup v1");
    }
}

#[test]
fn a_read_only_cgroup2() {
    assert_refused(&format!("mount -o remount,bind,ro {}", cgroup_root().display()), "is read-only");
}

#[test]
fn a_threaded_cgroup() {
    let parent = own_cgroup().join(format!("egress-warden-test.{}", std::process::id()));
    let threaded = parent.join("threaded");
    std::fs::create_dir_all(&threaded).expect("create");
    std::fs::write(threaded.join("cgroup.type"), "threaded").expect("make threaded");
    // A process can only be in the domain above; a cgroup below that one is no valid domain.
    let join = format!("echo $$ > {}/cgroup.procs", parent.display());
    let output = exec_after(&join, "true");
    std::fs::remove_dir(&threaded).expect("remove");
    std::fs::remove_dir(&parent).expect("remove");
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(stderr(&output).contains("threaded cgroup subtree"), "{}", stderr(&output));
}
