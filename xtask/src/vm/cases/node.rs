//! The agent, and the backstop on the other end of the workload's wire.

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use egress_warden_tests::forge::Forgery;
use egress_warden_tests::probe::{Attempt, Outcome};
use egress_warden_tests::rewriter::rewrite;
use egress_warden_tests::wait::{DEADLINE, until};

use super::super::guest::{ARGUMENT, SERVE};
use super::super::node::{BACKEND, FOREIGN, Node, SERVICE};
use super::super::scenario::{ALLOWED, Finished, OTHER, Scenario, this_program};
use super::expect;

/// Where the workload's own server listens.
const SERVED_PORT: u16 = 9200;
/// Where nobody does.
const CLOSED_PORT: u16 = 9201;

/// On a kernel that is too old.
pub(super) fn refuses(scenario: &Scenario) -> Result<String> {
    let mut command = Command::new(&scenario.agent);
    command.args(["run", "--pin-directory", "/sys/fs/bpf/node", "--allowlists"]).arg(scenario.directory());
    let finished = Finished::new(&command.output()?)?.expect_code(1)?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    let line = said.lines().find(|line| line.contains("is too old")).context(said.clone())?;
    Ok(line.to_owned())
}

pub(super) fn starts(scenario: &Scenario) -> Result<String> {
    let node = scenario.node()?;
    let workload = node.workload()?;
    let interfaces = workload["interfaces"].as_array().context("interfaces")?;
    let found: Vec<_> = interfaces.iter().map(|one| (one["name"].as_str(), one["tier"].as_str())).collect();
    expect("interfaces", &found, &vec![(Some("eth0"), Some("backstop"))])?;
    expect("tier", &workload["tier"].as_str(), &Some("backstop"))?;
    let way = node.expect_attached(scenario, 2)?;
    Ok(format!("eth0 has its backstop by {way}"))
}

pub(super) fn allowed(scenario: &Scenario) -> Result<String> {
    let node = scenario.node()?;
    reached(scenario, node)?;
    expect("violations", &node.violations()?, &0)?;
    Ok("TCP and UDP reached; IPv4 and IPv6".to_owned())
}

fn reached(scenario: &Scenario, node: &Node) -> Result<()> {
    for place in [scenario.outside().at(ALLOWED), scenario.outside().at_v6(ALLOWED)] {
        for attempt in [Attempt::Tcp, Attempt::Udp] {
            let outcome = node.attempt(scenario, attempt, place)?;
            ensure!(outcome.is_ok() && outcome.received == 5, "{place} {attempt:?}: errno {}", outcome.errno);
        }
    }
    Ok(())
}

pub(super) fn refused(scenario: &Scenario) -> Result<String> {
    let node = scenario.node()?;
    let before = node.counted("port_not_allowed")?;
    for place in [scenario.outside().at(OTHER), scenario.outside().at_v6(OTHER)] {
        for attempt in [Attempt::Tcp, Attempt::Udp] {
            let outcome = node.attempt(scenario, attempt, place)?;
            ensure!(outcome.is_refused(), "{place} {attempt:?}: errno {} instead of EPERM", outcome.errno);
        }
    }
    node.settle(scenario)?;
    let arrived = node.capture.count(|frame| frame.destination_port == Some(OTHER));
    expect("frames on the outside host's wire", &arrived, &0)?;
    expect("counted", &(node.counted("port_not_allowed")? - before), &4)?;
    Ok("EPERM, 0 frames, each counted; TCP, UDP, IPv4 and IPv6".to_owned())
}

pub(super) fn frame(scenario: &Scenario) -> Result<String> {
    forgery(scenario, Forgery::Frame, scenario.job().v4, "socket_type")?;
    forgery(scenario, Forgery::Frame, FOREIGN, "socket_type")?;
    Ok("frames of a packet socket refused and counted, with the workload's source and a foreign one"
        .to_owned())
}

pub(super) fn spoof(scenario: &Scenario) -> Result<String> {
    forgery(scenario, Forgery::Packet, FOREIGN, "source_spoofed")?;
    Ok("packets with a foreign source refused and counted".to_owned())
}

/// The positive control was made before the agent was started: see [`Node::control`].
fn forgery(scenario: &Scenario, forgery: Forgery, source: Ipv4Addr, reason: &'static str) -> Result<()> {
    const COUNT: usize = 3;
    let node = scenario.node()?;
    let (arrived, counted) = (node.forged(), node.counted(reason)?);
    node.forge(scenario, forgery, source, COUNT)?;
    node.settle(scenario)?;
    expect("arrived", &(node.forged() - arrived), &0)?;
    expect(reason, &(node.counted(reason)? - counted), &(COUNT as u64))
}

/// Who calls the workload is answered, by a socket of its or without one.
pub(super) fn replies(scenario: &Scenario) -> Result<String> {
    let node = scenario.node()?;
    let before = node.violations()?;
    let mut server = scenario.job().command(this_program()?);
    server.args(["vm", ARGUMENT, SERVE, &SERVED_PORT.to_string()]).stdout(Stdio::piped());
    let mut server = node.cgroup.spawn(server)?;
    let mut ready = String::new();
    BufReader::new(server.stdout.take().context("no standard output")?).read_line(&mut ready)?;
    let answered = answers(scenario);
    if answered.is_err() {
        server.kill()?;
    }
    let status = server.wait()?;
    answered?;
    ensure!(status.success(), "the server ended with {status}");
    expect("violations", &(node.violations()? - before), &0)?;
    Ok("TCP, UDP, a reset from a closed port, echo; IPv4 and IPv6".to_owned())
}

fn answers(scenario: &Scenario) -> Result<()> {
    let (job, outside) = (scenario.job(), scenario.outside());
    for place in [job.at(SERVED_PORT), job.at_v6(SERVED_PORT)] {
        for attempt in [Attempt::Tcp, Attempt::Udp] {
            let outcome = outside.enter(|| attempt.make(place, DEADLINE));
            ensure!(outcome.is_ok(), "{place} does not answer {attempt:?}: errno {}", outcome.errno);
        }
    }
    for place in [job.at(CLOSED_PORT), job.at_v6(CLOSED_PORT)] {
        match outside.enter(|| TcpStream::connect_timeout(&place, DEADLINE)) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            other => bail!("{place} sends no reset: {other:?}"),
        }
    }
    for address in [IpAddr::from(job.v4), IpAddr::from(job.v6)] {
        let ping = ["ping", "-c", "1", "-W", "5", &address.to_string()].map(str::to_owned);
        outside.run(ping).with_context(|| format!("no echo from {address}"))?;
    }
    Ok(())
}

pub(super) fn fragments(scenario: &Scenario) -> Result<String> {
    let node = scenario.node()?;
    let before = node.violations()?;
    for place in [scenario.outside().at(ALLOWED), scenario.outside().at_v6(ALLOWED)] {
        let outcome = node.attempt(scenario, Attempt::UdpFragments, place)?;
        expect("bytes back", &(outcome.errno, outcome.received), &(0, 5000))?;
    }
    expect("violations", &(node.violations()? - before), &0)?;
    Ok("5000 bytes there and back; IPv4 and IPv6".to_owned())
}

/// While no agent runs, and after the next one took over.
pub(super) fn restart(scenario: &Scenario) -> Result<String> {
    let node = scenario.node()?;
    let before = node.violations()?;
    node.kill()?;
    node.expect_attached(scenario, 2)?;
    refuses_still(scenario, node)?;
    node.start(scenario)?;
    node.expect_attached(scenario, 2)?;
    // One attempt and one frame: nothing counted is lost, nor counted twice.
    expect("violations", &(node.violations()? - before), &2)?;
    reached(scenario, node)?;
    refuses_still(scenario, node)?;
    expect("violations after another two", &(node.violations()? - before), &4)?;
    Ok("refused without an agent; taken over with all counts; nothing attached twice".to_owned())
}

/// Below somebody's load balancer, under a policy that names the service and not its backend.
pub(super) fn service(scenario: &Scenario) -> Result<String> {
    let node = scenario.node()?;
    let outside = scenario.outside();
    let places: [(SocketAddr, SocketAddr); 2] =
        [(SERVICE.0.into(), outside.at(BACKEND)), (SERVICE.1.into(), outside.at_v6(BACKEND))];
    for (service, backend) in places {
        let outcome = node.attempt(scenario, Attempt::Tcp, backend)?;
        ensure!(outcome.is_refused(), "{backend}: errno {} instead of EPERM", outcome.errno);
        rewrite(&node.cgroup, service, backend)?;
    }
    // It is looked for at once when an agent starts.
    node.kill()?;
    node.start(scenario)?;
    for (service, _) in places {
        for attempt in [Attempt::Tcp, Attempt::Udp, Attempt::UdpConnected] {
            let reached = || node.attempt(scenario, attempt, service).ok().filter(Outcome::is_ok);
            until("the service to be reached", DEADLINE, reached)
                .with_context(|| format!("{service} {attempt:?}: {}", node.log()))?;
        }
    }
    Ok("a service reached whose backend no policy names; TCP, UDP, IPv4 and IPv6".to_owned())
}

fn refuses_still(scenario: &Scenario, node: &Node) -> Result<()> {
    let outcome = node.attempt(scenario, Attempt::Tcp, scenario.outside().at(OTHER))?;
    ensure!(outcome.is_refused(), "errno {} instead of EPERM", outcome.errno);
    let arrived = node.forged();
    node.forge(scenario, Forgery::Frame, scenario.job().v4, 1)?;
    node.settle(scenario)?;
    expect("arrived", &(node.forged() - arrived), &0)
}

/// The wire is another interface then, and the agent has only the kernel's word for it.
pub(super) fn new_wire(scenario: &Scenario) -> Result<String> {
    let node = scenario.node()?;
    scenario.lay_again()?;
    let guarded = || node.expect_attached(scenario, 2).ok();
    until("the new wire to get its backstop", DEADLINE, guarded)?;
    reached(scenario, node)?;
    refuses_still(scenario, node)?;
    expect("tier", &node.workload()?["tier"].as_str(), &Some("backstop"))?;
    Ok("a wire that is laid anew gets a backstop of its own".to_owned())
}

/// By way of the agent, which keeps its maps, and of what a killed one left, of which nothing stays.
pub(super) fn detach(scenario: &Scenario) -> Result<String> {
    let node = scenario.node()?;
    for kill_first in [false, true] {
        if kill_first {
            node.start(scenario)?;
            node.kill()?;
        }
        expect("said", &node.detach(scenario)?.as_str(), &"1 workload is no longer enforced\n")?;
        node.expect_attached(scenario, 0)?;
        node.expect_no_pins()?;
        node.control(scenario)?;
        if !kill_first {
            node.kill()?;
        }
    }
    Ok("no filter, no link, no pin; everything arrives again".to_owned())
}
