//! Policies for unit tests.

use std::collections::BTreeSet;

use egress_warden_common::reason::IPPROTO_TCP;

use super::attempt::Attempt;
use crate::allowlist::Existing;
use crate::policy::{Dns, Loopback, Mode, NameRule, Origin, Policy, PortRange, Rule};

pub(crate) fn rule(destinations: &str, line: usize, cidrs: &[&str], ports: &[u16]) -> Rule {
    Rule {
        origin: Origin { file: "lists.yaml".into(), line, column: 5 },
        destinations: destinations.to_owned(),
        why: "object store".to_owned(),
        cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        except: Vec::new(),
        ports: ports
            .iter()
            .map(|port| PortRange { protocol: IPPROTO_TCP, first: *port, last: *port })
            .collect(),
        expires: None,
        keep: false,
    }
}

pub(crate) fn name_rule(destinations: &str, line: usize, names: &[&str], ports: &[u16]) -> NameRule {
    let Rule { origin, destinations, ports, .. } = rule(destinations, line, &[], ports);
    NameRule {
        origin,
        destinations,
        why: "registry".to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        resolves_to: None,
        ports,
        expires: None,
        keep: false,
    }
}

pub(crate) fn policy(rules: Vec<Rule>) -> Policy {
    Policy {
        name: "training".to_owned(),
        origin: Origin { file: "policy.yaml".into(), line: 7, column: 1 },
        mode: Mode::Enforce,
        rules,
        names: Vec::new(),
        deny: Vec::new(),
        dns: Dns::default(),
        loopback: Loopback::ByNamespace,
        raw: BTreeSet::new(),
        quarantine: Vec::new(),
        existing: Existing::default(),
        require_backstop: false,
        beyond_exec: Vec::new(),
    }
}

pub(crate) fn attempt(address: &str, port: u16) -> Attempt {
    Attempt { address: address.parse().unwrap(), protocol: IPPROTO_TCP, port }
}
