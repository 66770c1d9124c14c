//! Every metric, declared once. What is exported, the documentation and the alerts are checked against it.

/// Before the name of every metric.
pub const PREFIX: &str = "egress_warden_";

/// What a metric's figures mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the pins are removed or the machine boots.
    Counter,
    /// Goes both ways.
    Gauge,
    /// Observations counted by upper bounds.
    Histogram,
}

impl Kind {
    /// As the exposition format writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name without [`PREFIX`].
    pub name: &'static str,
    /// What its figures mean.
    pub kind: Kind,
    /// Its labels, in the order in which they are written.
    pub labels: &'static [&'static str],
    /// What one of it is.
    pub unit: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// When its series exist.
    pub exists: &'static str,
}

impl Metric {
    /// Its name as it is exported.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }
}

/// The labels of what is told of one workload.
macro_rules! workload_labels {
    ($($more:literal),*) => { &["namespace", "pod", "workload", "policy", $($more),*] };
}

// A metric that is declared is in the list: nothing can be exported that the documentation does not know.
macro_rules! catalogue {
    ($(#[doc = $doc:literal])+ $list:ident;
     $($constant:ident = $name:literal, $kind:ident, $labels:expr, $unit:literal, $help:literal, $exists:literal;)+) => {
        $(#[doc = $help] pub const $constant: Metric = Metric {
            name: $name, kind: Kind::$kind, labels: $labels, unit: $unit, help: $help, exists: $exists,
        };)+
        $(#[doc = $doc])+
        pub const $list: &[Metric] = &[$($constant,)+];
    };
}

catalogue! {
    /// What this version exports.
    EXPORTED;
    VIOLATIONS = "violations_total", Counter, workload_labels!("mode", "reason", "protocol"), "attempts",
        "Attempts that the policy refuses; in audit they were let through.",
        "once not zero, until ten minutes after the workload";
    NODE_VIOLATIONS = "node_violations_total", Counter, &["policy", "mode", "reason"], "attempts",
        "Attempts that the policy refuses, over all workloads of this node, also those that are gone.",
        "from zero, for every policy in force and every reason; for former policies once not zero";
    QUARANTINES = "quarantines_total", Counter, &["policy", "action"], "quarantines",
        "Workloads put into quarantine, by a rule or by hand.",
        "from zero, for every policy in force and every action; for former policies once not zero";
    WOULD_QUARANTINE = "would_quarantine_total", Counter, &["policy"], "quarantines",
        "Workloads in audit that enforce would have put into quarantine.",
        "from zero, for every policy in force; for former policies once not zero";
    EXISTING = "existing_connections_total", Counter, &["outcome"], "connections",
        "Connections older than the enforcement of their workload under `existing: keep` or `cut`: kept, cut, or judged because there was no room to keep them.",
        "always";
    QUARANTINED = "quarantined", Gauge, workload_labels!(), "0 or 1",
        "Whether the workload is in quarantine.",
        "while the workload is there";
    WORKLOADS = "workloads", Gauge, &["policy", "mode"], "workloads",
        "Workloads that the policy selects, enforced or not.",
        "from zero, for every policy in force";
    WORKLOAD_TIER = "workload_tier", Gauge, &["tier"], "workloads",
        "Workloads by how well they are protected.",
        "always";
    EXPOSED = "workloads_exposed", Gauge, &["by"], "workloads",
        "Workloads that have in reach by which packets leave unjudged: capabilities in the host's network namespace, RDMA or passed-through devices.",
        "always";
    ENFORCEMENT_DELAY = "enforcement_delay_seconds", Histogram, &[], "seconds",
        "From the creation of a workload's cgroup to its enforcement.",
        "always";
    UNENFORCED = "unenforced_seconds_total", Counter, &[], "seconds",
        "Time that selected workloads existed without enforcement, summed over workloads.",
        "always";
    READY = "ready", Gauge, &[], "0 or 1",
        "Whether every selected workload is enforced by a policy that the agent has read; /readyz tells why not.",
        "always";
    RELOAD_SUCCESSFUL = "allowlist_last_reload_successful", Gauge, &[], "0 or 1",
        "Whether the last attempt to load the allowlists put the files into force.",
        "always";
    RELOAD_TIMESTAMP = "allowlist_last_reload_timestamp_seconds", Gauge, &[], "Unix time in seconds",
        "When the allowlists were last loaded, or the attempt failed.",
        "always";
    RULESET_INFO = "ruleset_info", Gauge, &["policy", "hash"], "1",
        "The ruleset in force of each policy, by its hash.",
        "for every policy in force";
    RECORDS_LOST = "records_lost_total", Counter, &[], "records",
        "Records of violations that were not written, or not read in time. Counters are complete nevertheless.",
        "always";
    MAP_ENTRIES = "map_entries", Gauge, &["map"], "entries",
        "Entries in a map of the kernel programs.",
        "for every map with a capacity";
    MAP_CAPACITY = "map_capacity", Gauge, &["map"], "entries",
        "Entries that a map of the kernel programs can hold.",
        "for every map with a capacity";
    REFUSED_DESTINATIONS_LOST = "refused_destinations_lost_total", Counter, workload_labels!(), "attempts",
        "Refused attempts whose destination found no place in the table of refused destinations.",
        "once not zero, until ten minutes after the workload";
    REPLIES_REFUSED = "replies_refused_total", Counter, workload_labels!(), "packets",
        "Answers to inbound flows that quarantine refused.",
        "once not zero, until ten minutes after the workload";
    FORGED_DROPPED = "forged_dropped_total", Counter, workload_labels!(), "packets",
        "Arriving packets dropped because they claim to come from outside and did not come by an uplink.",
        "once not zero, until ten minutes after the workload";
    UDP_FLOWS_EVICTED = "udp_flows_evicted_total", Counter, workload_labels!(), "flows",
        "Inbound UDP flows that found no place in their socket's table, or pushed out another.",
        "once not zero, until ten minutes after the workload";
    STORAGE_FAILED = "storage_failed_total", Counter, workload_labels!(), "sockets",
        "Sockets whose storage could not be allocated; they are judged in full at each packet.",
        "once not zero, until ten minutes after the workload";
    DNS_QUERIES = "dns_queries_total", Counter, &["verdict", "reason"], "queries",
        "Queries over UDP that were allowed or refused, over all workloads of this node, also those that are gone; in audit the refused ones were let through as well. `dns_search` is an allowed name under a search suffix: refused, and no violation.",
        "from zero, always";
    DNS_GRANTS = "dns_grants", Gauge, &[], "addresses",
        "Addresses that are open now because an allowed name resolved to them, summed over workloads.",
        "always";
    DNS_GRANTS_REJECTED = "dns_grants_rejected_total", Counter, &["reason"], "answers",
        "Answers, and addresses in answers, that opened nothing; what the reasons mean stands in the runbook.",
        "from zero, always";
    DNS_ANSWERS_TRUNCATED = "dns_answers_truncated_total", Counter, &[], "answers",
        "Answers that their server cut short. What is missing in them cannot be asked for over TCP.",
        "always";
    SELFTEST_PASSING = "selftest_passing", Gauge, &[], "0 or 1",
        "Whether the last self-test found no way out open, and at least one closed.",
        "once a self-test has ended";
    SELFTEST_LAST_PASS = "selftest_last_pass_timestamp_seconds", Gauge, &[], "Unix time in seconds",
        "When a self-test of this agent last passed.",
        "once one has";
    BUILD_INFO = "build_info", Gauge, &["version", "abi"], "1",
        "Version of the agent, and of the layout that it shares with the kernel programs.",
        "always";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut seen = BTreeSet::new();
        for metric in EXPORTED {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            let counts = metric.name.ends_with("_total");
            assert_eq!(counts, metric.kind == Kind::Counter, "{}", metric.name);
            let labels: BTreeSet<_> = metric.labels.iter().collect();
            assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        }
    }
}
