//! A policy in its canonical form: typed, merged, every reference resolved. The step between what was written
//! ([`crate::allowlist`]) and what the kernel reads ([`crate::ruleset`]).
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::allowlist::{Action, Existing, Scope};

pub mod icmp;
mod merge;
pub mod metadata;
pub mod names;
pub mod own_host;
pub mod resolvable;

pub(crate) use merge::in_both;
pub use merge::merge;
pub use names::{Dns, NameRule};

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The file, as it was named on the command line or found in a directory.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Refuse and count.
    Enforce,
    /// Let through and count what enforce would have refused.
    Audit,
}

/// `loopback`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Loopback {
    /// Not written: allowed in a network namespace of the workload's own, refused in the host's.
    #[default]
    ByNamespace,
    /// `allow`.
    Allow,
    /// `deny`.
    Deny,
}

/// A run of ports of one IP protocol, both ends included. For ICMP the ports are message types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// IP protocol number: 6, 17, 1 (ICMP, for IPv4 destinations) or 58 (ICMPv6, for IPv6 destinations).
    pub protocol: u8,
    /// First port or type.
    pub first: u16,
    /// Last port or type.
    pub last: u16,
}

/// One entry of a Destinations document (`spec.to[]`) that a policy allows, by address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where the entry begins.
    pub origin: Origin,
    /// Name of the Destinations document.
    pub destinations: String,
    /// The entry's `why`.
    pub why: String,
    /// `cidrs` or the content of `cidrsFrom`, without host bits.
    pub cidrs: Vec<IpNet>,
    /// `except`.
    pub except: Vec<IpNet>,
    /// Allowed ports, sorted. Where the entry has no `ports`: all of TCP and UDP.
    pub ports: Vec<PortRange>,
    /// `expires` in Unix seconds; refused from that second on.
    pub expires: Option<u64>,
    /// Stays open in quarantine (`quarantine.keep` names its Destinations).
    pub keep: bool,
}

/// One entry of `deny`, or a built-in refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deny {
    /// Where the entry stands; `None` for a built-in one.
    pub origin: Option<Origin>,
    /// The CIDR.
    pub cidr: IpNet,
    /// What a person is told: `deny entry of policy NAME`, or what the built-in protects.
    pub why: String,
}

/// A quarantine rule. What of it is beyond `exec` stands in [`Policy::beyond_exec`] as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// Where it stands.
    pub origin: Origin,
    /// `violations`, 1 to 256.
    pub violations: u32,
    /// `within`, in nanoseconds.
    pub within_ns: u64,
    /// `action`.
    pub action: Action,
    /// `scope`.
    pub scope: Scope,
    /// `release` in nanoseconds; `None` means by hand.
    pub release: Option<u64>,
}

/// Something a policy asks for that `exec` cannot enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// Where it stands.
    pub origin: Origin,
    /// The entry, as an operator would name it: `require`, `quarantine.action: kill`.
    pub what: String,
    /// Can the agent? Else a later version will.
    pub agent: bool,
}

/// A policy, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name; of merged policies the names, sorted and joined by `+`.
    pub name: String,
    /// Where its document begins.
    pub origin: Origin,
    /// What it does with a violation.
    pub mode: Mode,
    /// What it allows by address, in the order of writing.
    pub rules: Vec<Rule>,
    /// What it allows by name, in the order of writing.
    pub names: Vec<NameRule>,
    /// What it refuses, whatever is allowed. Instance metadata is in here unless `metadata: true`.
    pub deny: Vec<Deny>,
    /// DNS.
    pub dns: Dns,
    /// Loopback.
    pub loopback: Loopback,
    /// `raw`: IP protocols for which raw sockets are open.
    pub raw: BTreeSet<u8>,
    /// Quarantine rules.
    pub quarantine: Vec<Quarantine>,
    /// `existing`: what becomes of connections older than the attach.
    pub existing: Existing,
    /// Is a workload without a backstop on every interface not to be called enforced?
    pub require_backstop: bool,
    /// What `exec` cannot enforce; empty for a policy that it can.
    pub beyond_exec: Vec<Beyond>,
}

impl Policy {
    /// Place, Destinations and deadline of the entry with this number in its ruleset.
    #[must_use]
    pub fn entry(&self, number: u32) -> Option<(&Origin, &str, Option<u64>)> {
        let by_address =
            self.rules.iter().map(|rule| (&rule.origin, rule.destinations.as_str(), rule.expires));
        let by_name = self.names.iter().map(|rule| (&rule.origin, rule.destinations.as_str(), rule.expires));
        by_address.chain(by_name).nth(number as usize)
    }

    /// Does an entry have a deadline?
    #[must_use]
    pub fn has_deadline(&self) -> bool {
        self.rules.iter().any(|rule| rule.expires.is_some())
            || self.names.iter().any(|rule| rule.expires.is_some())
    }

    /// What not even the agent can enforce yet.
    pub fn beyond_agent(&self) -> impl Iterator<Item = &Beyond> {
        self.beyond_exec.iter().filter(|beyond| !beyond.agent)
    }

    /// Does it say `metadata: true`, so that the built-in refusals are absent?
    #[must_use]
    pub fn opens_metadata(&self) -> bool {
        self.deny.iter().all(|deny| deny.origin.is_some())
    }
}
