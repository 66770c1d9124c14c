//! A violation as people and programs read it: the same keys in the file of `exec --events`, in the agent's audit log and
//! in `watch --json`.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One violation, with the keys of the contract; null where unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// RFC 3339, UTC.
    pub time: String,
    /// The pod's UID or the path of the cgroup.
    pub workload: String,
    /// Thread, in the initial PID namespace.
    pub pid: Option<u32>,
    /// Process, in the initial PID namespace.
    pub tgid: Option<u32>,
    /// The process's name.
    pub comm: Option<String>,
    /// Source.
    pub src: Option<IpAddr>,
    /// Destination.
    pub dst: Option<IpAddr>,
    /// Destination port, or ICMP type.
    pub port: Option<u16>,
    /// Protocol by name.
    pub protocol: String,
    /// The name that was asked for.
    pub name: Option<String>,
    /// Why it was refused.
    pub reason: String,
    /// The rule that refused or came nearest.
    pub rule: Option<String>,
    /// `enforce` or `audit`.
    pub mode: String,
}
