//! The policy of the self-test: one place is open.

use egress_warden_common::reason::{IPPROTO_TCP, IPPROTO_UDP};

use super::place::{ALLOWED, ALLOWED_V6, PORT};
use crate::allowlist::Existing;
use crate::policy::{Dns, Loopback, Mode, Origin, Policy, PortRange, Rule};
use crate::ruleset::{CompileError, compile};

/// As the kernel reads it.
pub(super) fn words() -> Result<Vec<u64>, CompileError> {
    let origin = Origin { file: "selftest".into(), line: 1, column: 1 };
    let port = |protocol| PortRange { protocol, first: PORT, last: PORT };
    let rule = Rule {
        origin: origin.clone(),
        destinations: "selftest".to_owned(),
        why: "the control of each attempt".to_owned(),
        cidrs: vec![std::net::IpAddr::from(ALLOWED).into(), std::net::IpAddr::from(ALLOWED_V6).into()],
        except: Vec::new(),
        ports: vec![port(IPPROTO_TCP), port(IPPROTO_UDP)],
        expires: None,
        keep: false,
    };
    let policy = Policy {
        name: "selftest".to_owned(),
        origin,
        mode: Mode::Enforce,
        rules: vec![rule],
        names: Vec::new(),
        deny: Vec::new(),
        dns: Dns::default(),
        loopback: Loopback::Deny,
        // With one that may be made, packets are tried that only a raw socket sends.
        raw: [IPPROTO_UDP].into(),
        quarantine: Vec::new(),
        existing: Existing::default(),
        require_backstop: true,
        beyond_exec: Vec::new(),
    };
    Ok(compile(&policy)?.words)
}
