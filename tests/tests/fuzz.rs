//! The walker and the verdict, compiled for this machine and loaded into the kernel, on the same packets: they have to
//! agree on everything that a record tells.
//!
//! `EGRESS_WARDEN_FUZZ_PACKETS` and `EGRESS_WARDEN_FUZZ_SEED` make it longer or another one (`cargo xtask soak`).

#[path = "fuzz/both.rs"]
mod both;
#[path = "fuzz/packets.rs"]
mod packets;
#[path = "fuzz/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::env;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use egress_warden_common::Reason;
use egress_warden_tests::TestCgroup;

use both::Both;
use packets::{Packets, chains};
use random::Random;

/// Packets of a run that nobody asked to be longer.
const SAMPLE: u64 = 200_000;
const SEED: u64 = 0x5eed;

fn number(variable: &str, default: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}: expected a number")),
        Err(_) => Ok(default),
    }
}

/// Says that this process is already where it has to be.
const INSIDE: &str = "EGRESS_WARDEN_FUZZ_INSIDE";

/// The kernel gives the socket that it makes up for a packet the cgroup of whoever asks, and the root is nobody's
/// workload: so this test is run again in a cgroup of its own.
fn again_inside() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let mut test = Command::new(env::current_exe()?);
    test.args(["--exact", "host_and_kernel_agree_on_every_packet", "--nocapture"]).env(INSIDE, "1");
    let status = cgroup.spawn(test)?.wait()?;
    ensure!(status.success(), "inside: {status}");
    Ok(())
}

#[test]
fn host_and_kernel_agree_on_every_packet() -> Result<()> {
    if env::var_os(INSIDE).is_none() {
        return again_inside();
    }
    let wanted = number("EGRESS_WARDEN_FUZZ_PACKETS", SAMPLE)?;
    let seed = number("EGRESS_WARDEN_FUZZ_SEED", SEED)?;
    let start = Instant::now();
    let mut both = Both::new()?;
    let mut found = BTreeMap::new();
    let mut count = 0;
    let packets = chains().chain(Packets::new(Random::new(seed)));
    let mut packets = packets.take(usize::try_from(wanted)?);
    loop {
        let batch: Vec<Vec<u8>> = packets.by_ref().take(both::BATCH).collect();
        if batch.is_empty() {
            break;
        }
        let reasons = both.judge(&batch).with_context(|| format!("seed {seed}, behind packet {count}"))?;
        reasons.into_iter().for_each(|reason| *found.entry(reason).or_insert(0_u64) += 1);
        count += batch.len() as u64;
    }
    println!("soak: packets = {count}");
    println!("soak: seed = {seed}");
    println!("soak: verdicts compared = {}", found.values().sum::<u64>());
    println!("soak: disagreements = 0");
    for (reason, count) in &found {
        println!("soak: {} = {count}", reason.name());
    }
    println!("soak: packets a second = {:.0}", count as f64 / start.elapsed().as_secs_f64());
    let missing: Vec<_> = REACHED.iter().filter(|reason| !found.contains_key(reason)).collect();
    ensure!(missing.is_empty(), "no packet came to {missing:?}: the generator covers too little");
    Ok(())
}

/// What a packet of a socket of which nothing is remembered can come to.
const REACHED: [Reason; 13] = [
    Reason::Allowed,
    Reason::Loopback,
    Reason::NotAllowlisted,
    Reason::PortNotAllowed,
    Reason::ProtocolNotAllowed,
    Reason::Denied,
    Reason::Expired,
    Reason::LoopbackDenied,
    Reason::SourceSpoofed,
    Reason::IpOptions,
    Reason::RoutingHeader,
    Reason::Fragment,
    Reason::Malformed,
];
