//! What gets through, and what is counted without being refused.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use egress_warden_tests::probe::Attempt;
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::DEADLINE;
use nix::libc::EPERM;

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
    let attempts = [(Attempt::Tcp, outside.at(ALLOWED)), (Attempt::Tcp, outside.at_v6(ALLOWED))];
    reached(scenario, &["--policy", "open"], &attempts, &["allowed 2 flows (2 tcp)", "refused nothing"])?;
    Ok("reached; IPv4 and IPv6".to_owned())
}

pub(super) fn udp(scenario: &Scenario) -> Result<String> {
    let outside = scenario.outside();
    let attempts = [
        (Attempt::Udp, outside.at(ALLOWED)),
        (Attempt::UdpConnected, outside.at(ALLOWED)),
        (Attempt::Udp, outside.at_v6(ALLOWED)),
        (Attempt::UdpConnected, outside.at_v6(ALLOWED)),
    ];
    reached(scenario, &["--policy", "open"], &attempts, &["allowed 4 flows (4 udp)", "refused nothing"])?;
    Ok("answered, connected and not; IPv4 and IPv6".to_owned())
}

/// The one that is asked for is among many.
pub(super) fn many_prefixes(scenario: &Scenario) -> Result<String> {
    let place = scenario.outside().at(OTHER);
    reached(scenario, &["--policy", "many"], &[(Attempt::Tcp, place)], &["allowed 1 flow (1 tcp)"])?;
    Ok("20,001 prefixes".to_owned())
}

pub(super) fn audit(scenario: &Scenario) -> Result<String> {
    let outside = scenario.outside();
    let attempts = [outside.at(OTHER), outside.at_v6(OTHER)]
        .into_iter()
        .flat_map(|place| [(Attempt::Tcp, place), (Attempt::Udp, place)])
        .collect::<Vec<_>>();
    let options = ["--policy", "closed", "--mode", "audit"];
    reached(scenario, &options, &attempts, &["would refuse 4 attempts, not_allowlisted"])?;
    Ok("let through and counted".to_owned())
}

/// Every attempt is answered by a server of its kind on the outside host, and the summary has these lines.
fn reached(
    scenario: &Scenario,
    options: &[&str],
    attempts: &[(Attempt, SocketAddr)],
    lines: &[&str],
) -> Result<()> {
    let places: BTreeSet<SocketAddr> = attempts.iter().map(|(_, place)| *place).collect();
    let mut servers = Vec::new();
    for place in places {
        servers.push(Server::tcp_greeter(scenario.outside(), place, b"hello")?);
        servers.push(Server::udp_echo(scenario.outside(), place)?);
    }
    let attempted = scenario.attempts(Some(scenario.job()), options, attempts)?;
    for (outcome, (_, place)) in attempted.outcomes.iter().zip(attempts) {
        if !outcome.is_ok() || outcome.received != 5 {
            bail!("{place} was not reached: errno {}, {}", outcome.errno, attempted.summary);
        }
    }
    lines.iter().try_for_each(|line| expect_line(&attempted.summary, line))?;
    expect("served", &servers.iter().map(Server::served).sum(), &attempts.len())
}

/// In a namespace of the workload's own it leads to itself, in the machine's to the machine's services.
pub(super) fn loopback(scenario: &Scenario) -> Result<String> {
    let places: [SocketAddr; 2] = ["127.0.0.1:8080".parse()?, "[::1]:8080".parse()?];
    let attempts = places.map(|place| (Attempt::Tcp, place));
    let servers = places.map(|place| Server::tcp_greeter(scenario.job(), place, b"hello"));
    let own = scenario.attempts(Some(scenario.job()), &["--policy", "closed"], &attempts)?;
    let errnos = |attempted: &Attempted| attempted.outcomes.iter().map(|one| one.errno).collect::<Vec<_>>();
    expect("errnos in an own namespace", &errnos(&own), &vec![0, 0])?;
    for server in servers {
        expect("served", &server?.served(), &1)?;
    }
    // Nothing listens there, so without the refusal it would be ECONNREFUSED.
    let machine = scenario.attempts(None, &["--policy", "closed"], &attempts)?;
    expect("errnos in the machine's namespace", &errnos(&machine), &vec![EPERM, EPERM])?;
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
