//! Sockets whose packets could not be judged are not made; `raw` opens some that can.

use std::fs;

use anyhow::{Context, Result};
use egress_warden_tests::bpf::{ALLOW_MULTI, SOCK_CREATE, UNDO, attach};
use egress_warden_tests::job::{Allowlists, Report, outsider};
use egress_warden_tests::{Frame, TestCgroup, World};

use super::{is_marked, is_to, settle, wire, world};

const KEEP_RAW: &[&str] = &["--keep-caps", "NET_RAW"];
/// Everything goes to the caller: TCP, UDP and every ICMP message.
const ALLOWED: &[&str] = &["cidrs: [10.77.2.2/32, \"fd77:2::2/128\"], icmp: all"];

/// One socket of each kind; what it says is how that went.
const MAKES: &str = r#"
FOUR, SIX = socket.AF_INET, socket.AF_INET6
STREAM, DGRAM, RAW = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
def make(*kind):
    return how(lambda: socket.socket(*kind).close())
def judged():
    """What every job may make."""
    ping = [(FOUR, DGRAM, 1), (SIX, DGRAM, 58)]
    plain = [(family, kind, 0) for family in (FOUR, SIX) for kind in (STREAM, DGRAM)]
    return " ".join(make(*kind) for kind in ping + plain + [(FOUR, STREAM, 262), (SIX, STREAM, 262)])
def exotic():
    return " ".join(make(family, DGRAM, 136) for family in (FOUR, SIX))
def raw(*protocols):
    return " ".join(make(family, RAW, protocol) for protocol in protocols for family in (FOUR, SIX))
"#;

/// A world in which ping sockets may be made: the kernel's own rule must not be what refuses them.
fn world_with_ping() -> Result<World> {
    let world = world()?;
    world.host("job").enter(|| fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"))?;
    Ok(world)
}

/// The same lists with another mode.
fn in_mode(lists: Allowlists, mode: &str) -> Result<Allowlists> {
    let file = lists.path().join("list.yaml");
    fs::write(&file, fs::read_to_string(&file)?.replace("mode: enforce", &format!("mode: {mode}")))?;
    Ok(lists)
}

/// How many records there are of each protocol; each names the process and no destination.
fn recorded(report: &Report) -> Result<Vec<(String, usize)>> {
    let mut found = std::collections::BTreeMap::new();
    for event in &report.events {
        assert_eq!(event["reason"], "socket_type", "{event}");
        assert!(event["dst"].is_null() && event["port"].is_null() && event["src"].is_null(), "{event}");
        assert!(event["comm"] == "python3" && event["pid"].is_u64(), "{event}");
        let protocol = event["protocol"].as_str().context("a name")?;
        *found.entry(protocol.to_owned()).or_default() += 1;
    }
    Ok(found.into_iter().collect())
}

#[test]
fn what_cannot_be_judged_is_not_made() -> Result<()> {
    let world = world_with_ping()?;
    let job = world.host("job");
    let says = "say(judged())\nsay(exotic())\nsay(raw(1, 6, 17, 58, 47, 255))";
    // The control: who is under no policy makes every one of them.
    let mut free = outsider(job, &format!("{MAKES}{says}"))?;
    for count in [8, 2, 12] {
        free.expect(&["ok"; 12][..count].join(" "))?;
    }
    free.finish()?;
    let lists = Allowlists::new(ALLOWED, &[])?;
    let mut program = lists.start(job, KEEP_RAW, &format!("{MAKES}{says}"))?;
    program.expect(&["ok"; 8].join(" "))?;
    program.expect("EPROTONOSUPPORT EPROTONOSUPPORT")?;
    program.expect(&["EPERM"; 12].join(" "))?;
    let report = program.finish()?;
    report.assert_refused(&[("socket_type", 14)]);
    let counts = [("icmp", 4), ("other", 6), ("tcp", 2), ("udp", 2)];
    assert_eq!(recorded(&report)?, counts.map(|(name, count)| (name.to_owned(), count)));
    assert!(
        report.errors.contains("2  a raw socket of protocol 47  socket_type  by python3"),
        "{}",
        report.errors
    );
    assert!(report.errors.contains("2  a datagram socket of protocol 136  socket_type"), "{}", report.errors);
    Ok(())
}

#[test]
fn audit_lets_them_be_made_and_counts_them() -> Result<()> {
    let world = world()?;
    let wire = wire(&world)?;
    let lists = in_mode(Allowlists::new(ALLOWED, &[])?, "audit")?;
    let program = r#"
say(exotic(), raw(47))
for family, to in [(FOUR, "10.77.2.2"), (SIX, "fd77:2::2")]:
    say(how(lambda: socket.socket(family, RAW, 47).sendto(MARK, (to, 0))))
"#;
    let mut program = lists.start(world.host("job"), KEEP_RAW, &format!("{MAKES}{program}"))?;
    program.expect("ok ok ok ok")?;
    program.expect("ok")?;
    program.expect("ok")?;
    let report = program.finish()?;
    // Six sockets, and two packets that no entry allows.
    assert!(
        report.errors.contains("8 attempts: 2 protocol_not_allowed, 6 socket_type\n"),
        "{}",
        report.errors
    );
    assert!(report.events.iter().all(|event| event["mode"] == "audit"), "{:?}", report.events);
    settle(&wire, &world)?;
    assert_eq!(wire.count(is_marked), 2);
    Ok(())
}

#[test]
fn sockets_count_toward_quarantine_and_are_refused_in_it() -> Result<()> {
    let world = world()?;
    let wire = wire(&world)?;
    let lists = Allowlists::new(ALLOWED, &["quarantine: {violations: 3, within: 60s}", "raw: [icmp]"])?;
    let program = r#"
out = udp("0.0.0.0", 0)
send = lambda: how(lambda: out.sendto(MARK, ("10.77.2.2", 90)))
say(send(), make(FOUR, RAW, 6), make(SIX, DGRAM, 136), send(), make(SIX, RAW, 6), send())
say(make(FOUR, RAW, 6), make(SIX, RAW, 47), make(SIX, DGRAM, 136), make(FOUR, RAW, 1), make(FOUR, DGRAM, 0))
"#;
    let mut program = lists.start(world.host("job"), KEEP_RAW, &format!("{MAKES}{program}"))?;
    program.expect("ok EPERM EPROTONOSUPPORT ok EPERM EPERM")?;
    // What the policy opens may be made: its packets stay in.
    program.expect("EPERM EPERM EPROTONOSUPPORT ok ok")?;
    let report = program.finish()?;
    report.assert_refused(&[("quarantined", 1), ("socket_type", 6)]);
    assert!(report.errors.contains("  quarantined after "), "{}", report.errors);
    settle(&wire, &world)?;
    assert_eq!(wire.count(is_marked), 2);
    Ok(())
}

/// `ping` as root sends by a raw socket where the kernel gives it no ping socket.
const PINGS: &str = r#"
def ping(family, to):
    six = family == SIX
    made = socket.socket(family, RAW, 58 if six else 1)
    made.settimeout(5)
    echo = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 7, 1) + MARK
    made.sendto(echo if six else echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:], (to, 0))
    while True:
        answer = made.recv(200)
        answer = answer if six else answer[20:]
        if answer[0] == (129 if six else 0) and answer[8:] == MARK:
            return
for family, allowed, other in [(FOUR, "10.77.2.2", "10.77.3.2"), (SIX, "fd77:2::2", "fd77:3::2")]:
    say(how(lambda: ping(family, allowed)), how(lambda: ping(family, other)))
say(raw(6), raw(255), make(FOUR, RAW, 58))
# With a header of one's own the protocol of the socket says nothing: the packet is judged.
own = raw4()
for to, protocol, payload in [("10.77.2.2", 17, datagram(9, 90)), ("10.77.3.2", 17, datagram(9, 90)), ("10.77.2.2", 47, MARK)]:
    say(how(lambda: own.sendto(ipv4("10.77.1.2", to, protocol, payload), (to, 0))))
"#;

#[test]
fn raw_opens_the_protocols_named_and_no_destination() -> Result<()> {
    let world = world()?;
    let (job, caller, outside) = (world.host("job"), world.host("caller"), world.host("outside"));
    let wire = wire(&world)?;
    let lists = Allowlists::new(ALLOWED, &["raw: [icmp, 58]"])?;
    let mut program = lists.start(job, KEEP_RAW, &format!("{MAKES}{PINGS}"))?;
    for _ in 0..2 {
        program.expect("ok EPERM")?;
    }
    program.expect("EPERM EPERM EPERM EPERM ok")?;
    for said in ["ok", "EPERM", "EPERM"] {
        program.expect(said)?;
    }
    let report = program.finish()?;
    report.assert_refused(&[("not_allowlisted", 3), ("protocol_not_allowed", 1), ("socket_type", 4)]);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_marked(frame) && is_to(frame, caller)), 3, "two echoes and a datagram");
    assert_eq!(wire.count(|frame: &Frame| is_to(frame, outside)), 0);
    Ok(())
}

#[test]
fn an_undone_refusal_lets_no_packet_out() -> Result<()> {
    let world = world()?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let wire = wire(&world)?;
    let cgroup = TestCgroup::new()?;
    attach(&cgroup, SOCK_CREATE, UNDO, ALLOW_MULTI)?;
    let lists = Allowlists::new(ALLOWED, &[])?;
    let program = r#"
for family, kind, protocol, to in [(FOUR, DGRAM, 136, "10.77.3.2"), (SIX, DGRAM, 136, "fd77:2::2")]:
    made = socket.socket(family, kind, protocol)
    say(how(lambda: made.sendto(MARK, (to, 90))))
say(how(lambda: udp("0.0.0.0", 0).sendto(MARK, ("10.77.2.2", 90))))
"#;
    let mut program = lists.start_below(&cgroup, job, &format!("{MAKES}{program}"))?;
    program.expect("EPERM")?;
    program.expect("EPERM")?;
    program.expect("ok")?;
    let report = program.finish()?;
    report.assert_refused(&[("not_allowlisted", 1), ("protocol_not_allowed", 1), ("socket_type", 2)]);
    settle(&wire, &world)?;
    assert_eq!(wire.count(is_marked), 1);
    assert_eq!(wire.count(|frame| is_to(frame, outside)), 0);
    Ok(())
}
