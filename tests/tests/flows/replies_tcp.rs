//! A server in the jail answers callers from outside over TCP, under a policy that allows nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;
use egress_warden_tests::job::{Allowlists, outsider};
use egress_warden_tests::probe::Attempt;
use egress_warden_tests::wait::DEADLINE;

use super::{is_to, settle, wire, world};

/// Serves until told to stop: says a greeting first, then echoes one message.
const SERVER: &str = r#"
import threading
def serve(listener):
    while True:
        try:
            made, _ = listener.accept()
        except OSError:
            return
        made.settimeout(5)
        made.sendall(b"hello")
        if data := made.recv(100):
            made.sendall(data)
        made.close()
listeners = [listen("0.0.0.0", 80), listen("::", 80, socket.AF_INET6), listen("::", 81, socket.AF_INET6, dual=True)]
for listener in listeners:
    listener.settimeout(None)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
say("ready")
wait()
"#;

fn greeted_and_echoed(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting)?;
    assert_eq!(&greeting, b"hello");
    stream.write_all(b"question")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert_eq!(answer, "question");
    Ok(())
}

#[test]
fn callers_are_answered_over_every_kind_of_listener() -> Result<()> {
    let world = world()?;
    let (job, caller) = (world.host("job"), world.host("caller"));
    let lists = Allowlists::new(&[], &[])?;
    let mut server = lists.start(job, &[], SERVER)?;
    server.expect("ready")?;
    for place in [job.at(80), job.at_v6(80), job.at(81), job.at_v6(81)] {
        caller.enter(|| greeted_and_echoed(place))?;
    }
    let report = {
        server.tell("stop")?;
        server.finish()?
    };
    report.assert_refused(&[]);
    assert_eq!(report.note("answers to callers"), 0, "{}", report.errors);
    Ok(())
}

#[test]
fn many_callers_at_once() -> Result<()> {
    const CALLERS: usize = 64;
    let world = world()?;
    let (job, caller) = (world.host("job"), world.host("caller"));
    let lists = Allowlists::new(&[], &[])?;
    let mut server = lists.start(job, &[], SERVER)?;
    server.expect("ready")?;
    caller.enter(|| -> Result<()> {
        let streams: Vec<TcpStream> = (0..CALLERS)
            .map(|_| TcpStream::connect_timeout(&job.at(80), DEADLINE))
            .collect::<Result<_, _>>()?;
        for mut stream in streams {
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.write_all(b"question")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            assert_eq!(answer, "helloquestion");
        }
        Ok(())
    })?;
    server.tell("stop")?;
    server.finish()?.assert_refused(&[]);
    Ok(())
}

/// While a caller is connected, the server tries the caller's other ports and somebody else.
const CALLS_BACK: &str = r#"
listener = listen("0.0.0.0", 80)
say("ready")
made, (host, port) = listener.accept()
made.sendall(b"hello")
for to in [(host, 90), (host, port), ("10.77.3.2", 90)]:
    say(how(lambda: tcp(*to)), how(lambda: udp("0.0.0.0", 0).sendto(MARK, to)))
made.sendall(b" again")
"#;

#[test]
fn a_callers_address_is_not_opened_by_its_call() -> Result<()> {
    let world = world()?;
    let (job, caller) = (world.host("job"), world.host("caller"));
    let wire = wire(&world)?;
    let lists = Allowlists::new(&[], &[])?;
    let mut server = lists.start(job, &[], CALLS_BACK)?;
    server.expect("ready")?;
    let mut stream = caller.enter(|| TcpStream::connect_timeout(&job.at(80), DEADLINE))?;
    let port = stream.local_addr()?.port();
    for _ in 0..3 {
        server.expect("EPERM EPERM")?;
    }
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert_eq!(answer, "hello again", "the caller's own flow goes on");
    server.finish()?.assert_refused(&[("not_allowlisted", 6)]);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, world.host("outside"))), 0);
    let strange = |port: u16| move |destination: Option<u16>| destination.is_some_and(|to| to != port);
    let to_others = wire.count(|frame| is_to(frame, caller) && strange(port)(frame.destination_port));
    assert_eq!(to_others, 0);
    Ok(())
}

/// Accepts with data in the SYN, then tries to send data in its own SYN.
const FAST_OPEN: &str = r#"
listener = listen("0.0.0.0", 80)
listener.setsockopt(socket.IPPROTO_TCP, 23, 16)
say("ready")
for _ in range(2):
    made, _ = listener.accept()
    made.settimeout(5)
    made.sendall(made.recv(100))
    made.close()
for to in [("10.77.3.2", 90), ("10.77.2.2", 90)]:
    # Blocking: a socket with a time limit answers EINPROGRESS.
    say(how(lambda: socket.socket().sendto(MARK, 0x20000000, to)))
"#;

const FAST_OPENER: &str = r#"
for _ in range(2):
    made = socket.socket()
    made.sendto(b"early", 0x20000000, ("10.77.1.2", 80))
    say(made.recv(100).decode())
    made.close()
"#;

#[test]
fn data_in_the_first_segment_both_ways() -> Result<()> {
    let world = world()?;
    let (job, caller) = (world.host("job"), world.host("caller"));
    for host in [job, caller] {
        host.enter(|| std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3"))?;
    }
    let wire = wire(&world)?;
    let lists = Allowlists::new(&["cidrs: [10.77.2.2/32], ports: [90]"], &[])?;
    let _service = egress_warden_tests::server::Server::tcp_greeter(caller, caller.at(90), b"hello")?;
    let mut server = lists.start(job, &[], FAST_OPEN)?;
    server.expect("ready")?;
    let mut client = outsider(caller, FAST_OPENER)?;
    client.expect("early")?;
    client.expect("early")?;
    client.finish()?;
    server.expect("EPERM")?;
    server.expect("ok")?;
    server.finish()?.assert_refused(&[("not_allowlisted", 1)]);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, world.host("outside"))), 0);
    Ok(())
}

const MULTIPATH: &str = r#"
listener = listen("0.0.0.0", 80, protocol=262)
say("ready")
for _ in range(2):
    made, _ = listener.accept()
    made.sendall(b"hello")
    made.close()
say(how(lambda: tcp("10.77.3.2", 90, protocol=262)), how(lambda: tcp("10.77.2.2", 90, protocol=262)))
"#;

#[test]
fn multipath_tcp() -> Result<()> {
    let world = world()?;
    let (job, caller) = (world.host("job"), world.host("caller"));
    let wire = wire(&world)?;
    let lists = Allowlists::new(&["cidrs: [10.77.2.2/32], ports: [90]"], &[])?;
    let _service = egress_warden_tests::server::Server::tcp_greeter(caller, caller.at(90), b"hello")?;
    let mut server = lists.start(job, &[], MULTIPATH)?;
    server.expect("ready")?;
    for protocol in [0, 262] {
        let program = format!("say(tcp('10.77.1.2', 80, protocol={protocol}).recv(9).decode())");
        let mut client = outsider(caller, &program)?;
        client.expect("hello")?;
        client.finish()?;
    }
    server.expect("EPERM ok")?;
    server.finish()?.assert_refused(&[("not_allowlisted", 1)]);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, world.host("outside"))), 0);
    Ok(())
}

/// Connects from the port to which the other side connects.
const MEETS: &str = r#"
made = socket.socket()
made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
made.bind(("0.0.0.0", @here))
made.settimeout(8)
say("ready")
wait()
say("calling")
say(how(lambda: made.connect(("@there", @port))))
"#;

fn meets(here: u16, there: SocketAddr) -> String {
    MEETS
        .replace("@here", &here.to_string())
        .replace("@there", &there.ip().to_string())
        .replace("@port", &there.port().to_string())
}

#[test]
fn both_sides_call_at_the_same_moment() -> Result<()> {
    let world = world()?;
    let (job, caller, outside) = (world.host("job"), world.host("caller"), world.host("outside"));
    let wire = wire(&world)?;
    let lists = Allowlists::new(&["cidrs: [10.77.2.2/32], ports: [500]"], &[])?;
    let options = ["--keep-caps", "NET_BIND_SERVICE"];
    let syn = |frame: &egress_warden_tests::Frame| frame.tcp_flags == Some(2);

    // Allowed: the first SYN is lost, so that the other side's finds this one waiting.
    let lost = ["blackhole".to_owned(), format!("{}/32", caller.v4)];
    let mut inside = lists.start(job, &options, &meets(600, caller.at(500)))?;
    let mut other = outsider(caller, &meets(500, job.at(600)))?;
    inside.expect("ready")?;
    other.expect("ready")?;
    world.router().run(["ip", "route", "add"].into_iter().chain(lost.iter().map(String::as_str)))?;
    inside.tell("go")?;
    wire.wait_for(|frame| syn(frame) && frame.is_to(caller.at(500)), DEADLINE)?;
    world.router().run(["ip", "route", "del"].into_iter().chain(lost.iter().map(String::as_str)))?;
    other.tell("go")?;
    for side in [&mut inside, &mut other] {
        side.expect("calling")?;
        side.expect("ok")?;
    }
    inside.finish()?.assert_refused(&[]);
    let accepts = |frame: &egress_warden_tests::Frame| frame.tcp_flags == Some(0x12);
    assert!(wire.count(|frame| accepts(frame) && frame.is_to(caller.at(500))) > 0, "it was simultaneous");

    // Refused: the other side's call does not open the way for this one.
    let mut inside = lists.start(job, &options, &meets(601, outside.at(500)))?;
    let mut other = outsider(outside, &meets(500, job.at(601)))?;
    inside.expect("ready")?;
    other.expect("ready")?;
    other.tell("go")?;
    other.expect("calling")?;
    inside.tell("go")?;
    inside.expect("calling")?;
    inside.expect("EPERM")?;
    inside.finish()?.assert_refused(&[("not_allowlisted", 1)]);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, outside) && (syn(frame) || accepts(frame))), 0);
    Ok(())
}

#[test]
fn a_closed_port_still_says_so() -> Result<()> {
    let world = world()?;
    let (job, caller) = (world.host("job"), world.host("caller"));
    let lists = Allowlists::new(&[], &[])?;
    let mut server = lists.start(job, &[], SERVER)?;
    server.expect("ready")?;
    let outcome = caller.enter(|| Attempt::Tcp.make(job.at(82), Duration::from_secs(5)));
    assert_eq!(outcome.errno, libc::ECONNREFUSED);
    server.tell("stop")?;
    server.finish()?.assert_refused(&[]);
    Ok(())
}
