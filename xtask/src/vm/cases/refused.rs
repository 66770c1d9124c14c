//! What is refused: the application sees EPERM, the outside host sees nothing, and it is counted once.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use egress_warden_tests::probe::{Attempt, Outcome};
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::DEADLINE;
use nix::libc::EPERM;

use super::super::scenario::{ALLOWED, Attempted, KEPT, OTHER, Scenario, expect_line};
use super::expect;

pub(super) fn tcp(scenario: &Scenario) -> Result<String> {
    both_versions(scenario, Attempt::Tcp)
}

pub(super) fn udp(scenario: &Scenario) -> Result<String> {
    both_versions(scenario, Attempt::Udp)
}

pub(super) fn udp_connected(scenario: &Scenario) -> Result<String> {
    both_versions(scenario, Attempt::UdpConnected)
}

fn both_versions(scenario: &Scenario, attempt: Attempt) -> Result<String> {
    let outside = scenario.outside();
    for place in [outside.at(ALLOWED), outside.at_v6(ALLOWED)] {
        refused(scenario, attempt, "closed", place, "not_allowlisted")?;
    }
    Ok("EPERM, 0 frames, 1 counted; IPv4 and IPv6".to_owned())
}

/// An IPv6 socket that says ::ffff:10.77.2.2 sends IPv4.
pub(super) fn mapped(scenario: &Scenario) -> Result<String> {
    let outside = scenario.outside();
    let mapped = SocketAddr::from((outside.v4.to_ipv6_mapped(), ALLOWED));
    for attempt in [Attempt::Tcp, Attempt::Udp] {
        let capture = scenario.capture()?;
        let attempted = scenario.attempt(&["--policy", "closed"], attempt, mapped)?;
        expect_refused(&attempted, mapped, "not_allowlisted")?;
        expect("frames", &scenario.frames(&capture, outside.at(ALLOWED))?, &0)?;
    }
    Ok("EPERM for ::ffff:a.b.c.d, TCP and UDP".to_owned())
}

pub(super) fn port(scenario: &Scenario) -> Result<String> {
    for attempt in [Attempt::Tcp, Attempt::Udp] {
        refused(scenario, attempt, "open", scenario.outside().at(OTHER), "port_not_allowed")?;
    }
    Ok("EPERM for another port of an allowed host".to_owned())
}

/// The positive control first: without a policy the same attempt arrives.
fn refused(
    scenario: &Scenario,
    attempt: Attempt,
    policy: &str,
    place: SocketAddr,
    reason: &str,
) -> Result<()> {
    let server = serve(scenario, attempt, place)?;
    let control = scenario.job().enter(|| attempt.make(place, DEADLINE));
    if !control.is_ok() || server.served() != 1 {
        bail!("{place} cannot be reached even without a policy: {control}");
    }
    let capture = scenario.capture()?;
    let attempted = scenario.attempt(&["--policy", policy], attempt, place)?;
    expect_refused(&attempted, place, reason)?;
    expect("frames on the outside host's wire", &scenario.frames(&capture, place)?, &0)?;
    expect("served", &server.served(), &1)
}

fn expect_refused(attempted: &Attempted, place: SocketAddr, reason: &str) -> Result<()> {
    if !attempted.outcome.is_refused() {
        bail!("{place}: errno {} instead of EPERM", attempted.outcome.errno);
    }
    attempted.expect_line(&format!("refused 1 attempt, {reason}"))
}

fn serve(scenario: &Scenario, attempt: Attempt, place: SocketAddr) -> Result<Server> {
    match attempt {
        Attempt::Tcp => Server::tcp_greeter(scenario.outside(), place, b"hello"),
        Attempt::Udp | Attempt::UdpConnected => Server::udp_echo(scenario.outside(), place),
    }
}

pub(super) fn events(scenario: &Scenario) -> Result<String> {
    let path = scenario.directory().join("events.jsonl");
    let file = path.to_str().context("a path that is no text")?;
    let place = scenario.outside().at(OTHER);
    let attempted = scenario.attempt(&["--policy", "closed", "--events", file], Attempt::Udp, place)?;
    expect_refused(&attempted, place, "not_allowlisted")?;
    let text = fs::read_to_string(&path)?;
    expect("lines", &text.lines().count(), &1)?;
    for entry in [
        r#""dst":"10.77.2.2""#,
        r#""port":25"#,
        r#""protocol":"udp""#,
        r#""comm":"egress-warden-p""#,
        r#""reason":"not_allowlisted""#,
        r#""mode":"enforce""#,
    ] {
        if !text.contains(entry) {
            bail!("no {entry} in {text}");
        }
    }
    Ok("1 record, complete when exec returned".to_owned())
}

/// Three refused attempts are the threshold; after that the allowed place is closed and the kept one is not.
pub(super) fn quarantine(scenario: &Scenario) -> Result<String> {
    let outside = scenario.outside();
    let allowed = Server::tcp_greeter(outside, outside.at(ALLOWED), b"hello")?;
    let kept = Server::tcp_greeter(outside, outside.at(KEPT), b"hello")?;
    let port = |port: u16| (Attempt::Tcp, outside.at(port));
    let attempts = [port(ALLOWED), port(OTHER), port(OTHER), port(OTHER), port(ALLOWED), port(KEPT)];
    let lines: Vec<String> = attempts
        .iter()
        .map(|(attempt, to)| {
            format!("{} {}", scenario.probe.display(), attempt.arguments(*to, DEADLINE).join(" "))
        })
        .collect();
    let line = ["sh".to_owned(), "-c".to_owned(), lines.join("; ")];
    let finished = scenario.run(scenario.exec(Some(scenario.job()), &["--policy", "strict"], line))?;
    let outcomes: Result<Vec<Outcome>> = finished.stdout.lines().map(str::parse).collect();
    let errnos: Vec<i32> = outcomes?.iter().map(|outcome| outcome.errno).collect();
    expect("errnos", &errnos, &vec![0, EPERM, EPERM, EPERM, EPERM, 0])?;
    expect("served by the allowed and the kept place", &[allowed.served(), kept.served()], &[1, 1])?;
    expect_line(&finished.stderr, "refused 4 attempts: ")?;
    expect_line(&finished.stderr, "quarantined after ")?;
    expect_line(&finished.stderr, &format!("1 {}/tcp quarantined", outside.at(ALLOWED)))?;
    Ok("the 3rd refusal closed the allowed place, not the kept one".to_owned())
}
