//! Audit: everything passes, and the same attempts are counted for the same reasons.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use anyhow::Result;
use egress_warden_tests::Namespace;

use crate::refusals::{DENY, ENTRIES, PLACES, attempts_at_all, by_reason, expected, ip_protocol};
use crate::support::{Allowlists, Scene};

const KINDS: [&str; 4] = ["tcp", "udp", "udp_connected", "ping"];

#[test]
fn everything_passes_and_the_same_attempts_are_counted() -> Result<()> {
    let scene = Scene::new()?;
    scene.allow_ping_sockets()?;
    let allowlists = Allowlists::new(ENTRIES, &format!("mode: audit\n{DENY}"))?;
    let report = allowlists.python(scene.job(), &attempts_at_all(&KINDS, 2))?;
    scene.settle()?;
    assert!(report.attempts().iter().all(|attempt| !attempt.is_refused()), "{}", report.output);
    for (address, port, _) in PLACES {
        for kind in KINDS {
            let place = SocketAddr::new(address.parse()?, port);
            assert!(scene.arrived(ip_protocol(kind, address), place) > 0, "{kind} {place}: nothing arrived");
        }
    }
    let expected = expected(&KINDS, 2);
    assert_eq!(report.refused(), (expected.values().sum(), by_reason(&expected)), "{}", report.summary);
    // More than may be written at once: records and what was not written make up the whole.
    assert_eq!(report.events.len() as u64 + report.note("records were not written"), report.refused().0);
    assert!(report.events.iter().all(|event| event["mode"] == "audit"));
    Ok(())
}

/// Reads one connection to its end on a thread, and returns how much came.
fn sink(namespace: &Namespace, at: SocketAddr) -> Result<thread::JoinHandle<std::io::Result<usize>>> {
    let listener = namespace.enter(|| TcpListener::bind(at))?;
    Ok(thread::spawn(move || {
        let mut received = Vec::new();
        listener.accept()?.0.read_to_end(&mut received)
    }))
}

#[test]
fn a_tcp_flow_of_many_segments_counts_once_and_every_datagram_once() -> Result<()> {
    const LENGTH: usize = 4 << 20;
    let scene = Scene::new()?;
    let allowlists = Allowlists::new(ENTRIES, "mode: audit")?;
    let places = ["10.88.0.9:7000", "[fd88::9]:7000"];
    let sinks: Vec<_> =
        places.iter().map(|place| sink(scene.outside(), place.parse()?)).collect::<Result<_>>()?;
    let program = format!(
        r#"
for address in ("10.88.0.9", "fd88::9"):
    with socket.create_connection((address, 7000)) as s:
        s.sendall(b"x" * {LENGTH})
    with socket.socket(family(address), SOCK_DGRAM) as s:
        for _ in range(10):
            s.sendto(b"x", (address, 9))
        s.connect((address, 9))
        for _ in range(10):
            errno_of(s.send, b"x")
"#
    );
    let report = allowlists.python(scene.job(), &program)?;
    for sink in sinks {
        assert_eq!(sink.join().expect("the sink does not panic")?, LENGTH);
    }
    scene.settle()?;
    for place in places {
        assert!(scene.arrived(6, place.parse()?) > 50, "one segment is no flow");
    }
    let kinds = report.kinds();
    assert_eq!(kinds.get("not_allowlisted tcp 10.88.0.9 7000"), Some(&1), "{kinds:?}");
    assert_eq!(kinds.get("not_allowlisted tcp fd88::9 7000"), Some(&1), "{kinds:?}");
    for address in ["10.88.0.9", "fd88::9"] {
        // A "port unreachable" that came back may have taken the place of a send on the connected socket.
        let arrived = scene.arrived(17, SocketAddr::new(address.parse()?, 9)) as u64;
        assert!(arrived > 10, "{arrived}");
        assert_eq!(kinds.get(&format!("not_allowlisted udp {address} 9")), Some(&arrived));
    }
    assert_eq!(report.refused().0, kinds.values().sum::<u64>(), "{}", report.summary);
    Ok(())
}

#[test]
fn audit_never_quarantines_but_says_when_it_would_have() -> Result<()> {
    let scene = Scene::new()?;
    let policy = "mode: audit\nquarantine: {violations: 5, within: 60s, action: isolate}";
    let allowlists = Allowlists::new(ENTRIES, policy)?;
    let program = "for _ in range(20):\n    attempt('udp', '10.88.0.9', 80)\n\
                   for _ in range(5):\n    attempt('udp', '10.77.2.2', 53)";
    let report = allowlists.python(scene.job(), program)?;
    scene.settle()?;
    assert_eq!(scene.arrived(17, "10.88.0.9:80".parse()?), 20);
    assert_eq!(scene.arrived(17, "10.77.2.2:53".parse()?), 5);
    assert_eq!(report.refused().0, 20, "{}", report.summary);
    assert!(report.summary.contains("\n  would have been quarantined after "), "{}", report.summary);
    assert!(report.summary.contains(": 5 violations within 60 s"), "{}", report.summary);
    assert!(report.events.iter().all(|event| event["reason"] == "not_allowlisted"));
    Ok(())
}
