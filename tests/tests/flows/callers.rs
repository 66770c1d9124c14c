//! What callers from outside make a server do is never held against the job.

use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::Result;
use egress_warden_tests::job::{Allowlists, outsider};
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::DEADLINE;
use egress_warden_tests::{Direction, Frame};

use super::{is_to, settle, wire, world};

const QUARANTINE: &str = "quarantine: {violations: 2, within: 60s, action: isolate}";
const ALLOWED: &[&str] = &["cidrs: [10.77.2.2/32], ports: [80, 53/udp]"];

/// Whether its IPv4 header carries options.
fn has_options(frame: &Frame) -> bool {
    frame.ethertype == 0x0800 && frame.bytes.get(14).is_some_and(|first| first & 0x0f > 5)
}

const LISTENS: &str = r#"
listener = listen("0.0.0.0", 80)
say("ready")
made, peer = listener.accept()
made.sendall(b"hello")
say("served")
wait()
say(how(lambda: tcp("10.77.2.2", 80).close()), how(lambda: udp("0.0.0.0", 0).sendto(MARK, ("10.77.2.2", 53))))
"#;

/// The options that a caller sends come back in the answer, which a workload may not send.
const RECORD_ROUTE: &str = r#"
calls = []
for _ in range(6):
    made = socket.socket()
    made.setsockopt(socket.IPPROTO_IP, 4, bytes([7, 7, 4, 0, 0, 0, 0, 0]))
    made.setblocking(False)
    calls.append(made)
    say(how(lambda: made.connect(("10.77.1.2", 80))))
wait()
say(sum(made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for made in calls))
for made in calls:
    say(how(made.getpeername))
"#;

#[test]
fn record_route_from_outside_quarantines_no_server() -> Result<()> {
    let world = world()?;
    let (job, caller, outside) = (world.host("job"), world.host("caller"), world.host("outside"));
    let wire = wire(&world)?;
    let _allowed = Server::tcp_greeter(caller, caller.at(80), b"hello")?;
    let _sink = Server::udp_echo(caller, caller.at(53))?;
    let lists = Allowlists::new(ALLOWED, &[QUARANTINE])?;
    let mut server = lists.start(job, &[], LISTENS)?;
    server.expect("ready")?;
    // From two addresses: one listener's refusals toward one place would count once at most.
    let mut attackers = [outsider(outside, RECORD_ROUTE)?, outsider(caller, RECORD_ROUTE)?];
    for attacker in &mut attackers {
        for _ in 0..6 {
            attacker.expect("EINPROGRESS")?;
        }
    }
    // A second time for one of them: by then the first answers have been judged.
    let calls = || wire.count(|frame| frame.direction == Direction::Out && has_options(frame));
    egress_warden_tests::wait::until("the calls are repeated", DEADLINE, || (calls() > 12).then_some(()))?;
    for mut attacker in attackers {
        attacker.tell("look")?;
        attacker.expect("0")?;
        for _ in 0..6 {
            attacker.expect("ENOTCONN")?;
        }
        attacker.finish()?;
    }
    // Who calls as everybody does is served, and the job's own destination stays open.
    let reached = outside.enter(|| TcpStream::connect_timeout(&job.at(80), DEADLINE))?;
    server.expect("served")?;
    assert_eq!(server.ask("go")?, "ok ok");
    drop(reached);
    let report = server.finish()?;
    report.assert_refused(&[]);
    assert!(report.note("answers to callers from outside were refused") >= 12, "{}", report.errors);
    assert!(!report.errors.contains("quarantined"), "{}", report.errors);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| frame.direction == Direction::In && has_options(frame)), 0);
    Ok(())
}

const QUARANTINED: &str = r#"
listener = listen("0.0.0.0", 80)
server = udp("0.0.0.0", 70)
say("ready")
made, _ = listener.accept()
made.sendall(b"hello")
known = server.recvfrom(100)[1]
server.sendto(MARK, known)
say(how(lambda: udp("0.0.0.0", 0).sendto(MARK, ("10.77.2.2", 53))))
wait()
say(*[how(lambda: tcp("10.77.3.2", 443)) for _ in range(2)])
wait()
answers = [how(lambda: server.sendto(b"late", known))]
for _ in range(6):
    peer = server.recvfrom(100)[1]
    answers.append(how(lambda: server.sendto(b"late", peer)))
say(*answers)
# Connected, no hook but egress sees the datagram.
server.connect(known)
say(how(lambda: server.send(b"late")), how(lambda: made.sendall(b"late")))
say(how(lambda: udp("0.0.0.0", 0).sendto(MARK, ("10.77.2.2", 53))))
wait()
"#;

#[test]
fn answers_refused_in_quarantine_are_no_violations() -> Result<()> {
    let world = world()?;
    let (job, caller, outside) = (world.host("job"), world.host("caller"), world.host("outside"));
    let wire = wire(&world)?;
    let _sink = Server::udp_echo(caller, caller.at(53))?;
    let lists = Allowlists::new(ALLOWED, &[QUARANTINE])?;
    let mut server = lists.start(job, &[], QUARANTINED)?;
    server.expect("ready")?;
    // The controls: before the quarantine the same callers are answered.
    let _reached = outside.enter(|| TcpStream::connect_timeout(&job.at(80), DEADLINE))?;
    let known = outside.enter(|| UdpSocket::bind("0.0.0.0:0"))?;
    known.set_read_timeout(Some(DEADLINE))?;
    known.send_to(b"call", job.at(70))?;
    known.recv_from(&mut [0; 100])?;
    server.expect("ok")?;
    assert_eq!(server.ask("violate")?, "EPERM EPERM");
    for _ in 0..6 {
        outside.enter(|| UdpSocket::bind("0.0.0.0:0"))?.send_to(b"call", job.at(70))?;
    }
    assert_eq!(server.ask("answer")?, ["EPERM"; 7].join(" "));
    // TCP takes what it is given, and keeps trying.
    server.expect("EPERM ok")?;
    server.expect("EPERM")?;
    let late = outside.enter(|| TcpStream::connect_timeout(&job.at(80), Duration::from_millis(300)));
    assert!(late.is_err(), "a caller is answered in quarantine");
    server.tell("end")?;
    let report = server.finish()?;
    // What the job itself tried: twice before, once after.
    report.assert_refused(&[("not_allowlisted", 2), ("quarantined", 1)]);
    // Seven datagrams, the one of the connected socket, data of the connection, and an answer to who called late.
    assert!(report.note("answers to callers from outside were refused") >= 10, "{}", report.errors);
    assert!(report.errors.contains("\n  quarantined after "), "{}", report.errors);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, outside) && frame.payload == b"late"), 0);
    assert_eq!(wire.count(|frame| is_to(frame, outside) && frame.payload == b"hello"), 1);
    Ok(())
}
