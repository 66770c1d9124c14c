//! What is refused: the application sees EPERM, the outside host sees nothing, and it is counted once.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use egress_warden_tests::probe::Attempt;
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::DEADLINE;
use nix::libc::{EPERM, EPROTONOSUPPORT};

use super::super::scenario::{ALLOWED, KEPT, OTHER, Scenario, expect_line};
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
    let attempts = [(attempt, outside.at(ALLOWED)), (attempt, outside.at_v6(ALLOWED))];
    refused(scenario, "closed", &attempts, "not_allowlisted")?;
    Ok("EPERM, 0 frames, 1 counted; IPv4 and IPv6".to_owned())
}

/// An IPv6 socket that says ::ffff:10.77.2.2 sends IPv4.
pub(super) fn mapped(scenario: &Scenario) -> Result<String> {
    let mapped = SocketAddr::from((scenario.outside().v4.to_ipv6_mapped(), ALLOWED));
    let attempts = [(Attempt::Tcp, mapped), (Attempt::Udp, mapped)];
    refused(scenario, "closed", &attempts, "not_allowlisted")?;
    Ok("EPERM for ::ffff:a.b.c.d, TCP and UDP".to_owned())
}

pub(super) fn port(scenario: &Scenario) -> Result<String> {
    let other = scenario.outside().at(OTHER);
    refused(scenario, "open", &[(Attempt::Tcp, other), (Attempt::Udp, other)], "port_not_allowed")?;
    Ok("EPERM for another port of an allowed host".to_owned())
}

/// A socket that could not be judged is not made; the errno of this kernel, on which applications fall back.
pub(super) fn socket_types(scenario: &Scenario) -> Result<String> {
    let outside = scenario.outside();
    let attempts = [(Attempt::UdpLite, outside.at(ALLOWED)), (Attempt::UdpLite, outside.at_v6(ALLOWED))];
    for (attempt, place) in attempts {
        let control = scenario.job().enter(|| attempt.make(place, DEADLINE));
        if !control.is_ok() {
            bail!("UDP-Lite to {place} does not work even without a policy: errno {}", control.errno);
        }
    }
    let capture = scenario.capture()?;
    let attempted = scenario.attempts(Some(scenario.job()), &["--policy", "open"], &attempts)?;
    expect_line(&attempted.summary, "refused 2 attempts, socket_type")?;
    for (outcome, (_, place)) in attempted.outcomes.iter().zip(attempts) {
        expect("errno", &outcome.errno, &EPROTONOSUPPORT)?;
        expect("frames on the outside host's wire", &scenario.frames(&capture, place)?, &0)?;
    }
    Ok("EPROTONOSUPPORT, 0 frames, 1 counted; IPv4 and IPv6".to_owned())
}

/// The positive control first: without a policy the same attempts arrive.
fn refused(
    scenario: &Scenario,
    policy: &str,
    attempts: &[(Attempt, SocketAddr)],
    reason: &str,
) -> Result<()> {
    let servers = attempts.iter().map(|(attempt, place)| serve(scenario, *attempt, *place));
    let servers = servers.collect::<Result<Vec<Server>>>()?;
    for (attempt, place) in attempts {
        let control = scenario.job().enter(|| attempt.make(*place, DEADLINE));
        if !control.is_ok() {
            bail!("{place} cannot be reached even without a policy: errno {}", control.errno);
        }
    }
    let capture = scenario.capture()?;
    let attempted = scenario.attempts(Some(scenario.job()), &["--policy", policy], attempts)?;
    expect_line(&attempted.summary, &format!("refused {} attempts, {reason}", attempts.len()))?;
    for (outcome, (attempt, place)) in attempted.outcomes.iter().zip(attempts) {
        if !outcome.is_refused() {
            bail!("{place}: errno {} instead of EPERM", outcome.errno);
        }
        expect_line(&attempted.summary, &format!("1 {}/{} {reason}", wire(*place), protocol(*attempt)))?;
        expect("frames on the outside host's wire", &scenario.frames(&capture, wire(*place))?, &0)?;
    }
    let served: Vec<usize> = servers.iter().map(Server::served).collect();
    expect("served, with the control", &served, &vec![1; attempts.len()])
}

/// A place as packets name it.
fn wire(place: SocketAddr) -> SocketAddr {
    SocketAddr::new(place.ip().to_canonical(), place.port())
}

fn protocol(attempt: Attempt) -> &'static str {
    match attempt {
        Attempt::Tcp => "tcp",
        Attempt::Udp | Attempt::UdpConnected | Attempt::UdpFragments => "udp",
        Attempt::UdpLite => "other",
    }
}

fn serve(scenario: &Scenario, attempt: Attempt, place: SocketAddr) -> Result<Server> {
    match attempt {
        Attempt::Tcp => Server::tcp_greeter(scenario.outside(), wire(place), b"hello"),
        Attempt::Udp | Attempt::UdpConnected | Attempt::UdpFragments => {
            Server::udp_echo(scenario.outside(), wire(place))
        }
        Attempt::UdpLite => bail!("nothing here serves UDP-Lite"),
    }
}

pub(super) fn events(scenario: &Scenario) -> Result<String> {
    let path = scenario.directory().join("events.jsonl");
    let file = path.to_str().context("a path that is no text")?;
    let place = scenario.outside().at(OTHER);
    let options = ["--policy", "closed", "--events", file];
    scenario.attempts(Some(scenario.job()), &options, &[(Attempt::Udp, place)])?;
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
    let attempted = scenario.attempts(Some(scenario.job()), &["--policy", "strict"], &attempts)?;
    let errnos: Vec<i32> = attempted.outcomes.iter().map(|outcome| outcome.errno).collect();
    expect("errnos", &errnos, &vec![0, EPERM, EPERM, EPERM, EPERM, 0])?;
    expect("served by the allowed and the kept place", &[allowed.served(), kept.served()], &[1, 1])?;
    expect_line(&attempted.summary, "refused 4 attempts: ")?;
    expect_line(&attempted.summary, "quarantined after ")?;
    expect_line(&attempted.summary, &format!("1 {}/tcp quarantined", outside.at(ALLOWED)))?;
    Ok("the 3rd refusal closed the allowed place, not the kept one".to_owned())
}
