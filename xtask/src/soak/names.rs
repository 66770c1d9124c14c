//! Ten million DNS messages, walked here and read by somebody else's parser; and a million, walked here and by the loaded
//! programs.

use anyhow::Result;

use super::suite::{TEN_MILLION, many, suite_without_agent};
use super::{Figure, Job};

pub(super) const JOB: Job = Job {
    name: "names",
    what: "DNS queries and answers, well-formed ones of many shapes, spoilt ones and made-up ones: walked by the library and \
           read by hickory-proto (`tests/tests/dns_oracle.rs`, which runs 300,000 of them on every change). Whatever the \
           walker finds, the other one finds for the asked name as well, for at least as long; on well-formed messages they \
           find the same.",
    takes: "5 minutes",
    run: names,
};

fn names() -> Result<Vec<Figure>> {
    many(
        TEN_MILLION,
        "messages",
        &mut suite_without_agent("dns_oracle"),
        ["EGRESS_WARDEN_DNS_MESSAGES", "EGRESS_WARDEN_DNS_SEED"],
    )
}

pub(super) const LOADED: Job = Job {
    name: "messages",
    what: "The same kinds of messages as datagrams between a workload and its resolver, read by the library on the host and by \
           the programs in the kernel (`tests/tests/names_fuzz.rs`, which sends 100,000 of them on every change). The walks \
           leave the same bytes behind; the verdict, the reason, all counters and the addresses that are open afterwards agree.",
    takes: "3 minutes",
    run: messages,
};

fn messages() -> Result<Vec<Figure>> {
    many(
        "1000000",
        "messages",
        &mut suite_without_agent("names_fuzz"),
        ["EGRESS_WARDEN_NAMES_MESSAGES", "EGRESS_WARDEN_NAMES_SEED"],
    )
}
