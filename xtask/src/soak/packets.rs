//! Ten million packets, judged here and by the loaded program.

use anyhow::Result;

use super::suite::{TEN_MILLION, many, suite};
use super::{Figure, Job};

pub(super) const JOB: Job = Job {
    name: "packets",
    what: "Every chain of up to three IPv6 extension headers, then random, well-made and spoilt packets, IPv4 and IPv6, \
           by an uplink and by loopback, under a policy that allows nothing and under one that allows much: judged by \
           the library on the host and by the program in the kernel (`tests/tests/fuzz.rs`, which runs 200,000 of them \
           on every change). The verdict, the reason, the rule, both addresses, the protocol and both ports agree.",
    takes: "5 minutes",
    run: packets,
};

fn packets() -> Result<Vec<Figure>> {
    many(
        TEN_MILLION,
        "packets",
        &mut suite("fuzz")?,
        ["EGRESS_WARDEN_FUZZ_PACKETS", "EGRESS_WARDEN_FUZZ_SEED"],
    )
}
