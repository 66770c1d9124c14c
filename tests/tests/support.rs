//! The support library itself, on the real kernel: what it says it saw was there, and what it made goes away.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use egress_warden_tests::probe::Attempt;
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Capture, Direction, Namespace, TestCgroup, World, cgroup2_mount};

/// How long an attempt may take that nobody answers.
const SHORT: Duration = Duration::from_millis(200);

/// `sleep`, for longer than any test runs: it ends because it is killed.
fn endless(mut sleep: Command) -> Command {
    sleep.arg("1000");
    sleep
}

#[test]
fn hosts_reach_each_other_and_frames_are_counted() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let capture = Capture::start(outside, "eth0")?;
    for place in [outside.at(80), outside.at_v6(80)] {
        let server = Server::tcp_greeter(outside, place, b"hello")?;
        let outcome = job.enter(|| Attempt::Tcp.make(place, DEADLINE));
        assert!(outcome.is_ok() && outcome.received == 5, "{place}: {outcome:?}");
        assert_eq!(server.served(), 1);
        let syn = capture.wait_for(|frame| frame.is_to(place) && frame.tcp_flags == Some(2), DEADLINE)?;
        assert_eq!(syn.direction, Direction::In);
        capture.settle(job, outside.at(9))?;
        assert_eq!(capture.count(|frame| frame.is_to(place) && frame.tcp_flags == Some(2)), 1);
    }
    for place in [outside.at(53), outside.at_v6(53)] {
        let server = Server::udp_echo(outside, place)?;
        for attempt in [Attempt::Udp, Attempt::UdpConnected] {
            let outcome = job.enter(|| attempt.make(place, DEADLINE));
            assert!(outcome.is_ok() && outcome.received == 5, "{attempt:?} {place}: {outcome:?}");
        }
        assert_eq!(server.served(), 2);
        capture.settle(job, outside.at_v6(9))?;
        assert_eq!(capture.count(|frame| frame.is_udp() && frame.is_to(place)), 2);
    }
    Ok(())
}

#[test]
fn after_settling_every_frame_sent_before_has_been_seen() -> Result<()> {
    const DATAGRAMS: usize = 5_000;
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let capture = Capture::start(outside, "eth0")?;
    let place = outside.at(4000);
    job.enter(|| -> Result<()> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        for _ in 0..DATAGRAMS {
            socket.send_to(b"x", place)?;
        }
        Ok(())
    })?;
    capture.settle(job, place)?;
    assert_eq!(capture.count(|frame| frame.is_to(place)), DATAGRAMS);
    Ok(())
}

#[test]
fn settling_fails_where_nothing_arrives() -> Result<()> {
    let world = World::new(&["job", "outside", "other"])?;
    let capture = Capture::start(world.host("other"), "eth0")?;
    let missing = capture.wait_for(|frame| frame.is_to(world.host("outside").at(9)), SHORT);
    assert!(missing.is_err());
    assert!(Capture::start(world.host("job"), "eth9").is_err());
    Ok(())
}

#[test]
fn nothing_listens_and_nothing_answers_are_told_apart() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let refused = job.enter(|| Attempt::Tcp.make(outside.at(81), DEADLINE));
    assert_eq!(refused.errno, libc::ECONNREFUSED);
    outside.run(["ip", "addr", "flush", "dev", "eth0"])?;
    let silent = job.enter(|| Attempt::Tcp.make(outside.at(81), SHORT));
    assert!(!silent.is_ok() && silent.elapsed >= SHORT, "{silent:?}");
    Ok(())
}

#[test]
fn the_machines_own_network_is_out_of_reach_and_unchanged() -> Result<()> {
    let interfaces = || fs::read_to_string("/proc/net/dev").map(|text| text.lines().count());
    let before = interfaces()?;
    let world = World::new(&["job"])?;
    assert_eq!(interfaces()?, before);
    let inside = world.host("job").enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
    assert!(inside.contains("eth0:") && inside.lines().count() == 4, "{inside}");
    Ok(())
}

/// The numbers of all network namespaces that some process on this machine is in or holds.
fn namespaces_in_use() -> Vec<u64> {
    let list = Command::new("lsns").args(["--type", "net", "--noheadings", "--output", "NS"]).output();
    let text = list.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

#[test]
fn a_namespace_is_gone_after_its_last_holder() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let id = world.host("job").id()?;
    let router = world.router().clone();
    // The wire's other end shows when the kernel has taken the namespace apart.
    let wires = || {
        let output = router.run(["ip", "-oneline", "link"]).expect("the router is still held");
        String::from_utf8_lossy(&output.stdout).lines().count()
    };
    assert_eq!(wires(), 3);
    drop(world);
    until("the wires of a dropped world go away", DEADLINE, || (wires() == 1).then_some(()))?;
    assert!(!namespaces_in_use().contains(&id));
    Ok(())
}

#[test]
fn a_panic_leaves_nothing_behind() -> Result<()> {
    let router = Namespace::new()?;
    let (mut path, mut child) = (None, None);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let world = World::new(&["job"]).expect("root");
        let cgroup = TestCgroup::new().expect("cgroup2");
        child = cgroup.spawn(endless(world.host("job").command("sleep"))).ok();
        path = Some(cgroup.path().to_owned());
        panic!("a test fails");
    }));
    assert!(caught.is_err());
    assert!(path.is_some_and(|path| !path.exists()));
    assert!(!child.expect("sleep starts").wait()?.success());
    let caught = catch_unwind(AssertUnwindSafe(|| router.enter(|| panic!("inside"))));
    assert!(caught.is_err(), "a panic inside a namespace has to pass on");
    Ok(())
}

#[test]
fn a_command_is_in_its_cgroup_and_namespace_from_the_start() -> Result<()> {
    let namespace = Namespace::new()?;
    let cgroup = TestCgroup::new()?;
    let mut command = namespace.command("cat");
    command.arg("/proc/self/cgroup").stdout(Stdio::piped());
    let output = cgroup.spawn(command)?.wait_with_output()?;
    let name = cgroup.path().file_name().expect("it has a name").to_string_lossy().into_owned();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.lines().any(|line| line == format!("0::/{name}")), "{text}");
    let link = namespace.run(["readlink", "/proc/self/ns/net"])?;
    assert_eq!(String::from_utf8_lossy(&link.stdout).trim(), format!("net:[{}]", namespace.id()?));
    Ok(())
}

#[test]
fn a_cgroup_goes_with_what_runs_in_it_and_below_it() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let path = cgroup.path().to_owned();
    fs::create_dir_all(path.join("a/b"))?;
    let mut child = cgroup.spawn(endless(Command::new("sleep")))?;
    assert_eq!(cgroup.processes()?, [child.id()]);
    fs::write(path.join("a/b/cgroup.procs"), child.id().to_string())?;
    drop(cgroup);
    assert!(!path.exists());
    assert!(!child.wait()?.success());
    Ok(())
}

/// Set in the process that the next test starts and kills.
const VICTIM: &str = "EGRESS_WARDEN_TEST_VICTIM";

#[test]
fn a_killed_test_leaves_no_cgroup() -> Result<()> {
    if env::var_os(VICTIM).is_some() {
        let cgroup = TestCgroup::new()?;
        cgroup.spawn(endless(Command::new("sleep")))?.wait()?;
        bail!("{} outlived its cgroup", cgroup.path().display());
    }
    let mut victim = Command::new(env::current_exe()?)
        .args(["--exact", "a_killed_test_leaves_no_cgroup", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::null())
        .spawn()?;
    let path = cgroup2_mount()?.join(format!("egress-warden-test-{}-0", victim.id()));
    let occupied =
        || fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|processes| !processes.is_empty());
    until("the victim's cgroup is in use", DEADLINE, || occupied().then_some(()))?;
    victim.kill()?;
    victim.wait()?;
    until("the cgroup of a killed test goes away", DEADLINE, || (!path.exists()).then_some(()))
}

#[test]
fn an_attempt_is_made_from_inside_a_cgroup() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let cgroup = TestCgroup::new()?;
    let server = Server::tcp_greeter(outside, outside.at(80), b"hello")?;
    let outcome = Attempt::Tcp.make_inside(job, &cgroup, outside.at(80), DEADLINE)?;
    assert!(outcome.is_ok() && outcome.received == 5 && server.served() == 1, "{outcome:?}");
    assert_eq!(Attempt::Tcp.make_inside(job, &cgroup, outside.at(81), DEADLINE)?.errno, libc::ECONNREFUSED);
    Ok(())
}
