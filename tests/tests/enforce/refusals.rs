//! Enforce: what is refused, at once and for the right reason, and what is not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use crate::support::{Allowlists, Attempted, Scene};

/// Every reason that an address, a port or a protocol can have, in both families.
pub(crate) const ENTRIES: &str = r#"
- cidrs: [10.77.2.2/32, "fd77:2::2/128"]
  ports: [80, 53/udp]
  icmp: [echo-request]
  why: services
- cidrs: [10.88.1.0/24, "fd88:1::/64", 169.254.0.0/16, "fd00:ec2::/32"]
  why: ranges with something denied in them
- cidrs: [10.88.2.0/24, "fd88:2::/64"]
  except: [10.88.2.1/32, "fd88:2::1/128"]
  ports: [443]
  why: a range with a hole
"#;

/// The `spec` that belongs to [`ENTRIES`].
pub(crate) const DENY: &str = "deny: [10.88.1.1/32, \"fd88:1::1/128\"]";

/// Address, port, and the reason for each of TCP, UDP and ICMP; "" where it is allowed.
type Place = (&'static str, u16, [&'static str; 3]);

const NOT: &str = "not_allowlisted";
const PORT: &str = "port_not_allowed";
const PROTOCOL: &str = "protocol_not_allowed";

pub(crate) const PLACES: [Place; 18] = [
    ("10.77.2.2", 80, ["", PORT, ""]),
    ("fd77:2::2", 80, ["", PORT, ""]),
    ("10.77.2.2", 53, [PORT, "", ""]),
    ("fd77:2::2", 53, [PORT, "", ""]),
    ("10.88.0.9", 80, [NOT, NOT, NOT]),
    ("fd88::9", 80, [NOT, NOT, NOT]),
    ("10.88.1.1", 80, ["denied"; 3]),
    ("fd88:1::1", 80, ["denied"; 3]),
    ("10.88.1.2", 80, ["", "", PROTOCOL]),
    ("fd88:1::2", 80, ["", "", PROTOCOL]),
    ("10.88.2.1", 443, [NOT, NOT, NOT]),
    ("fd88:2::1", 443, [NOT, NOT, NOT]),
    ("10.88.2.2", 443, ["", PROTOCOL, PROTOCOL]),
    ("fd88:2::2", 443, ["", PROTOCOL, PROTOCOL]),
    ("10.88.2.2", 444, [PORT, PROTOCOL, PROTOCOL]),
    ("fd88:2::2", 444, [PORT, PROTOCOL, PROTOCOL]),
    ("169.254.169.254", 80, ["denied"; 3]),
    ("fd00:ec2::254", 80, ["denied"; 3]),
];

/// A kind of attempt, and which of a place's reasons is its own.
const KINDS: [(&str, &str, usize); 4] =
    [("tcp", "tcp", 0), ("udp", "udp", 1), ("udp_connected", "udp", 1), ("ping", "icmp", 2)];

pub(crate) const REPEATS: u64 = 3;

/// The Python that makes every attempt of `kinds` at every place.
pub(crate) fn attempts_at_all(kinds: &[&str], repeats: u64) -> String {
    let mut program = String::new();
    for (address, port, _) in PLACES {
        for kind in kinds {
            for _ in 0..repeats {
                program.push_str(&format!("attempt('{kind}', '{address}', {port})\n"));
            }
        }
    }
    program
}

/// How many records of which kind these attempts must leave.
pub(crate) fn expected(kinds: &[&str], repeats: u64) -> BTreeMap<String, u64> {
    let mut expected = BTreeMap::new();
    for (address, port, reasons) in PLACES {
        for (kind, protocol, index) in KINDS.iter().filter(|(kind, ..)| kinds.contains(kind)) {
            let reason = reasons[*index];
            if !reason.is_empty() {
                let port = if *kind == "ping" { echo_request(address) } else { port };
                *expected.entry(format!("{reason} {protocol} {address} {port}")).or_default() += repeats;
            }
        }
    }
    expected
}

/// The type of an echo request, which stands where others have a port.
fn echo_request(address: &str) -> u16 {
    if address.contains(':') { 128 } else { 8 }
}

/// The sums of [`expected`] by reason.
pub(crate) fn by_reason(expected: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (kind, count) in expected {
        let reason = kind.split(' ').next().unwrap_or_default();
        *sums.entry(reason.to_owned()).or_default() += count;
    }
    sums
}

/// The number of the IP protocol that carries this kind of attempt to this address.
pub(crate) fn ip_protocol(kind: &str, address: &str) -> u8 {
    match (kind, address.contains(':')) {
        ("tcp", _) => 6,
        ("ping", false) => 1,
        ("ping", true) => 58,
        _ => 17,
    }
}

/// Linux does not tell the sender of an ICMPv6 ping socket what became of its packet (`ping_v6_sendmsg`).
fn keeps_quiet(attempt: &Attempted) -> bool {
    attempt.what.starts_with("ping ") && attempt.what.contains(':') && attempt.errno == 0
}

/// Everything of these kinds: what is refused leaves no frame, fails at once and is counted, what is allowed arrives.
fn judged(kinds: &[&str]) -> Result<()> {
    let scene = Scene::new()?;
    scene.allow_ping_sockets()?;
    let allowlists = Allowlists::new(ENTRIES, &format!("mode: enforce\n{DENY}"))?;
    let report = allowlists.python(scene.job(), &attempts_at_all(kinds, REPEATS))?;
    scene.settle()?;
    let attempts = report.attempts();
    for (address, port, reasons) in PLACES {
        for (kind, _, index) in KINDS.iter().filter(|(kind, ..)| kinds.contains(kind)) {
            let what = format!("{kind} {address} {port}");
            let place = SocketAddr::new(address.parse()?, port);
            let arrived = scene.arrived(ip_protocol(kind, address), place);
            let mine: Vec<&Attempted> = attempts.iter().filter(|attempt| attempt.what == what).collect();
            assert_eq!(mine.len() as u64, REPEATS, "{what}: {report:?}");
            if reasons[*index].is_empty() {
                assert!(arrived > 0, "{what}: nothing arrived");
                assert!(mine.iter().all(|attempt| !attempt.is_refused()), "{what}: {mine:?}");
            } else {
                assert_eq!(arrived, 0, "{what}: frames arrived");
                assert!(
                    mine.iter().all(|attempt| attempt.is_refused() || keeps_quiet(attempt)),
                    "{what}: {mine:?}"
                );
                // The quickest, because a loaded machine may keep any single one waiting.
                let quickest = mine.iter().map(|attempt| attempt.elapsed).min();
                assert!(quickest < Some(Duration::from_millis(100)), "{what}: {mine:?}");
            }
        }
    }
    let expected = expected(kinds, REPEATS);
    let total: u64 = expected.values().sum();
    assert_eq!(report.refused(), (total, by_reason(&expected)), "{}", report.summary);
    assert_eq!(report.kinds(), expected);
    Ok(())
}

#[test]
fn tcp_connect_is_judged() -> Result<()> {
    judged(&["tcp"])
}

#[test]
fn udp_sendto_is_judged() -> Result<()> {
    judged(&["udp"])
}

#[test]
fn datagrams_of_a_connected_socket_are_judged() -> Result<()> {
    judged(&["udp_connected"])
}

#[test]
fn ping_is_judged() -> Result<()> {
    judged(&["ping"])
}

#[test]
fn a_record_names_the_rule_that_refused_or_came_nearest() -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = Allowlists::new(ENTRIES, &format!("mode: enforce\n{DENY}"))?;
    let report = allowlists.python(scene.job(), &attempts_at_all(&["tcp"], 1))?;
    let services = allowlists.place_of("cidrs: [10.77.2.2/32")?;
    let hole = allowlists.place_of("cidrs: [10.88.2.0/24")?;
    let deny_v4 = allowlists.place_of("10.88.1.1/32")?;
    let deny_v6 = allowlists.place_of("\"fd88:1::1/128\"")?;
    let metadata = |what: &str| format!("{what}; `metadata: true` opens it where an entry covers it");
    let rule_of = |address: &str, port: u16| {
        let found = report.events.iter().find(|event| event["dst"] == address && event["port"] == port);
        found.unwrap_or_else(|| panic!("no record of {address} {port}"))["rule"].clone()
    };
    assert_eq!(rule_of("10.77.2.2", 53), services);
    assert_eq!(rule_of("fd77:2::2", 53), services);
    assert_eq!(rule_of("10.88.2.2", 444), hole);
    assert_eq!(rule_of("10.88.1.1", 80), deny_v4);
    assert_eq!(rule_of("fd88:1::1", 80), deny_v6);
    assert_eq!(
        rule_of("169.254.169.254", 80),
        metadata("instance metadata of AWS, Azure, Google Cloud and others")
    );
    assert_eq!(rule_of("fd00:ec2::254", 80), metadata("instance metadata of AWS over IPv6"));
    assert!(rule_of("10.88.0.9", 80).is_null() && rule_of("fd88::9", 80).is_null());
    Ok(())
}

#[test]
fn metadata_true_opens_what_an_entry_covers() -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = Allowlists::new(ENTRIES, "mode: enforce\nmetadata: true")?;
    let program = "attempt('tcp', '169.254.169.254', 80)\nattempt('tcp', 'fd00:ec2::254', 80)\n\
                   attempt('tcp', '10.88.0.9', 80)";
    let report = allowlists.python(scene.job(), program)?;
    scene.settle()?;
    assert!(scene.arrived(6, "169.254.169.254:80".parse()?) > 0, "{report:?}");
    assert!(scene.arrived(6, "[fd00:ec2::254]:80".parse()?) > 0, "{report:?}");
    assert_eq!(scene.arrived(6, "10.88.0.9:80".parse()?), 0);
    assert_eq!(report.refused().0, 1, "{}", report.summary);
    Ok(())
}

#[test]
fn connecting_a_datagram_socket_is_neither_refused_nor_counted() -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = Allowlists::enforce(ENTRIES)?;
    let program = r#"
for address in ("10.88.0.9", "fd88::9"):
    for _ in range(5):
        attempt("connect_only", address, 80)
    with socket.socket(family(address), SOCK_DGRAM) as s:
        s.connect((address, 80))
        for _ in range(7):
            print("sent", errno_of(s.send, b"x"))
attempt("udp", "10.77.2.2", 53)
"#;
    let report = allowlists.python(scene.job(), program)?;
    scene.settle()?;
    let connects = report.attempts();
    assert!(connects.iter().all(|attempt| attempt.errno == 0), "{connects:?}");
    assert_eq!(report.output.matches(&format!("sent {}\n", libc::EPERM)).count(), 14, "{}", report.output);
    assert_eq!(report.refused().0, 14, "{}", report.summary);
    assert_eq!(report.events.len(), 14);
    for place in ["10.88.0.9:80", "[fd88::9]:80"] {
        assert_eq!(scene.arrived(17, place.parse()?), 0);
    }
    assert_eq!(scene.arrived(17, "10.77.2.2:53".parse()?), 1);
    Ok(())
}
