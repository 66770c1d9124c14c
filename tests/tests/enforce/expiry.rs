//! Expiry: closed from the very second on, for what begins and for what is under way, and closed while nobody knows the
//! time.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};

use anyhow::Result;
use egress_warden::kernel::clock::HostClock;
use egress_warden_common::Reason;
use egress_warden_common::decide::{Clock, UNSYNCHRONISED};
use egress_warden_tests::wait::{DEADLINE, until};

use crate::loaded::Enforced;
use crate::support::{Allowlists, Scene};

const ENTRIES: &str = r#"
- cidrs: [10.77.2.2/32, "fd77:2::2/128"]
  ports: [80, 53/udp]
  expires: 2090-01-01T00:00:00Z
  why: for a while
- cidrs: [10.88.1.2/32]
  why: for ever
"#;

/// The second of [`ENTRIES`], from which on it is closed.
const DEADLINE_SECONDS: u64 = 3_786_912_000;

fn closes(place: &str, datagrams: &str) -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = Allowlists::enforce(ENTRIES)?;
    let mut enforced = Enforced::new(allowlists.path(), scene.job())?;
    let (place, datagrams): (SocketAddr, SocketAddr) = (place.parse()?, datagrams.parse()?);
    let listener = scene.outside().enter(|| TcpListener::bind(place))?;
    let _sink = scene.outside().enter(|| std::net::UdpSocket::bind(datagrams))?;
    let mut python = enforced.python(scene.job())?;
    let to = |place: SocketAddr| format!("'{}', {}", place.ip(), place.port());
    let (tcp, udp) = (format!("tcp, {}", to(place)), format!("udp, {}", to(datagrams)));

    enforced.set_time(Some(DEADLINE_SECONDS - 3600))?;
    assert_eq!((python.errno_of(&tcp)?, python.errno_of(&udp)?), (0, 0), "before the deadline");
    python.tell(&format!("globals().update(c=socket.create_connection(({})))", to(place)))?;
    python.tell(&format!("globals().update(u=socket.socket(family('{}'), SOCK_DGRAM))", place.ip()))?;
    assert_eq!(python.errno_of(&format!("u.connect, ({})", to(datagrams)))?, 0);
    assert_eq!((python.errno_of("c.sendall, b'before'")?, python.errno_of("u.send, b'before'")?), (0, 0));
    // The second connection: the first one was made and closed by the attempt.
    listener.accept()?;
    let mut stream = listener.accept()?.0;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.read_exact(&mut [0; 6])?;
    assert_eq!(enforced.total()?, 0);

    enforced.set_time(Some(DEADLINE_SECONDS))?;
    assert_eq!(python.errno_of(&tcp)?, libc::EPERM, "a new connection");
    assert_eq!(python.errno_of(&udp)?, libc::EPERM, "a datagram");
    assert_eq!(python.errno_of("u.send, b'after'")?, libc::EPERM, "a datagram of a connected socket");
    // TCP takes what it is given, and tries to send it again and again.
    for _ in 0..5 {
        assert_eq!(python.errno_of("c.sendall, b'after'")?, 0);
    }
    let tried_again = "struct.unpack('5B', c.getsockopt(6, 11, 5))[2:]";
    until("TCP tries again", DEADLINE, || {
        python.tell(tried_again).is_ok_and(|numbers| numbers != "(0, 0, 0)").then_some(())
    })?;
    stream.set_nonblocking(true)?;
    assert!(stream.read(&mut [0; 6]).is_err(), "data after the deadline");
    scene.settle()?;
    let late = scene.capture.count(|frame| frame.payload.starts_with(b"after"));
    assert_eq!(late, 0);
    assert_eq!(scene.payloads(datagrams), ["x", "before"]);
    // connect, sendto, send, and the established connection once, whatever it tried.
    assert_eq!((enforced.count(Reason::Expired)?, enforced.total()?), (4, 4));
    // Positive control, and the way back: an entry without a deadline, and a clock that is set back.
    assert_eq!(python.errno_of("udp, '10.88.1.2', 9")?, 0);
    enforced.set_time(Some(DEADLINE_SECONDS - 1))?;
    assert_eq!(python.errno_of(&udp)?, 0);
    enforced.set_time(None)?;
    assert_eq!(python.errno_of(&udp)?, libc::EPERM, "while nobody knows the time");
    assert_eq!(enforced.count(Reason::Expired)?, 5);
    Ok(())
}

#[test]
fn a_deadline_closes_what_begins_and_what_is_under_way() -> Result<()> {
    closes("10.77.2.2:80", "10.77.2.2:53")?;
    closes("[fd77:2::2]:80", "[fd77:2::2]:53")
}

#[test]
fn exec_keeps_entries_with_a_deadline_closed_while_the_clock_is_not_synchronised() -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = Allowlists::enforce(ENTRIES)?;
    let program = "for address in ('10.77.2.2', 'fd77:2::2'):\n    attempt('udp', address, 53)\n\
                   attempt('udp', '10.88.1.2', 9)";
    let report = allowlists.python(scene.job(), program)?;
    scene.settle()?;
    assert_eq!(scene.arrived(17, "10.88.1.2:9".parse()?), 1);
    let synchronised = HostClock.unix_seconds() != UNSYNCHRONISED;
    let arrived: usize = ["10.77.2.2:53", "[fd77:2::2]:53"]
        .iter()
        .map(|place| scene.payloads(place.parse().unwrap()).len())
        .sum();
    assert_eq!(arrived, if synchronised { 2 } else { 0 });
    assert_eq!(report.summary.contains("the clock is not synchronised"), !synchronised, "{}", report.summary);
    let expired = report.events.iter().filter(|event| event["reason"] == "expired").count();
    assert_eq!(expired, if synchronised { 0 } else { 2 });
    Ok(())
}

#[test]
fn an_entry_in_the_past_is_closed_and_named() -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = Allowlists::enforce(&ENTRIES.replace("2090", "2020"))?;
    let program =
        "attempt('tcp', '10.77.2.2', 80)\nattempt('tcp', 'fd77:2::2', 80)\nattempt('udp', '10.88.1.2', 9)";
    let report = allowlists.python(scene.job(), program)?;
    scene.settle()?;
    assert_eq!(scene.arrived(6, "10.77.2.2:80".parse()?) + scene.arrived(6, "[fd77:2::2]:80".parse()?), 0);
    assert_eq!(scene.arrived(17, "10.88.1.2:9".parse()?), 1);
    let entry = allowlists.place_of("cidrs: [10.77.2.2/32")?;
    assert_eq!(report.events.len(), 2);
    assert!(report.events.iter().all(|event| event["reason"] == "expired" && event["rule"] == entry));
    Ok(())
}
