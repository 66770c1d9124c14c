//! Packets whose headers are made by hand: what hides where it goes is refused for that, and once for each packet.

use std::fs;

use anyhow::Result;
use egress_warden_tests::job::{Allowlists, Report};

use super::{is_marked, settle, wire, world};

/// Everything goes to the allowed place, by every port of TCP and UDP, so that the shape alone is what is refused.
const ALLOWED: &[&str] = &["cidrs: [10.77.2.2/32, \"fd77:2::2/128\"]"];
const RAW: &[&str] = &["raw: [icmp, icmpv6]"];
const OPTIONS: &[&str] = &["--keep-caps", "NET_RAW"];

/// Sends `packets`, pairs of a name and the packet, and says how each went.
const SEND: &str = r#"
raw = raw4() if VERSION == 4 else raw6()
for name, packet in packets:
    say(name, how(lambda: raw.sendto(packet, (THERE, 0))))
"#;

/// A datagram whose header says another length.
const LYING: &str = r#"
def lying(length):
    return struct.pack("!HHHH", 9, 90, length, 0) + MARK
"#;

const V4: &str = r#"
VERSION, HERE, THERE = 4, "10.77.1.2", "10.77.2.2"
def make(protocol, payload, **more):
    return ipv4(HERE, THERE, protocol, payload, **more)
"#;

const V6: &str = r#"
VERSION, HERE, THERE = 6, "fd77:1::2", "fd77:2::2"
def make(following, payload, to=THERE):
    return ipv6(HERE, to, following, payload)
def claims(packet, length):
    return packet[:4] + struct.pack("!H", length) + packet[6:]
def extension(following, units=0):
    return bytes([following, units]) + bytes(6 + 8 * units)
def fragment(following, offset):
    return struct.pack("!BBHI", following, 0, offset << 3, 7)
"#;

/// Sends packets, of which those without a reason pass. Asserts verdicts, counters, records and frames.
fn check(setup: &str, packets: &str, expected: &[(&str, Option<&str>)]) -> Result<Report> {
    let world = world()?;
    let wire = wire(&world)?;
    let lists = Allowlists::new(ALLOWED, RAW)?;
    let program = format!("{LYING}{setup}\npackets = [{packets}]\n{SEND}");
    let mut program = lists.start(world.host("job"), OPTIONS, &program)?;
    for (name, reason) in expected {
        program.expect(&format!("{name} {}", if reason.is_some() { "EPERM" } else { "ok" }))?;
    }
    let report = program.finish()?;
    let reasons = expected.iter().filter_map(|(_, reason)| *reason);
    let mut counts = std::collections::BTreeMap::new();
    reasons.for_each(|reason| *counts.entry(reason).or_insert(0) += 1);
    report.assert_refused(&counts.into_iter().collect::<Vec<_>>());
    settle(&wire, &world)?;
    let passed = expected.iter().filter(|(_, reason)| reason.is_none()).count();
    assert_eq!(wire.count(is_marked), passed);
    Ok(report)
}

#[test]
fn ipv4() -> Result<()> {
    let packets = r#"
        ("plain", make(17, datagram(9, 90))),
        ("source-route", make(17, datagram(9, 90), ihl=7, options=b"\x83\x07\x04" + bytes([10, 77, 3, 2]) + b"\0")),
        ("no-operation", make(17, datagram(9, 90), ihl=6, options=b"\1\1\1\0")),
        ("later-fragment", make(17, datagram(9, 90), fragment=3)),
        ("last-fragment", make(17, MARK, fragment=0x1fff)),
        ("no-ports", make(17, b"\0\x09")),
        ("no-flags", make(6, bytes(12))),
        ("no-type", make(1, b"")),
        ("half-a-message", make(1, bytes([8, 0, 0, 0, 0, 0, 0]))),
        ("hollow-datagram", make(17, lying(200))),
        ("hidden-behind", make(17, lying(8))),
        ("no-tcp-header", make(6, bytes(12) + bytes([4 << 4, 2]) + bytes(6) + MARK)),
        ("tcp-options-beyond", make(6, bytes(12) + bytes([15 << 4, 2]) + bytes(6) + MARK)),
        ("first-fragment", make(17, datagram(9, 90), fragment=0x2000))"#;
    check(
        V4,
        packets,
        &[
            ("plain", None),
            ("source-route", Some("ip_options")),
            ("no-operation", Some("ip_options")),
            ("later-fragment", Some("fragment")),
            ("last-fragment", Some("fragment")),
            ("no-ports", Some("malformed")),
            ("no-flags", Some("malformed")),
            ("no-type", Some("malformed")),
            ("half-a-message", Some("malformed")),
            ("hollow-datagram", Some("malformed")),
            ("hidden-behind", Some("malformed")),
            ("no-tcp-header", Some("malformed")),
            ("tcp-options-beyond", Some("malformed")),
            // It shows its ports; what follows it is refused, so nobody can put it together.
            ("first-fragment", None),
        ],
    )?;
    Ok(())
}

#[test]
fn ipv6() -> Result<()> {
    let packets = r#"
        ("plain", make(17, datagram(9, 90))),
        ("options", make(60, extension(17, 1) + datagram(9, 90))),
        ("whole-fragment", make(44, fragment(17, 0) + datagram(9, 90))),
        ("chain", make(60, extension(60) * 6 + extension(44) + fragment(17, 0) + datagram(9, 90))),
        ("long-chain", make(60, extension(60) * 8 + extension(17) + datagram(9, 90))),
        ("routing", make(43, bytes([17, 2, 0, 1]) + bytes(4) + socket.inet_pton(socket.AF_INET6, "fd77:3::2")
            + datagram(9, 90))),
        ("routing-behind", make(60, extension(43) + bytes([17, 0]) + bytes(6) + datagram(9, 90))),
        ("later-fragment", make(44, fragment(17, 3) + datagram(9, 90))),
        ("cut-chain", make(60, bytes([17, 200]) + MARK)),
        ("cut-extension", make(60, b"\x11\0")),
        ("no-ports", make(17, b"\0")),
        ("longer-than-it-is", claims(make(17, datagram(9, 90)), 34)),
        ("shorter-than-its-headers", claims(make(17, datagram(9, 90)), 7)),
        ("nothing-behind", claims(make(17, datagram(9, 90)), 0)),
        ("shorter-than-its-chain", claims(make(60, extension(17, 1) + datagram(9, 90)), 15)),
        ("half-a-message", make(58, bytes([128, 0, 0, 0, 0, 0, 0]))),
        ("hollow-datagram", make(17, lying(200))),
        ("hidden-behind", make(17, lying(8))),
        ("no-tcp-header", make(6, bytes(12) + bytes([4 << 4, 2]) + bytes(6) + MARK)),
        ("mapped", make(17, datagram(9, 90), to="::ffff:10.77.2.2")),
        ("no-next", make(59, MARK))"#;
    check(
        V6,
        packets,
        &[
            ("plain", None),
            ("options", None),
            ("whole-fragment", None),
            ("chain", None),
            ("long-chain", Some("malformed")),
            ("routing", Some("routing_header")),
            ("routing-behind", Some("routing_header")),
            ("later-fragment", Some("fragment")),
            ("cut-chain", Some("malformed")),
            ("cut-extension", Some("malformed")),
            ("no-ports", Some("malformed")),
            ("longer-than-it-is", Some("malformed")),
            ("shorter-than-its-headers", Some("malformed")),
            ("nothing-behind", Some("malformed")),
            ("shorter-than-its-chain", Some("malformed")),
            ("half-a-message", Some("malformed")),
            ("hollow-datagram", Some("malformed")),
            ("hidden-behind", Some("malformed")),
            ("no-tcp-header", Some("malformed")),
            ("mapped", Some("malformed")),
            ("no-next", Some("protocol_not_allowed")),
        ],
    )?;
    Ok(())
}

#[test]
fn other_protocols() -> Result<()> {
    let numbers = [2, 4, 33, 41, 47, 50, 94, 115, 132, 136, 255];
    for setup in [V4, V6] {
        let packets = format!("*[(str(number), make(number, MARK)) for number in {numbers:?}]");
        let names = numbers.map(|number| number.to_string());
        let expected: Vec<_> =
            names.iter().map(|name| (name.as_str(), Some("protocol_not_allowed"))).collect();
        let report = check(setup, &packets, &expected)?;
        assert!(report.events.iter().all(|event| event["protocol"] == "other"), "{:?}", report.events);
    }
    Ok(())
}

#[test]
fn a_destination_that_the_header_alone_names() -> Result<()> {
    let world = world()?;
    let wire = wire(&world)?;
    let lists = Allowlists::new(ALLOWED, RAW)?;
    // The address that the call names picks the next hop; the header says where the packet goes.
    let program = r#"
raw = raw4()
say(how(lambda: raw.sendto(ipv4("10.77.1.2", "10.77.3.2", 17, datagram(9, 90)), ("10.77.2.2", 0))))
say(how(lambda: raw.sendto(ipv4("10.77.1.2", "10.77.2.2", 17, datagram(9, 90)), ("10.77.2.2", 0))))
"#;
    let mut program = lists.start(world.host("job"), OPTIONS, program)?;
    program.expect("EPERM")?;
    program.expect("ok")?;
    let report = program.finish()?;
    report.assert_refused(&[("not_allowlisted", 1)]);
    assert_eq!(report.events[0]["dst"], "10.77.3.2");
    settle(&wire, &world)?;
    assert_eq!(wire.count(is_marked), 1);
    Ok(())
}

/// A plain datagram, then two whose lengths lie, over each version.
const LIES: &str = r#"
def send(version, packet, to):
    raw = raw4() if version == 4 else raw6()
    return how(lambda: raw.sendto(packet, (to, 0)))
FOUR, SIX = ("10.77.1.2", "10.77.2.2"), ("fd77:1::2", "fd77:2::2")
def lies():
    tall = ipv6(*SIX, 17, datagram(9, 90))
    return [send(4, ipv4(*FOUR, 17, lying(200)), FOUR[1]), send(6, tall[:4] + b"\x00\xff" + tall[6:], SIX[1])]
def plain():
    return [send(4, ipv4(*FOUR, 17, datagram(9, 90)), FOUR[1]), send(6, ipv6(*SIX, 17, datagram(9, 90)), SIX[1])]
say(*plain(), *lies(), *lies(), *plain())
"#;

#[test]
fn lying_lengths_in_audit() -> Result<()> {
    let world = world()?;
    let wire = wire(&world)?;
    let lists = Allowlists::new(ALLOWED, RAW)?;
    let file = lists.path().join("list.yaml");
    fs::write(&file, fs::read_to_string(&file)?.replace("mode: enforce", "mode: audit"))?;
    let mut program = lists.start(world.host("job"), OPTIONS, &format!("{LYING}{LIES}"))?;
    program.expect("ok ok ok ok ok ok ok ok")?;
    let report = program.finish()?;
    assert!(report.errors.contains("  would refuse 4 attempts, malformed\n"), "{}", report.errors);
    settle(&wire, &world)?;
    assert_eq!(wire.count(is_marked), 8);
    Ok(())
}

#[test]
fn lying_lengths_lead_to_quarantine_and_are_told_as_such_in_it() -> Result<()> {
    let world = world()?;
    let wire = wire(&world)?;
    let lists = Allowlists::new(ALLOWED, &[RAW[0], "quarantine: {violations: 2, within: 60s}"])?;
    let mut program = lists.start(world.host("job"), OPTIONS, &format!("{LYING}{LIES}"))?;
    program.expect("ok ok EPERM EPERM EPERM EPERM EPERM EPERM")?;
    let report = program.finish()?;
    report.assert_refused(&[("malformed", 4), ("quarantined", 2)]);
    settle(&wire, &world)?;
    assert_eq!(wire.count(is_marked), 2);
    Ok(())
}
