//! What gets through, and what is counted without being refused.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use egress_warden_tests::probe::Attempt;
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::DEADLINE;

use super::super::guest::{ARGUMENT, SERVE};
use super::super::scenario::{ALLOWED, Attempted, Finished, OTHER, Scenario, expect_line, this_program};
use super::expect;

/// Where the job's own server listens.
const SERVED_PORT: u16 = 9100;

pub(super) fn programs_load(scenario: &Scenario) -> Result<String> {
    load(scenario, &["--policy", "closed"])
}

/// With their diagnostics the programs are other instructions to the verifier.
pub(super) fn kernel_log(scenario: &Scenario) -> Result<String> {
    load(scenario, &["--policy", "closed", "--kernel-log"])
}

fn load(scenario: &Scenario, options: &[&str]) -> Result<String> {
    let finished = scenario.run(scenario.exec(Some(scenario.job()), options, ["true"]))?.expect_code(0)?;
    expect("standard output", &finished.stdout, &String::new())?;
    Ok("all programs accepted".to_owned())
}

pub(super) fn tcp(scenario: &Scenario) -> Result<String> {
    let outside = scenario.outside();
    for place in [outside.at(ALLOWED), outside.at_v6(ALLOWED)] {
        let server = Server::tcp_greeter(outside, place, b"hello")?;
        let attempted = scenario.attempt(&["--policy", "open"], Attempt::Tcp, place)?;
        expect_reached(&attempted, place, server.served())?;
        attempted.expect_line("allowed 1 flow (1 tcp)")?;
    }
    Ok("reached; IPv4 and IPv6".to_owned())
}

pub(super) fn udp(scenario: &Scenario) -> Result<String> {
    let outside = scenario.outside();
    for place in [outside.at(ALLOWED), outside.at_v6(ALLOWED)] {
        for attempt in [Attempt::Udp, Attempt::UdpConnected] {
            let server = Server::udp_echo(outside, place)?;
            let attempted = scenario.attempt(&["--policy", "open"], attempt, place)?;
            expect_reached(&attempted, place, server.served())?;
            attempted.expect_line("allowed 1 flow (1 udp)")?;
        }
    }
    Ok("answered, connected and not; IPv4 and IPv6".to_owned())
}

pub(super) fn many_prefixes(scenario: &Scenario) -> Result<String> {
    let outside = scenario.outside();
    let server = Server::tcp_greeter(outside, outside.at(OTHER), b"hello")?;
    let attempted = scenario.attempt(&["--policy", "many"], Attempt::Tcp, outside.at(OTHER))?;
    expect_reached(&attempted, outside.at(OTHER), server.served())?;
    let attempted = scenario.attempt(&["--policy", "many"], Attempt::Tcp, outside.at_v6(OTHER))?;
    attempted.expect_line("refused 1 attempt, not_allowlisted")?;
    Ok("20,001 prefixes".to_owned())
}

/// In a namespace of the workload's own it leads to itself, in the machine's to the machine's services.
pub(super) fn loopback(scenario: &Scenario) -> Result<String> {
    let job = scenario.job();
    for address in ["127.0.0.1:8080", "[::1]:8080"] {
        let place: SocketAddr = address.parse()?;
        let server = Server::tcp_greeter(job, place, b"hello")?;
        let attempted = scenario.attempt(&["--policy", "closed"], Attempt::Tcp, place)?;
        expect_reached(&attempted, place, server.served())?;
        let attempted = scenario.attempt_in(None, &["--policy", "closed"], Attempt::Tcp, place)?;
        if !attempted.outcome.is_refused() {
            bail!("{place} in the machine's own namespace: errno {}", attempted.outcome.errno);
        }
    }
    Ok("open in an own namespace, refused in the machine's".to_owned())
}

/// Under a policy that allows nothing, a server still answers those who call it.
pub(super) fn replies(scenario: &Scenario) -> Result<String> {
    let port = SERVED_PORT.to_string();
    let program = this_program()?.display().to_string();
    let line = [program.as_str(), "vm", ARGUMENT, SERVE, &port];
    let server = scenario.exec(Some(scenario.job()), &["--policy", "closed"], line);
    let mut server = scenario.cgroup.spawn(server)?;
    let mut lines = BufReader::new(server.stdout.take().context("no standard output")?).lines();
    let ready = lines.next().transpose()?;
    if ready.as_deref() == Some("ready") {
        for attempt in [Attempt::Tcp, Attempt::Udp] {
            for place in [scenario.job().at(SERVED_PORT), scenario.job().at_v6(SERVED_PORT)] {
                let outcome = scenario.outside().enter(|| attempt.make(place, DEADLINE));
                if !outcome.is_ok() {
                    server.kill()?;
                    server.wait()?;
                    bail!("{place} does not answer: errno {}", outcome.errno);
                }
            }
        }
    }
    let finished = Finished::new(&server.wait_with_output()?)?.expect_code(0)?;
    expect_line(&finished.stderr, "refused nothing")?;
    Ok("TCP and UDP callers are answered; IPv4 and IPv6".to_owned())
}

pub(super) fn audit(scenario: &Scenario) -> Result<String> {
    let outside = scenario.outside();
    let options = ["--policy", "closed", "--mode", "audit"];
    for place in [outside.at(OTHER), outside.at_v6(OTHER)] {
        let server = Server::tcp_greeter(outside, place, b"hello")?;
        let attempted = scenario.attempt(&options, Attempt::Tcp, place)?;
        expect_reached(&attempted, place, server.served())?;
        attempted.expect_line("would refuse 1 attempt, not_allowlisted")?;
        let echo = Server::udp_echo(outside, place)?;
        let attempted = scenario.attempt(&options, Attempt::Udp, place)?;
        expect_reached(&attempted, place, echo.served())?;
        attempted.expect_line("would refuse 1 attempt, not_allowlisted")?;
    }
    Ok("let through and counted".to_owned())
}

fn expect_reached(attempted: &Attempted, place: SocketAddr, served: usize) -> Result<()> {
    let outcome = attempted.outcome;
    if !outcome.is_ok() || outcome.received != 5 {
        bail!("{place} was not reached: errno {}, {}", outcome.errno, attempted.summary);
    }
    expect("served", &served, &1)
}
