//! Ways of sending that do not copy.

use std::net::UdpSocket;

use anyhow::Result;
use egress_warden_tests::job::Allowlists;

use super::{is_marked, is_to, settle, wire, world};

/// The same datagram by sendfile, splice and with MSG_ZEROCOPY; and a zero-copy SYN. First to the allowed place.
const SENDS: &str = r#"
file = os.memfd_create("payload")
def fresh(host):
    made = udp("0.0.0.0", 0)
    made.connect((host, 90))
    return made
def by_sendfile(host):
    os.ftruncate(file, 0)
    os.pwrite(file, MARK, 0)
    made = fresh(host)
    os.sendfile(made.fileno(), file, 0, len(MARK))
def by_splice(host):
    reader, writer = os.pipe()
    os.write(writer, MARK)
    made = fresh(host)
    os.splice(reader, made.fileno(), len(MARK))
def zero_copy(host):
    made = fresh(host)
    made.setsockopt(socket.SOL_SOCKET, 60, 1)
    made.send(MARK, 0x4000000)
def zero_copy_stream(host):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, 60, 1)
    made.settimeout(2)
    made.connect((host, 91))
    made.send(MARK, 0x4000000)
for host in ["10.77.2.2", "10.77.3.2"]:
    say(*[how(lambda: way(host)) for way in [by_sendfile, by_splice, zero_copy, zero_copy_stream]])
"#;

#[test]
fn without_copying() -> Result<()> {
    let world = world()?;
    let (job, caller, outside) = (world.host("job"), world.host("caller"), world.host("outside"));
    let wire = wire(&world)?;
    let service = |host: &egress_warden_tests::Host| {
        egress_warden_tests::server::Server::tcp_greeter(host, host.at(91), b"hello")
    };
    let (_allowed, _refused) = (service(caller)?, service(outside)?);
    // Somebody listens, so that no ICMP error comes back and is taken for a refusal.
    let _sinks = [caller, outside].map(|host| host.enter(|| UdpSocket::bind("0.0.0.0:90")));
    let lists = Allowlists::new(&["cidrs: [10.77.2.2/32], ports: [\"90/udp\", 91]"], &[])?;
    let mut program = lists.start(job, &[], SENDS)?;
    program.expect("ok ok ok ok")?;
    program.expect("EPERM EPERM EPERM EPERM")?;
    program.finish()?.assert_refused(&[("not_allowlisted", 4)]);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, outside)), 0);
    assert_eq!(wire.count(|frame| is_to(frame, caller) && frame.is_udp() && is_marked(frame)), 3);
    assert!(wire.count(|frame| is_to(frame, caller) && frame.is_tcp() && is_marked(frame)) >= 1);
    Ok(())
}
