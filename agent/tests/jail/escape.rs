//! Ways out of the cgroup for a uid 0 inside, each tried by what it would do if it were open: the process is in another
//! cgroup, or sees what is outside.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Output, Stdio};

use super::support::{UNDER, cgroup_of, exec, own_cgroup, python, sh, stderr, stdout};

/// Runs a script that tries to leave, lets it wait, and looks from outside at whether all its processes are still in.
fn stays_inside(processes: usize, script: &str) {
    let script = format!("{script}\nprint('tried', flush=True)\ninput()");
    let mut wrapper = exec(&["--", "python3", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    let mut lines = BufReader::new(wrapper.stdout.take().expect("a pipe")).lines();
    let tried = lines.find(|line| line.as_ref().is_ok_and(|line| line == "tried"));
    let inside = inhabitants(&cgroup_of(&wrapper));
    wrapper.stdin.take().expect("a pipe").write_all(b"\n").expect("write");
    let output = wrapper.wait_with_output().expect("wait");
    assert!(tried.is_some(), "the script did not get that far: {}", stderr(&output));
    assert_eq!(inside, 1 + processes, "init and the script's processes: {}", stderr(&output));
}

/// Processes in a cgroup and below.
fn inhabitants(cgroup: &std::path::Path) -> usize {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).map_or(0, |text| text.lines().count());
    let entries = fs::read_dir(cgroup).expect("the cgroup").flatten();
    own + entries.filter(|entry| entry.path().is_dir()).map(|entry| inhabitants(&entry.path())).sum::<usize>()
}

fn assert_output(output: &Output, expected: &str) {
    assert_eq!(stdout(output), expected, "{}", stderr(output));
}

#[test]
fn writing_to_every_visible_cgroup() {
    stays_inside(
        1,
        r"
import os
for root, dirs, files in os.walk('/', onerror=None):
    dirs[:] = [d for d in dirs if not os.path.join(root, d).startswith(('/proc/', '/usr', '/dev'))]
    for name in ('cgroup.procs', 'tasks'):
        if name in files:
            try:
                open(os.path.join(root, name), 'w').write('0')
            except OSError:
                pass
",
    );
}

#[test]
fn the_cgroup_tree_in_view_is_the_own_one_and_read_only() {
    let output = python(
        r"
import os
print(open('/proc/self/cgroup').read().splitlines()[-1])
print([line.split()[4] for line in open('/proc/self/mountinfo') if ' - cgroup' in line])
for action in (lambda: os.mkdir('/sys/fs/cgroup/x'), lambda: open('/sys/fs/cgroup/cgroup.procs', 'w')):
    try:
        action()
        print('open')
    except OSError as error:
        print(error.errno)
",
    );
    assert_output(&output, "0::/\n['/sys/fs/cgroup']\n30\n30\n");
}

#[test]
fn mounting_unmounting_and_remounting() {
    let output = sh(
        "for try in 'mount -o remount,rw /sys/fs/cgroup' 'umount /sys/fs/cgroup' 'umount -l /proc' \
         'mount -o remount,bind,rw /proc/sys' 'mount -t cgroup2 none /mnt' 'mount -t bpf none /mnt' \
         'nsenter -t 1 -m true' 'nsenter -t 1 -C true'; do $try 2>/dev/null && echo open: $try; done; echo tried",
    );
    assert_output(&output, "tried\n");
}

#[test]
fn clone_into_the_directory_in_view() {
    // The descriptor is of the own cgroup, so it leads nowhere else; its parent is out of reach.
    stays_inside(
        1,
        r"
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
for path in ('/sys/fs/cgroup', '/sys/fs/cgroup/..', '/sys/fs/cgroup/../../..'):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    # CLONE_INTO_CGROUP, SIGCHLD at exit_signal, the descriptor last.
    arguments = struct.pack('<11Q', 0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, fd)
    pid = libc.syscall(435, ctypes.create_string_buffer(arguments, 88), 88)
    if pid == 0:
        membership = open('/proc/self/cgroup').read()
        os._exit(0 if '0::/\n' in membership and '/..' not in membership else 1)
    if pid > 0:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    else:
        assert path != '/sys/fs/cgroup', ctypes.get_errno()
",
    );
}

#[test]
fn processes_outside_are_not_in_view() {
    let output = python(
        r"
import os
pids = sorted(int(name) for name in os.listdir('/proc') if name.isdigit())
print(pids)
for path in ('/proc/1/root', '/proc/1/cwd', '/proc/1/fd/0', '/proc/1/exe'):
    try:
        print(os.stat(path))
    except OSError as error:
        print(error.errno)
",
    );
    assert_output(&output, "[1, 2]\n13\n13\n13\n13\n");
}

#[test]
fn opening_by_handle() {
    let output = python(
        r"
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
handle = ctypes.create_string_buffer(b'\x80\0\0\0' + b'\0' * 140)
mount = ctypes.c_int()
assert libc.name_to_handle_at(-100, b'/sys/fs/cgroup', handle, ctypes.byref(mount), 0) == 0
fd = os.open('/sys/fs/cgroup', os.O_RDONLY)
print(libc.open_by_handle_at(fd, handle, 0), ctypes.get_errno())
",
    );
    assert_output(&output, "-1 1\n");
}

#[test]
fn nested_namespaces() {
    stays_inside(
        2,
        r"
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
reader, writer = os.pipe()
if os.fork() == 0:
    # CLONE_NEWUSER, CLONE_NEWNS and CLONE_NEWCGROUP.
    assert libc.unshare(0x10000000 | 0x00020000 | 0x02000000) == 0
    for point in (b'/sys/fs/cgroup', b'/proc'):
        assert libc.umount2(point, 2) != 0, 'what was mounted for us is locked'
    assert libc.mount(b'none', b'/mnt', b'cgroup2', 0, None) == 0, 'a cgroup2 of its own, rooted where it is'
    for path in ('/mnt', '/mnt/..', '/sys/fs/cgroup', '/sys/fs/cgroup/..'):
        try:
            open(path + '/cgroup.procs', 'w').write('0')
        except OSError:
            pass
    os.write(writer, b'x')
    signal.pause()
os.close(writer)
assert os.read(reader, 1) == b'x', 'the child failed'
",
    );
}

#[test]
fn descriptors_of_the_caller_are_closed() {
    let script = format!("exec 7</; exec 8<\"$1\"; exec \"$0\" exec {UNDER} -- sh -c 'ls /proc/self/fd'");
    let output = std::process::Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_egress-warden")])
        .arg(own_cgroup())
        .stdin(Stdio::null())
        .output()
        .expect("start");
    assert_output(&output, "0\n1\n2\n3\n");
}

#[test]
fn files_that_make_the_kernel_run_a_program_are_read_only() {
    let output = python(
        r"
for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/sys/kernel/uevent_helper',
             '/proc/sysrq-trigger', '/sys/kernel/debug/tracing/kprobe_events', '/proc/sys/fs/binfmt_misc/register'):
    try:
        open(path, 'r+')
        print('open', path)
    except OSError as error:
        # Read-only, absent, or not permitted.
        assert error.errno in (30, 2, 13, 1), error
print('tried')
",
    );
    assert_output(&output, "tried\n");
}

#[test]
fn pinned_objects_and_the_agents_sockets_are_not_in_view() {
    let output = sh("find /sys/fs/bpf /run/egress-warden -mindepth 1 2>/dev/null; \
         grep -E ' - (bpf|tracefs|debugfs) ' /proc/self/mountinfo; echo looked");
    assert_output(&output, "looked\n");
}

#[test]
fn network_and_user_namespaces_are_the_callers_and_the_others_new() {
    let link = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace");
    let output = sh("for name in net user uts mnt pid ipc cgroup; do readlink /proc/self/ns/$name; done");
    let inside: Vec<String> = stdout(&output).lines().map(str::to_owned).collect();
    for (name, inside) in ["net", "user", "uts"].into_iter().zip(&inside[..3]) {
        assert_eq!(link(name).to_str(), Some(inside.as_str()));
    }
    for (name, inside) in ["mnt", "pid", "ipc", "cgroup"].into_iter().zip(&inside[3..]) {
        assert_ne!(link(name).to_str(), Some(inside.as_str()));
    }
}

#[test]
fn the_mounts_of_the_caller_are_as_they_were() {
    let before = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(sh("true").status.success());
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").expect("mounts"), before);
}

#[test]
fn keyrings_are_refused_and_the_callers_is_left() {
    let output = python(
        r"
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
numbers = {'x86_64': (248, 249, 250), 'aarch64': (217, 218, 219)}[platform.machine()]
for number in numbers:
    print(libc.syscall(number, b'user', b'name', b'', 0, 0), ctypes.get_errno())
print(' _ses:' in open('/proc/keys').read())
",
    );
    // A new session keyring is called `_ses`; the one that a user begins with is `_uid_ses.0`.
    assert_output(&output, "-1 1\n-1 1\n-1 1\nTrue\n");
}

#[test]
fn sockets_that_no_cgroup_program_sees() {
    let output = python(
        r"
import ctypes, socket
for family in (socket.AF_VSOCK, 38, 31, 44, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):
    try:
        socket.socket(family, socket.SOCK_DGRAM).close()
        print('open')
    except OSError as error:
        print(error.errno)
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall(425, 1, ctypes.create_string_buffer(120)), ctypes.get_errno())
",
    );
    assert_output(&output, "97\n97\n97\n97\nopen\nopen\nopen\nopen\n-1 1\n");
}
