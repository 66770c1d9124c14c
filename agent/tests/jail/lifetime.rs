//! How it begins, ends and passes signals on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::{UNDER, cgroup_of, eventually, exec, own_cgroup, processes_with, sh, stderr, stdout};

#[test]
fn the_exit_code_is_the_commands() {
    for code in [0, 1, 7, 125, 255] {
        assert_eq!(sh(&format!("exit {code}")).status.code(), Some(code));
    }
}

#[test]
fn a_signal_is_128_and_its_number() {
    for (name, number) in [("TERM", 15), ("KILL", 9), ("SEGV", 11)] {
        assert_eq!(sh(&format!("kill -{name} $$")).status.code(), Some(128 + number));
    }
}

#[test]
fn standard_output_is_the_commands_alone() {
    let output = sh("printf '%s' only");
    assert_eq!(stdout(&output), "only");
    assert!(
        stderr(&output).starts_with("egress-warden: policy training (enforce), "),
        "the summary goes elsewhere"
    );
    let first = stderr(&output).lines().next().unwrap_or_default().to_owned();
    let seconds = first.rsplit_once(", ").and_then(|(_, time)| time.strip_suffix(" s")).unwrap_or_default();
    assert!(seconds.split_once('.').is_some_and(|(_, decimals)| decimals.len() == 2), "{first}");
}

#[test]
fn the_pipe_ends_when_the_command_closes_it() {
    let mut wrapper = exec(&["--", "sh", "-c", "exec >&-; exec sleep 1001.1"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let mut line = String::new();
    let read = BufReader::new(wrapper.stdout.take().expect("a pipe")).read_line(&mut line).expect("read");
    assert_eq!(read, 0);
    assert!(wrapper.try_wait().expect("wait").is_none(), "still running");
    kill(Pid::from_raw(wrapper.id().cast_signed()), Signal::SIGTERM).expect("signal");
    assert_eq!(wrapper.wait().expect("wait").code(), Some(128 + 15));
}

#[test]
fn the_environment_directory_and_umask_are_the_callers() {
    let output = exec(&["--", "sh", "-c", "umask; pwd; echo $MARK; echo $0", "zero"])
        .env("MARK", "set")
        .current_dir("/usr/bin")
        .output()
        .expect("start");
    let without = std::process::Command::new("sh").args(["-c", "umask"]).output().expect("start");
    assert_eq!(stdout(&output), format!("{}/usr/bin\nset\nzero\n", stdout(&without)));
}

#[test]
fn signals_start_as_the_caller_left_them() {
    let script =
        format!("trap '' HUP; exec \"$0\" exec {UNDER} -- grep -E '^Sig(Blk|Ign)' /proc/self/status");
    let output = std::process::Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_egress-warden")])
        .output()
        .expect("start");
    let masks: Vec<u64> = stdout(&output)
        .lines()
        .map(|line| {
            u64::from_str_radix(line.split_whitespace().nth(1).expect("a mask"), 16).expect("hexadecimal")
        })
        .collect();
    // SIGPIPE is the Rust runtime's, 32 and 33 are the C library's own.
    let comparable = ((1 << 31) - 1) & !(1 << (13 - 1));
    let status = fs::read_to_string("/proc/self/status").expect("own status");
    let own = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).expect("own mask");
    let expected = u64::from_str_radix(own, 16).expect("hexadecimal") | 1;
    assert_eq!((masks[0], masks[1] & comparable), (0, expected & comparable), "{}", stdout(&output));
}

#[test]
fn the_cgroup_is_gone_afterwards_with_everything_in_it() {
    let script =
        "setsid sleep 1002.2 & (setsid sh -c 'sleep 1002.2 & sleep 1002.2' &); mount | grep -c ' cgroup2 '";
    let mut wrapper = exec(&["--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().expect("start");
    let cgroup = cgroup_of(&wrapper);
    assert_eq!(wrapper.wait().expect("wait").code(), Some(0));
    assert!(!cgroup.exists());
    assert_eq!(processes_with("sleep 1002.2"), Vec::<i32>::new());
}

#[test]
fn a_cgroup_made_below_it_is_removed_as_well() {
    let mut wrapper = exec(&["--", "cat"]).stdin(Stdio::piped()).spawn().expect("start");
    let cgroup = cgroup_of(&wrapper);
    eventually("the command runs", || {
        fs::read_to_string(cgroup.join("cgroup.procs")).is_ok_and(|text| text.lines().count() == 2)
    });
    fs::create_dir_all(cgroup.join("a/b")).expect("create");
    drop(wrapper.stdin.take());
    assert_eq!(wrapper.wait().expect("wait").code(), Some(0));
    assert!(!cgroup.exists());
}

#[test]
fn orphans_are_reaped() {
    // Double forks, then a look at whether any of them stays as a zombie of process 1.
    let output = sh("for i in 1 2 3 4 5; do (sh -c 'exit 0' & ) ; done
        for try in 1 2 3 4 5 6 7 8 9 10; do
            grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null || exit 0
            sleep 0.1
        done; exit 1");
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
}

#[test]
fn killing_the_wrapper_ends_everything() {
    let script = "setsid sleep 1003.3 & echo ready; exec sleep 1003.3";
    let mut wrapper = exec(&["--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().expect("start");
    let mut line = String::new();
    BufReader::new(wrapper.stdout.take().expect("a pipe")).read_line(&mut line).expect("read");
    let cgroup = cgroup_of(&wrapper);
    assert!(fs::read_to_string(cgroup.join("cgroup.procs")).expect("the cgroup").lines().count() >= 3);
    wrapper.kill().expect("kill");
    assert_eq!(wrapper.wait().expect("wait").signal(), Some(9));
    eventually("the cgroup is removed", || !cgroup.exists());
    assert_eq!(processes_with("sleep 1003.3"), Vec::<i32>::new());
}

#[test]
fn signals_reach_the_command() {
    for (signal, number) in
        [(Signal::SIGTERM, 15), (Signal::SIGHUP, 1), (Signal::SIGUSR1, 10), (Signal::SIGINT, 2)]
    {
        let script =
            format!("trap 'echo got; exit {number}' {number}; echo ready; while :; do sleep 0.05; done");
        let mut wrapper = exec(&["--", "sh", "-c", &script]).stdout(Stdio::piped()).spawn().expect("start");
        let mut lines = BufReader::new(wrapper.stdout.take().expect("a pipe")).lines();
        assert_eq!(lines.next().expect("a line").expect("text"), "ready");
        kill(Pid::from_raw(wrapper.id().cast_signed()), signal).expect("signal");
        assert_eq!(lines.next().expect("a line").expect("text"), "got");
        assert_eq!(wrapper.wait().expect("wait").code(), Some(number));
    }
}

#[test]
fn a_signal_at_any_moment_ends_it_cleanly() {
    // The wrapper may not have begun to listen: then the signal ends it, and the janitor cleans up.
    for delay in 0..20 {
        let mut wrapper = exec(&["--", "sleep", "1004.4"]).spawn().expect("start");
        let cgroup = cgroup_of(&wrapper);
        // Nothing is waited for here; the moment is what is tested.
        std::thread::sleep(std::time::Duration::from_micros(delay * 500));
        kill(Pid::from_raw(wrapper.id().cast_signed()), Signal::SIGTERM).expect("signal");
        let status = wrapper.wait().expect("wait");
        assert!(status.code() == Some(128 + 15) || status.signal() == Some(15), "{status}");
        eventually("the cgroup is removed", || !cgroup.exists());
    }
    assert_eq!(processes_with("sleep 1004.4"), Vec::<i32>::new());
}

/// A program that mounts its own cgroup in namespaces of its own, where it may write, and goes on from there.
fn with_a_cgroup_mount(rest: &str) -> String {
    format!(
        "import ctypes, os\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        assert libc.unshare(0x10000000 | 0x00020000 | 0x02000000) == 0\n\
        assert libc.mount(b'none', b'/mnt', b'cgroup2', 0, None) == 0\n\
        os.chdir('/mnt')\n{rest}"
    )
}

#[test]
fn cgroups_deeper_than_any_path_are_removed() {
    let script = with_a_cgroup_mount(
        "for level in range(3000):\n    os.mkdir('level')\n    os.chdir('level')\nprint(level, flush=True)",
    );
    let wrapper =
        exec(&["--", "python3", "-c", &script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let wrapper = wrapper.expect("start");
    let cgroup = cgroup_of(&wrapper);
    let output = wrapper.wait_with_output().expect("wait");
    assert_eq!((stdout(&output).as_str(), output.status.code()), ("2999\n", Some(0)), "{}", stderr(&output));
    assert!(!cgroup.exists());
}

#[test]
fn a_command_that_freezes_itself_hears_that_it_is_to_end() {
    // Not the cgroup that was made for it, but one below it.
    let script = with_a_cgroup_mount(
        "os.mkdir('a')\nos.mkdir('a/b')\nopen('a/b/cgroup.procs', 'w').write('0')\n\
        print('ready', flush=True)\nopen('a/b/cgroup.freeze', 'w').write('1')\n\
        while True: pass",
    );
    let mut wrapper = exec(&["--", "python3", "-c", &script]).stdout(Stdio::piped()).spawn().expect("start");
    let cgroup = cgroup_of(&wrapper);
    let mut line = String::new();
    BufReader::new(wrapper.stdout.take().expect("a pipe")).read_line(&mut line).expect("read");
    eventually("it is frozen", || {
        fs::read_to_string(cgroup.join("a/b/cgroup.events")).is_ok_and(|text| text.contains("frozen 1"))
    });
    kill(Pid::from_raw(wrapper.id().cast_signed()), Signal::SIGTERM).expect("signal");
    eventually("it ends", || wrapper.try_wait().expect("wait").is_some());
    assert_eq!(wrapper.wait().expect("wait").code(), Some(128 + 15));
    assert!(!cgroup.exists());
}

#[test]
fn a_cgroup_of_this_name_is_somebody_elses() {
    // A shell knows the process id that the wrapper will have, and leaves a job in a cgroup of that name.
    let script = format!(
        "cgroup={}/egress-warden-exec.$$; mkdir $cgroup; sleep 1005.5 & echo $! >$cgroup/cgroup.procs; \
         exec \"$0\" exec {UNDER} -- cat",
        own_cgroup().display()
    );
    let mut wrapper = std::process::Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_egress-warden")])
        .stdin(Stdio::piped())
        .spawn()
        .expect("start");
    let taken = cgroup_of(&wrapper);
    let cgroup = taken.with_extension(format!("{}.1", wrapper.id()));
    let entered = || fs::read_to_string(cgroup.join("cgroup.procs")).is_ok_and(|text| !text.is_empty());
    eventually("it runs under another name", || entered() || wrapper.try_wait().expect("wait").is_some());
    drop(wrapper.stdin.take());
    let code = wrapper.wait().expect("wait").code();
    let sleepers = processes_with("sleep 1005.5");
    for sleeper in &sleepers {
        kill(Pid::from_raw(*sleeper), Signal::SIGKILL).expect("the job of this test");
    }
    eventually("the job's cgroup can be removed", || fs::remove_dir(&taken).is_ok() || !taken.exists());
    assert_eq!((code, sleepers.len()), (Some(0), 1));
    assert!(!cgroup.exists());
}

#[test]
fn the_janitor_touches_no_cgroup_but_its_own() {
    let own = own_cgroup();
    let name = |suffix: &str| own.join(format!("egress-warden-{suffix}.janitor-{}", std::process::id()));
    let (other, same) = (name("test"), name("exec"));
    for (path, code) in [(&other, 125), (&same, 0)] {
        fs::create_dir(path).expect("create");
        let status = std::process::Command::new(env!("CARGO_BIN_EXE_egress-warden"))
            .arg("__exec-janitor")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let stayed = fs::remove_dir(path).is_ok();
        assert_eq!((status.expect("start").code(), stayed), (Some(code), true), "{}", path.display());
    }
    assert!(!same.with_extension(format!("janitor-{}.1", std::process::id())).exists());
}

#[test]
fn a_kill_at_any_moment_leaves_no_cgroup() {
    let mut cgroups = Vec::new();
    for run in 0..120 {
        let mut wrapper = exec(&["--", "sleep", "1006.6"]).stderr(Stdio::null()).spawn().expect("start");
        cgroups.push(cgroup_of(&wrapper));
        // Nothing is waited for here; the moment is what is tested: 0 to 60 ms.
        std::thread::sleep(std::time::Duration::from_micros(run * 500));
        wrapper.kill().expect("kill");
        wrapper.wait().expect("wait");
    }
    eventually("every cgroup is removed", || !cgroups.iter().any(|cgroup| cgroup.exists()));
    // A janitor that started late might still make one.
    eventually("every janitor has ended", || {
        let started = |cgroup: &std::path::PathBuf| {
            processes_with(&format!("egress-warden __exec-janitor {}", cgroup.display())).is_empty()
        };
        cgroups.iter().all(started)
    });
    assert!(!cgroups.iter().any(|cgroup| cgroup.exists()));
    eventually("every command has ended", || processes_with("sleep 1006.6").is_empty());
}
