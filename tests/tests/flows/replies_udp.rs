//! A server in the jail answers callers from outside over UDP, under a policy that allows nothing.

use std::net::UdpSocket;

use anyhow::Result;
use egress_warden_common::limits::{UDP_FLOW_SETS, UDP_FLOW_WAYS};
use egress_warden_tests::job::Allowlists;
use egress_warden_tests::wait::DEADLINE;

use super::{is_to, settle, wire, world};

/// Echoes on three sockets; then answers whom it is told to.
const SERVER: &str = r#"
sockets = [udp("0.0.0.0", 70), udp("::", 71, socket.AF_INET6)]
only = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
only.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
only.bind(("::", 72))
sockets.append(only)
say("ready")
while True:
    ready, _, _ = select.select(sockets + [sys.stdin], [], [])
    if sys.stdin in ready:
        words = wait().split()
        if words[0] == "stop":
            break
        made = udp("0.0.0.0", 0) if words[0] == "fresh" else sockets[int(words[0])]
        say(how(lambda: made.sendto(MARK, (words[1], int(words[2])))))
        continue
    for made in ready:
        data, peer = made.recvfrom(2000)
        made.sendto(data, peer)
"#;

fn echoed(socket: &UdpSocket, to: std::net::SocketAddr) -> Result<()> {
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.send_to(b"question", to)?;
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!((&buffer[..length], from), (&b"question"[..], to));
    Ok(())
}

#[test]
fn callers_are_answered_and_nobody_else() -> Result<()> {
    let world = world()?;
    let (job, caller, outside) = (world.host("job"), world.host("caller"), world.host("outside"));
    let wire = wire(&world)?;
    let lists = Allowlists::new(&[], &[])?;
    let mut server = lists.start(job, &[], SERVER)?;
    server.expect("ready")?;
    for place in [job.at(70), job.at(71)] {
        for _ in 0..3 {
            let socket = caller.enter(|| UdpSocket::bind("0.0.0.0:0"))?;
            echoed(&socket, place)?;
        }
    }
    for place in [job.at_v6(71), job.at_v6(72)] {
        let socket = caller.enter(|| UdpSocket::bind("[::]:0"))?;
        echoed(&socket, place)?;
    }
    let known = caller.enter(|| UdpSocket::bind("0.0.0.0:555"))?;
    echoed(&known, job.at(70))?;
    // Again, although nobody asked again: the flow is open for a while.
    assert_eq!(server.ask(&format!("0 {} 555", caller.v4))?, "ok");
    // Another port of the caller, another socket of ours, another host.
    assert_eq!(server.ask(&format!("0 {} 556", caller.v4))?, "EPERM");
    assert_eq!(server.ask(&format!("fresh {} 555", caller.v4))?, "EPERM");
    assert_eq!(server.ask(&format!("0 {} 555", outside.v4))?, "EPERM");
    server.tell("stop")?;
    server.finish()?.assert_refused(&[("not_allowlisted", 3)]);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, outside)), 0);
    assert_eq!(wire.count(|frame| is_to(frame, caller) && frame.destination_port == Some(556)), 0);
    assert_eq!(wire.count(|frame| is_to(frame, caller) && frame.destination_port == Some(555)), 2);
    Ok(())
}

#[test]
fn more_callers_than_a_socket_remembers() -> Result<()> {
    const ROOM: usize = UDP_FLOW_SETS * UDP_FLOW_WAYS;
    let world = world()?;
    let (job, caller) = (world.host("job"), world.host("caller"));
    let lists = Allowlists::new(&[], &[])?;
    let mut server = lists.start(job, &[], SERVER)?;
    server.expect("ready")?;
    // Every caller is answered when it asks, however many there were before.
    let sockets: Vec<UdpSocket> =
        (0..2 * ROOM).map(|_| caller.enter(|| UdpSocket::bind("0.0.0.0:0"))).collect::<Result<_, _>>()?;
    for socket in &sockets {
        echoed(socket, job.at(70))?;
    }
    // Who was pushed out is a stranger again; who was not may be answered.
    let mut refused = 0;
    for socket in &sockets {
        match server.ask(&format!("0 {} {}", caller.v4, socket.local_addr()?.port()))?.as_str() {
            "ok" => {}
            "EPERM" => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(refused >= ROOM, "at most {ROOM} flows fit, {refused} of {} were forgotten", sockets.len());
    server.tell("stop")?;
    let report = server.finish()?;
    let refused = u64::try_from(refused)?;
    assert_eq!(report.refused()?.get("not_allowlisted"), Some(&refused));
    assert_eq!(report.note("inbound UDP flows were pushed out"), refused, "{}", report.errors);
    Ok(())
}

/// A socket that chose its peer is no server to it.
const CLIENT: &str = r#"
made = udp("0.0.0.0", 70)
made.connect(("10.77.3.2", 555))
say("ready")
wait()
say(how(lambda: made.send(MARK)), made.recv(100).decode(), how(lambda: made.send(MARK)))
"#;

#[test]
fn a_socket_that_chose_its_peer_learns_nothing_from_it() -> Result<()> {
    let world = world()?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let wire = wire(&world)?;
    let lists = Allowlists::new(&[], &[])?;
    let mut client = lists.start(job, &[], CLIENT)?;
    client.expect("ready")?;
    let peer = outside.enter(|| UdpSocket::bind("0.0.0.0:555"))?;
    peer.send_to(b"come", job.at(70))?;
    assert_eq!(client.ask("go")?, "EPERM come EPERM");
    client.finish()?.assert_refused(&[("not_allowlisted", 2)]);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, outside) && frame.is_udp()), 0);
    Ok(())
}
