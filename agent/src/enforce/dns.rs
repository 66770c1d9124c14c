//! What was counted of names over the whole node.

use std::collections::BTreeMap;

use egress_warden_common::Reason;
use egress_warden_common::grant::Rejection;
use egress_warden_common::reason::Protocol;
use egress_warden_common::state::State;
use serde::{Deserialize, Serialize};

/// The sums. Reasons are kept by name, as the others are: a later version may have more of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsTotals {
    /// Queries that were let through.
    pub allowed: u64,
    /// Queries that the policy refuses.
    pub refused: BTreeMap<String, u64>,
    /// Answers that their server cut short.
    pub truncated: u64,
    /// Answers, and addresses of answers, that opened nothing.
    pub rejected: BTreeMap<String, u64>,
}

/// Why a query is refused.
pub const QUERY_REASONS: [Reason; 5] =
    [Reason::DnsName, Reason::DnsType, Reason::DnsServer, Reason::DnsMalformed, Reason::DnsSearch];

impl DnsTotals {
    /// Adds what is counted of a workload.
    pub fn add(&mut self, state: &State) {
        self.allowed += state.dns.allowed;
        self.truncated += state.dns.truncated;
        for reason in QUERY_REASONS {
            let count = match reason {
                Reason::DnsSearch => state.dns.search,
                _ => state.counts[reason as usize][Protocol::Udp as usize],
            };
            add(&mut self.refused, reason.name(), count);
        }
        for rejection in Rejection::ALL {
            add(&mut self.rejected, rejection.name(), state.dns.rejected[*rejection as usize]);
        }
    }
}

fn add(sums: &mut BTreeMap<String, u64>, name: &str, count: u64) {
    if count > 0 {
        *sums.entry(name.to_owned()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_counts_once_and_no_connection_does() {
        let mut state = State::EMPTY;
        (state.dns.allowed, state.dns.search, state.dns.truncated) = (7, 3, 1);
        state.counts[Reason::DnsName as usize][Protocol::Udp as usize] = 5;
        state.counts[Reason::DnsTcp as usize][Protocol::Tcp as usize] = 11;
        state.counts[Reason::NotAllowlisted as usize][Protocol::Udp as usize] = 13;
        state.dns.rejected[Rejection::Quota as usize] = 2;
        let mut totals = DnsTotals::default();
        totals.add(&state);
        totals.add(&state);
        let sums = |sums: &[(&str, u64)]| -> BTreeMap<String, u64> {
            sums.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        assert_eq!((totals.allowed, totals.truncated), (14, 2));
        assert_eq!(totals.refused, sums(&[("dns_name", 10), ("dns_search", 6)]));
        assert_eq!(totals.rejected, sums(&[("quota", 4)]));
    }
}
