//! The oracle itself, on a set that fits on a page.

use std::net::IpAddr;

use egress_warden_tests::prober::Kind;

use super::model::{Cidr, Destinations, Entry, Icmp, Lists, Policy, Ports};
use super::oracle::{Probe, Workload, judge};

fn entry(cidr: &str, except: &[&str], first: u16, last: u16) -> Entry {
    Entry {
        cidrs: vec![Cidr::text(cidr)],
        except: except.iter().map(|one| Cidr::text(one)).collect(),
        ports: Some(vec![Ports { protocol: "tcp", first, last }]),
        icmp: Icmp::Types(vec!["echo-request"]),
        expired: false,
    }
}

/// Everything between two policies, which both select `job`.
fn lists() -> Lists {
    let old = Entry { expired: true, ..entry("10.0.99.0/24", &[], 1, 9) };
    let destinations = vec![
        Destinations(vec![entry("10.0.0.0/8", &["10.0.99.0/24"], 80, 90), old]),
        Destinations(vec![entry("169.254.0.0/16", &[], 80, 80)]),
    ];
    let policy = |name: &str, allow, deny: &[&str]| Policy {
        name: name.to_owned(),
        selects: vec!["job"],
        audit: false,
        allow,
        deny: deny.iter().map(|one| Cidr::text(one)).collect(),
        metadata: false,
        loopback: None,
        raw: Vec::new(),
        keep: Some(vec![0]),
    };
    Lists {
        destinations,
        policies: vec![policy("a", vec![0], &["10.7.0.0/16"]), policy("b", vec![0, 1], &[])],
    }
}

fn reason(kind: Kind, to: &str, port: u16, quarantined: bool) -> Option<&'static str> {
    let own: IpAddr = "10.77.1.2".parse().unwrap();
    let job = Workload { name: "job", quarantined, host_namespace: false, addresses: vec![own] };
    let probe = Probe { kind, to: to.parse().unwrap(), port, mapped: false };
    judge(&lists(), &job, &probe).reason
}

#[test]
fn an_address_and_a_port() {
    let tcp = |to, port| reason(Kind::Tcp, to, port, false).unwrap();
    assert_eq!((tcp("10.0.0.1", 80), tcp("10.0.0.1", 90)), ("allowed", "allowed"));
    assert_eq!((tcp("10.0.0.1", 79), tcp("10.0.0.1", 91)), ("port_not_allowed", "port_not_allowed"));
    assert_eq!((tcp("11.0.0.1", 80), tcp("fd00::1", 80)), ("not_allowlisted", "not_allowlisted"));
    assert_eq!((tcp("10.0.99.1", 80), tcp("10.0.99.1", 5)), ("port_not_allowed", "expired"));
    assert_eq!((tcp("10.7.0.1", 80), tcp("169.254.169.254", 80)), ("denied", "denied"));
    assert_eq!((tcp("169.254.169.253", 80), tcp("127.0.0.1", 5)), ("allowed", "loopback"));
}

#[test]
fn a_protocol_and_a_socket() {
    assert_eq!(reason(Kind::Udp, "10.0.0.1", 80, false), Some("protocol_not_allowed"));
    assert_eq!(reason(Kind::Ping, "10.0.0.1", 0, false), Some("allowed"));
    assert_eq!(reason(Kind::Raw, "10.0.0.1", 8, false), None);
    assert_eq!(reason(Kind::UdpLite, "10.0.0.1", 80, false), None);
}

#[test]
fn quarantine_leaves_what_every_policy_keeps() {
    let tcp = |to, port| reason(Kind::Tcp, to, port, true).unwrap();
    assert_eq!((tcp("10.0.0.1", 80), tcp("10.7.0.1", 80)), ("allowed", "denied"));
    assert_eq!((tcp("169.254.1.1", 80), tcp("11.0.0.1", 80)), ("quarantined", "quarantined"));
    assert_eq!((tcp("10.0.99.1", 5), tcp("127.0.0.1", 5)), ("quarantined", "loopback"));
}
