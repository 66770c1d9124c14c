//! Quarantine: from the attempt that crosses the threshold on, nothing gets out but what is kept.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

use anyhow::{Result, ensure};
use egress_warden_tests::probe::probe_binary;
use egress_warden_tests::wait::{DEADLINE, until};

use crate::support::{Allowlists, Attempted, Scene};

const ENTRIES: &str = r#"
- cidrs: [10.77.2.2/32, "fd77:2::2/128"]
  ports: [80, 53/udp]
  why: services
"#;

/// A second Destinations, which stays open.
const KEPT: &str = r#"apiVersion: egress-warden.dev/v1
kind: Destinations
metadata: {name: kept}
spec:
  to:
    - cidrs: [10.88.1.2/32, "fd88:1::2/128"]
      ports: [80, 53/udp]
      why: where logs go
"#;

fn allowlists(violations: u32, within: &str) -> Result<Allowlists> {
    let quarantine = format!("{{violations: {violations}, within: {within}, action: isolate, keep: [kept]}}");
    let allowlists = Allowlists::new(ENTRIES, &format!("mode: enforce\nquarantine: {quarantine}"))?;
    let path = allowlists.path().join("test.yaml");
    fs::write(&path, fs::read_to_string(&path)?.replace("allow: [open]", "allow: [open, kept]"))?;
    allowlists.add_file("kept.yaml", KEPT)?;
    Ok(allowlists)
}

#[test]
fn the_threshold_closes_everything_but_what_is_kept_and_loopback() -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = allowlists(5, "60s")?;
    let program = r#"
server = socket.create_server(("127.0.0.1", 0))
def all_allowed(*ports):
    for address in ("10.77.2.2", "fd77:2::2", "10.88.1.2", "fd88:1::2"):
        attempt("tcp", address, ports[0])
        attempt("udp", address, 53)
    attempt("tcp", "127.0.0.1", server.getsockname()[1])

for _ in range(4):
    attempt("tcp", "10.88.0.9", 80)
all_allowed(80)
print("crossing")
attempt("udp", "fd88::9", 80)
all_allowed(80)
"#;
    let report = allowlists.python(scene.job(), program)?;
    scene.settle()?;
    let attempts = report.attempts();
    assert_eq!(attempts.len(), 4 + 9 + 1 + 9, "{}", report.output);
    for attempt in &attempts[4..13] {
        assert!(!attempt.is_refused(), "before the threshold: {attempt:?}");
    }
    for attempt in &attempts[14..] {
        let closed = attempt.what.contains("10.77.2.2") || attempt.what.contains("fd77:2::2");
        assert_eq!(attempt.is_refused(), closed, "after the threshold: {attempt:?}");
    }
    // One before the threshold for each; after it only for what is kept.
    for (place, datagrams) in
        [("10.77.2.2:53", 1), ("[fd77:2::2]:53", 1), ("10.88.1.2:53", 2), ("[fd88:1::2]:53", 2)]
    {
        assert_eq!(scene.arrived(17, place.parse()?), datagrams, "{place}");
    }
    let (total, reasons) = report.refused();
    assert_eq!((total, reasons["not_allowlisted"], reasons["quarantined"]), (9, 5, 4), "{}", report.summary);
    assert!(report.summary.contains("\n  quarantined after "), "{}", report.summary);
    assert!(report.summary.contains(": 5 violations within 60 s"), "{}", report.summary);
    assert!(report.summary.contains(" to [fd88::9]:80/udp"), "{}", report.summary);
    let crossing = &report.events[4];
    assert_eq!((&crossing["dst"], &crossing["reason"]), (&"fd88::9".into(), &"not_allowlisted".into()));
    assert_eq!(report.events.iter().filter(|event| event["reason"] == "quarantined").count(), 4);
    Ok(())
}

#[test]
fn violations_further_apart_than_the_window_never_cross() -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = allowlists(3, "1s")?;
    // Two at once are always fewer than three; between the pairs more than the window passes.
    let program = r#"
for _ in range(4):
    attempt("udp", "10.88.0.9", 80)
    attempt("udp", "10.88.0.9", 80)
    time.sleep(1.05)
attempt("udp", "10.77.2.2", 53)
"#;
    let report = allowlists.python(scene.job(), program)?;
    scene.settle()?;
    assert_eq!(scene.arrived(17, "10.77.2.2:53".parse()?), 1, "{report:?}");
    assert_eq!(report.refused().0, 8, "{}", report.summary);
    assert!(!report.summary.contains("quarantined"), "{}", report.summary);
    Ok(())
}

#[test]
fn the_threshold_may_be_as_large_as_the_window() -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = allowlists(256, "60s")?;
    let program = r#"
for number in range(255):
    errno_of(udp, "10.88.0.9", 80)
attempt("udp", "10.77.2.2", 53)
errno_of(udp, "10.88.0.9", 80)
attempt("udp", "10.77.2.2", 53)
"#;
    let report = allowlists.python(scene.job(), program)?;
    scene.settle()?;
    let refused: Vec<bool> = report.attempts().iter().map(Attempted::is_refused).collect();
    assert_eq!(refused, [false, true]);
    assert_eq!(scene.arrived(17, "10.77.2.2:53".parse()?), 1);
    assert!(report.summary.contains(": 256 violations within 60 s"), "{}", report.summary);
    Ok(())
}

/// Sends a signal to a process that the test started.
fn signal(name: &str, process: u32) -> Result<()> {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {process}")]).status()?;
    ensure!(status.success(), "cannot send {name}");
    Ok(())
}

fn is_stopped(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// 10,000 attempts from every processor, with nobody in user space to help.
fn nothing_leaves_after_the_threshold(refused: &str, allowed: &str) -> Result<()> {
    const ATTEMPTS: u64 = 10_000;
    const THRESHOLD: u64 = 200;
    let scene = Scene::new()?;
    let allowlists = allowlists(200, "60s")?;
    // Somebody listens: a "port unreachable" that came back would take the place of a send.
    let _listener = scene.outside().enter(|| UdpSocket::bind(allowed))?;
    let probe = probe_binary()?;
    let probe = probe.to_string_lossy();
    let mut exec =
        allowlists.start(scene.job(), &[&probe, "flood", refused, allowed, &ATTEMPTS.to_string()])?;
    let mut output = BufReader::new(exec.stdout.take().expect("a pipe")).lines();
    assert_eq!(output.next().transpose()?.as_deref(), Some("ready"));
    signal("STOP", exec.id())?;
    until("the wrapper is stopped", DEADLINE, || is_stopped(exec.id()).then_some(()))?;
    exec.stdin.take().expect("a pipe").write_all(b"go\n")?;
    let done = output.next().transpose()?.unwrap_or_default();
    assert!(is_stopped(exec.id()), "the wrapper took part");
    scene.settle()?;
    signal("CONT", exec.id())?;
    let report = allowlists.finish(exec)?;
    assert!(report.status.success(), "{}", report.summary);

    let numbers: Vec<u64> = done
        .strip_prefix("done ")
        .unwrap_or_default()
        .split(' ')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [returned, sent] = numbers[..] else { panic!("the flood said `{done}`") };
    assert_eq!(returned, ATTEMPTS);
    let allowed: SocketAddr = allowed.parse()?;
    let payloads: Vec<u64> =
        scene.payloads(allowed).iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    assert!(payloads.len() as u64 >= THRESHOLD, "only {} datagrams before the threshold", payloads.len());
    let late = payloads.iter().filter(|number| **number >= THRESHOLD).count();
    assert_eq!(late, 0, "datagrams that were sent after the attempt that crossed");
    assert_eq!(payloads.len() as u64, sent, "every datagram that the kernel took arrived");
    assert_eq!(scene.arrived(6, refused.parse()?), 0);
    // Each attempt, and each datagram that did not leave.
    assert_eq!(report.refused().0, ATTEMPTS + (2 * ATTEMPTS - sent), "{}", report.summary);
    // The bucket was empty by then, and the record of the attempt that crossed came through all the same.
    let crossing = format!(": {THRESHOLD} violations within 60 s (");
    let line = report.summary.lines().find(|line| line.contains(&crossing));
    assert!(line.is_some_and(|line| line.contains(", by egress-warden-p (pid ")), "{}", report.summary);
    println!("{ATTEMPTS} attempts: {sent} datagrams before the threshold of {THRESHOLD}, {late} after it");
    Ok(())
}

#[test]
fn nothing_leaves_after_the_threshold_with_the_wrapper_stopped() -> Result<()> {
    nothing_leaves_after_the_threshold("10.88.0.9:80", "10.77.2.2:53")?;
    nothing_leaves_after_the_threshold("[fd88::9]:80", "[fd77:2::2]:53")
}
