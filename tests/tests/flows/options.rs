//! TCP whose packets carry IP options: one attempt, however many packets it takes.

use std::fs;

use anyhow::Result;
use egress_warden_tests::job::Allowlists;
use egress_warden_tests::server::Server;

use super::{is_to, settle, wire, world};

const CONNECTS: &str = r#"
def call(options):
    made = socket.socket()
    made.settimeout(5)
    if options:
        made.setsockopt(socket.IPPROTO_IP, 4, bytes([7, 7, 4, 0, 0, 0, 0, 0]))
    made.connect(("10.77.2.2", 80))
    made.sendall(MARK)
    assert made.recv(9) == b"hello"
    made.close()
"#;

/// Until the kernel has tried again: of what TCP tells of itself, retransmissions and backoff.
const TRIES_AGAIN: &str = r#"
made = socket.socket()
made.setsockopt(socket.IPPROTO_IP, 4, bytes([7, 7, 4, 0, 0, 0, 0, 0]))
made.setblocking(False)
say(how(lambda: made.connect(("10.77.2.2", 80))))
end = time.monotonic() + 20
while made.getsockopt(6, 11, 5)[2:] == bytes(3) and time.monotonic() < end:
    time.sleep(0.01)
say(made.getsockopt(6, 11, 5)[2:] != bytes(3))
made.close()
say(how(lambda: call(False)))
"#;

fn has_options(frame: &egress_warden_tests::Frame) -> bool {
    frame.ethertype == 0x0800 && frame.bytes.get(14).is_some_and(|first| first & 0x0f > 5)
}

#[test]
fn refused_once_however_often_it_is_tried_again() -> Result<()> {
    let world = world()?;
    let (job, caller) = (world.host("job"), world.host("caller"));
    let wire = wire(&world)?;
    let server = Server::tcp_greeter(caller, caller.at(80), b"hello")?;
    let lists = Allowlists::new(&["cidrs: [10.77.2.2/32]"], &[])?;
    let mut program = lists.start(job, &[], &format!("{CONNECTS}{TRIES_AGAIN}"))?;
    program.expect("EINPROGRESS")?;
    program.expect("True")?;
    // The control: without options the same call arrives.
    program.expect("ok")?;
    let report = program.finish()?;
    report.assert_refused(&[("ip_options", 1)]);
    let record = &report.events[0];
    assert_eq!((&record["dst"], &record["protocol"]), (&"10.77.2.2".into(), &"tcp".into()), "{record}");
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, caller) && has_options(frame)), 0);
    assert_eq!(server.served(), 1);
    Ok(())
}

#[test]
fn audit_counts_a_whole_connection_once() -> Result<()> {
    let world = world()?;
    let (job, caller) = (world.host("job"), world.host("caller"));
    let wire = wire(&world)?;
    let server = Server::tcp_greeter(caller, caller.at(80), b"hello")?;
    let lists = Allowlists::new(&["cidrs: [10.77.2.2/32]"], &[])?;
    let file = lists.path().join("list.yaml");
    fs::write(&file, fs::read_to_string(&file)?.replace("mode: enforce", "mode: audit"))?;
    let program = lists.start(job, &[], &format!("{CONNECTS}\ncall(True)\ncall(False)"))?;
    let report = program.finish()?;
    assert!(report.errors.contains("1 attempt, ip_options\n"), "{}", report.errors);
    assert_eq!(report.events.len(), 1, "{:?}", report.events);
    let record = &report.events[0];
    assert_eq!((&record["dst"], &record["protocol"]), (&"10.77.2.2".into(), &"tcp".into()), "{record}");
    settle(&wire, &world)?;
    // SYN, ACK, data and FIN.
    assert!(wire.count(|frame| is_to(frame, caller) && has_options(frame)) >= 4, "no whole connection");
    assert_eq!(server.served(), 2);
    Ok(())
}
