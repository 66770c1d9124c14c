//! What a policy says of names and of DNS.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Origin, PortRange};

/// One entry of a Destinations document (`spec.to[]`) that a policy allows, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRule {
    /// Where the entry begins.
    pub origin: Origin,
    /// Name of the Destinations document.
    pub destinations: String,
    /// The entry's `why`.
    pub why: String,
    /// `domains`: in lower case without a closing dot, exact or with `*.` in front.
    pub names: Vec<String>,
    /// Where answers for them may point; `None` means global unicast.
    pub resolves_to: Option<Vec<IpNet>>,
    /// Allowed ports, sorted. Where the entry has no `ports`: all of TCP and UDP.
    pub ports: Vec<PortRange>,
    /// `expires` in Unix seconds; refused from that second on.
    pub expires: Option<u64>,
    /// Stays open in quarantine (`quarantine.keep` names its Destinations).
    pub keep: bool,
}

impl NameRule {
    /// Is the name one of its names, or below one of its wildcards?
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        self.names.iter().any(|pattern| covers(pattern, name))
    }
}

/// Does a pattern cover a name? A wildcard stands for one or more labels: it covers what is below its base, and not the
/// base itself.
#[must_use]
pub fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(base) => name.strip_suffix(base).is_some_and(|front| front.len() > 1 && front.ends_with('.')),
        None => pattern == name,
    }
}

/// `dns`, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Is port 53 judged as DNS? It is where the policy allows names or has a `dns` mapping; else it is a port as any other.
    pub judged: bool,
    /// `resolvers`; `None` means those of the workload's own `resolv.conf`.
    pub resolvers: Option<Vec<IpNet>>,
    /// `search`.
    pub search: BTreeSet<String>,
    /// `types`, by number.
    pub types: BTreeSet<u16>,
    /// `ttl`, the shortest and the longest life of what an answer opens, in seconds.
    pub ttl: (u32, u32),
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            judged: false,
            resolvers: None,
            search: BTreeSet::new(),
            // A, AAAA, SVCB and HTTPS.
            types: [1, 28, 64, 65].into(),
            ttl: (30, 3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_what_is_below_and_not_its_own_base() {
        for (pattern, name, covered) in [
            ("a.example", "a.example", true),
            ("a.example", "x.a.example", false),
            ("*.a.example", "x.a.example", true),
            ("*.a.example", "x.y.a.example", true),
            ("*.a.example", "a.example", false),
            ("*.a.example", "xa.example", false),
            ("*.a.example", ".a.example", false),
        ] {
            assert_eq!(covers(pattern, name), covered, "{pattern} {name}");
        }
    }
}
