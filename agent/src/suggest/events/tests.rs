use std::fs;

use proptest::prelude::*;

use super::*;
use crate::allowlist::AllowlistSet;
use crate::policy::NameRule;
use crate::records::Event;

fn event(reason: &str, dst: Option<&str>, port: u16, protocol: &str) -> Event {
    Event {
        time: "2026-01-02T03:04:05.678Z".into(),
        workload: "/job".into(),
        pid: Some(7),
        tgid: Some(7),
        comm: Some("curl".into()),
        src: None,
        dst: dst.map(|dst| dst.parse().expect("an address")),
        port: dst.map(|_| port),
        protocol: protocol.into(),
        name: None,
        reason: reason.into(),
        rule: None,
        mode: "audit".into(),
    }
}

fn tried(dst: &str, port: u16) -> Event {
    event("not_allowlisted", Some(dst), port, "tcp")
}

fn asked(name: &str) -> Event {
    Event { name: Some(name.into()), ..event("dns_name", Some("10.96.0.10"), 53, "udp") }
}

fn named(name: &str, dst: &str, port: u16) -> Event {
    Event { name: Some(name.into()), ..tried(dst, port) }
}

fn suggested(events: &[Event]) -> Result<String, EventsError> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("events.jsonl");
    let lines: Vec<u8> = events.iter().flat_map(|event| event.line().expect("JSON")).collect();
    fs::write(&path, lines).expect("write");
    suggest(&[path], "suggested")
}

fn set(events: &[Event]) -> (String, AllowlistSet) {
    let yaml = suggested(events).expect("a suggestion");
    let set = read_back(&yaml).expect("passes check");
    (yaml, set)
}

fn cidrs(set: &AllowlistSet) -> Vec<String> {
    let rules = set.destinations().iter().flat_map(|document| &document.rules);
    rules.flat_map(|rule| rule.cidrs.iter().map(ToString::to_string)).collect()
}

fn names(set: &AllowlistSet) -> Vec<NameRule> {
    set.destinations().iter().flat_map(|document| document.names.clone()).collect()
}

#[test]
fn neighbours_become_a_prefix_only_where_nothing_unseen_is_in_it() {
    let mut events: Vec<Event> = (4..8).map(|last| tried(&format!("192.0.2.{last}"), 443)).collect();
    // Neighbours too, on other ports; and one whose neighbour was not seen.
    events.extend([tried("192.0.2.3", 443), tried("192.0.2.8", 443), tried("192.0.2.9", 80)]);
    events.extend([tried("2001:db8::2", 443), tried("2001:db8::3", 443)]);
    let (yaml, set) = set(&events);
    assert_eq!(
        cidrs(&set),
        ["192.0.2.3/32", "192.0.2.4/30", "192.0.2.8/32", "192.0.2.9/32", "2001:db8::2/127"]
    );
    assert!(
        yaml.contains("    # 4 records to 443/tcp: not_allowlisted, by curl, at 2026-01-02T03:04:05Z\n"),
        "{yaml}"
    );
}

#[test]
fn one_host_is_one_entry_with_all_its_ports() {
    let mut later = event("port_not_allowed", Some("::ffff:192.0.2.1"), 53, "udp");
    later.time = "2026-01-02T04:04:05+00:30".into();
    later.comm = None;
    let ping = event("protocol_not_allowed", Some("192.0.2.1"), 8, "icmp");
    let (yaml, set) = set(&[later, tried("192.0.2.1", 8080), ping, tried("192.0.2.1", 8080)]);
    assert_eq!(cidrs(&set), ["192.0.2.1/32"]);
    assert!(yaml.contains("ports: [8080, \"53/udp\"]\n      icmp: [echo-request]\n"), "{yaml}");
    for line in [
        "# 2 records to 8080/tcp: not_allowlisted, by curl, at 2026-01-02T03:04:05Z",
        "# 1 record to 53/udp: port_not_allowed, by a process that is not known, at 2026-01-02T03:34:05Z",
        "# 4 records of 1 workload, 2026-01-02T03:04:05Z to 2026-01-02T03:34:05Z. Records are samples",
        "why: \"REVIEW: 4 records, by curl and a process that is not known; say what it is for\"",
    ] {
        assert!(yaml.contains(line), "{line}\n{yaml}");
    }
}

#[test]
fn names_take_the_ports_of_their_connections() {
    let events = [
        asked("Files.Example.COM."),
        asked("new.example.com"),
        named("files.example.com", "93.184.216.34", 8443),
        named("git.corp.example", "10.1.2.3", 22),
        named("git.corp.example", "10.1.2.2", 22),
    ];
    let (yaml, set) = set(&events);
    let found: Vec<(String, u16)> =
        names(&set).iter().map(|rule| (rule.names[0].clone(), rule.ports[0].first)).collect();
    let expected = [("files.example.com", 8443), ("git.corp.example", 22), ("new.example.com", 443)];
    assert_eq!(found, expected.map(|(name, port)| (name.to_owned(), port)));
    assert_eq!(yaml.matches("port not seen").count(), 1);
    // Private answers are not taken for a name unless the entry says so; public ones may move.
    assert_eq!(names(&set)[1].resolves_to, Some(vec!["10.1.2.2/31".parse().unwrap()]));
    assert_eq!((&names(&set)[0].resolves_to, &names(&set)[2].resolves_to), (&None, &None));
    assert!(cidrs(&set).is_empty(), "neither the resolver nor what the names led to: {yaml}");
}

#[test]
fn what_no_entry_should_open_is_told_with_its_reason() {
    let events = [
        tried("192.0.2.1", 443),
        tried("169.254.169.254", 80),
        tried("fd00:ec2::254", 80),
        tried("127.0.0.1", 8080),
        tried("0.0.0.0", 8080),
        tried("224.0.0.251", 5353),
        tried("fe80::1", 80),
        tried("192.0.2.9", 0),
        event("denied", Some("198.51.100.1"), 443, "tcp"),
        event("socket_type", None, 0, "other"),
        event("source_spoofed", Some("192.0.2.2"), 443, "tcp"),
        event("not_allowlisted", Some("192.0.2.3"), 0, "other"),
        event("not_allowlisted", Some("192.0.2.4"), 77, "icmp"),
        event("from_a_later_version", Some("192.0.2.5"), 1, "udp"),
        event("dns_tcp", Some("192.0.2.6"), 53, "tcp"),
        event("quarantined", Some("192.0.2.7"), 53, "tcp"),
        asked("not a name"),
        named("meta.example", "169.254.169.254", 80),
    ];
    let (yaml, set) = set(&events);
    assert_eq!(cidrs(&set), ["192.0.2.1/32"], "{yaml}");
    assert!(names(&set).is_empty(), "{yaml}");
    for line in [
        "#     1 record of 169.254.169.254:80/tcp: not_allowlisted",
        "#     1 record of 169.254.169.254:80/tcp (meta.example): not_allowlisted",
        "# - loopback: `loopback` of the policy opens it",
        "#     1 record of 0.0.0.0:8080/tcp",
        "#     1 record of 224.0.0.251:5353/tcp",
        "#     1 record of [fe80::1]:80/tcp",
        "# - denied: The policy's deny list",
        "# - socket_type: not a destination. A socket of a type",
        "#     1 record of no destination, protocol other: socket_type",
        "# - source_spoofed: not a destination.",
        "#     1 record of 192.0.2.3, protocol other",
        "#     1 record of 192.0.2.4:77/icmp",
        "# - from_a_later_version: a reason that this version does not know",
        "# - dns_tcp: names in DNS over TCP",
        "# - quarantined: the workload was in quarantine",
        "#     1 record of not a name: dns_name",
    ] {
        assert!(yaml.contains(line), "{line}\n{yaml}");
    }
}

#[test]
fn a_flood_of_what_is_left_out_is_counted() {
    let mut events: Vec<Event> = (0..30).map(|port| tried("127.0.0.1", 1000 + port)).collect();
    events.push(tried("192.0.2.1", 443));
    let (yaml, _) = set(&events);
    assert_eq!(yaml.matches("record of 127.0.0.1:").count(), LISTED);
    assert!(yaml.contains("#     and 10 more\n"), "{yaml}");
}

#[test]
fn a_process_cannot_write_its_own_evidence() {
    let mut sly = tried("192.0.2.1", 443);
    sly.comm = Some("curl, approved\n".into());
    sly.workload = "/job\n  mode: enforce".into();
    let (yaml, set) = set(&[sly]);
    assert!(yaml.contains(r#"by "curl, approved\\u{a}""#), "{yaml}");
    assert!(yaml.contains("  # /job\\u{a}  mode: enforce\n"), "{yaml}");
    assert_eq!(set.policy("suggested").map(|policy| policy.mode), Some(crate::policy::Mode::Audit));
}

#[test]
fn what_suggests_nothing_says_so() {
    let empty = suggested(&[]).expect_err("no record").to_string();
    assert!(
        empty.starts_with("there is no record in ") && empty.contains("events.jsonl: nothing was refused"),
        "{empty}"
    );
    let nothing = suggested(&[tried("127.0.0.1", 80)]).expect_err("loopback").to_string();
    assert!(
        nothing.contains("should open:\n- loopback: ") && nothing.contains("127.0.0.1:80/tcp"),
        "{nothing}"
    );
}

#[test]
fn the_order_of_records_does_not_matter() {
    let mut events: Vec<Event> =
        (0..40u16).map(|number| tried(&format!("192.0.2.{}", number % 7), number)).collect();
    events.extend([asked("a.example"), asked("b.example"), event("denied", Some("192.0.2.200"), 1, "tcp")]);
    let body = |yaml: String| yaml.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    let forwards = body(suggested(&events).expect("a suggestion"));
    events.reverse();
    assert_eq!(body(suggested(&events).expect("a suggestion")), forwards);
}

#[test]
fn more_than_a_policy_holds_is_told() {
    // Long names fill a document soonest.
    let label = "a".repeat(60);
    let events: Vec<Event> =
        (0..45_000).map(|number| asked(&format!("n{number}.{label}.{label}.{label}.example"))).collect();
    let error = suggested(&events).expect_err("too large").to_string();
    assert!(error.starts_with("the suggestion is too large, more than the 16 MiB"), "{error}");
}

fn events() -> impl Strategy<Value = Event> {
    let address = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<u8>().prop_map(|last| IpAddr::from([192, 0, 2, last])),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        any::<u8>().prop_map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)])),
    ];
    let name = prop_oneof![any::<String>(), "[a-zA-Z0-9_.*-]{0,12}", "(on|null|1e3|a)(\\.(no|0x1|example))?"];
    let reason = prop_oneof![
        Just("dns_name".to_owned()),
        Just("not_allowlisted".to_owned()),
        Just("denied".to_owned()),
        any::<String>()
    ];
    let protocol = prop_oneof![Just("tcp"), Just("udp"), Just("icmp"), Just("other")];
    let time = prop_oneof![any::<String>(), Just("2026-01-02T03:04:05.5+02:00".to_owned())];
    let texts = (time, any::<String>(), any::<Option<String>>(), reason);
    (texts, proptest::option::of(address), any::<Option<u16>>(), protocol, proptest::option::of(name))
        .prop_map(|((time, workload, comm, reason), dst, port, protocol, name)| Event {
            time,
            workload,
            comm,
            reason,
            dst,
            port,
            protocol: protocol.to_owned(),
            name,
            ..tried("192.0.2.1", 1)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_the_records_say_the_draft_passes_check(events in proptest::collection::vec(events(), 1..40)) {
        match suggested(&events) {
            Ok(yaml) => {
                let set = read_back(&yaml).expect("passes check");
                prop_assert_eq!((set.destinations().len(), set.policies()), (1, vec!["suggested"]));
            }
            Err(EventsError::Nothing(_)) => {}
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
