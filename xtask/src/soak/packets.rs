//! Ten million packets, judged here and by the loaded program.

use anyhow::{Context, Result, bail};

use super::suite::{figures, fresh_seed, passed, suite};
use super::{Figure, Job};

const PACKETS: &str = "10000000";

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
    let seed = fresh_seed()?;
    let mut command = suite("fuzz")?;
    command.args(["--release", "--", "--nocapture"]);
    command.env("EGRESS_WARDEN_FUZZ_PACKETS", PACKETS).env("EGRESS_WARDEN_FUZZ_SEED", seed.to_string());
    let figures = figures(&passed(&mut command).with_context(|| format!("seed {seed}"))?);
    match figures.iter().find(|(name, _)| name == "packets") {
        Some((_, count)) if count == PACKETS => Ok(figures),
        _ => bail!("{PACKETS} packets were asked for, and it told of: {figures:?}"),
    }
}
