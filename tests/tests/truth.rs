//! A truth table: {workload, destination, protocol, port, policy}, made from a seed, and tried on the real kernel.
//!
//! An oracle reads off the YAML what has to become of each attempt: what the workload hears, whether frames arrive on the far
//! side, and which violation is counted. Every attempt is compared with it by its own change of the counters, and in the end
//! every frame on the far side has to be explained by an attempt that is allowed, or audited. `explain` is asked as well.
//!
//! `EGRESS_WARDEN_TRUTH_SEED` and `EGRESS_WARDEN_TRUTH_PROBES` make it another one or longer (`cargo xtask soak`).

#[path = "agent/support.rs"]
#[expect(dead_code, reason = "of what the tests of the agent need, this needs a part")]
mod agent;
#[path = "truth/explained.rs"]
mod explained;
#[path = "truth/generate.rs"]
mod generate;
#[path = "truth/ground.rs"]
mod ground;
#[path = "truth/model.rs"]
mod model;
#[path = "truth/oracle.rs"]
mod oracle;
#[path = "truth/oracle_tests.rs"]
mod oracle_tests;
#[path = "fuzz/random.rs"]
#[expect(dead_code, reason = "packets are made of bytes as well")]
mod random;
#[path = "truth/table.rs"]
mod table;

use std::env;
use std::num::ParseIntError;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use generate::Generator;
use ground::Ground;
use table::Table;

/// Probes of a run that nobody asked to be longer or shorter.
const PROBES: usize = 6_500;
const SEED: u64 = 0x5eed;

/// From so many on a run has to come to everything there is.
const AT_LEAST: usize = 5_000;
/// What a run of [`PROBES`] has to be done in.
const LONGEST: Duration = Duration::from_secs(120);

#[test]
fn the_kernel_answers_as_the_allowlists_read() -> Result<()> {
    let wanted = number("EGRESS_WARDEN_TRUTH_PROBES", PROBES)?;
    let seed = number("EGRESS_WARDEN_TRUTH_SEED", SEED)?;
    run(seed, wanted).with_context(|| format!("EGRESS_WARDEN_TRUTH_SEED={seed}"))
}

fn run(seed: u64, wanted: usize) -> Result<()> {
    let mut generator = Generator::new(seed);
    let lists = generator.lists();
    let start = Instant::now();
    let mut ground = Ground::new(&lists)?;
    let ready = Instant::now();
    let mut table = Table::default();
    while table.probes() < wanted {
        table.round(&mut generator, &lists, &mut ground)?;
    }
    let (probed, probes) = (ready.elapsed(), table.probes());
    table.look_at_frames(&ground)?;
    table.look_at_totals(&ground)?;
    let explained = explained::compare(&lists, &ground, &mut table)?;
    let took = start.elapsed();

    println!("soak: probes = {probes}");
    println!("soak: seed = {seed}");
    println!("soak: explained as well = {explained}");
    println!("soak: frames = {}", table.frames);
    println!("soak: unexplained frames = {}", table.unexplained);
    println!("soak: disagreements = {}", table.wrong.len());
    for (reason, count) in &table.reached {
        println!("soak: {reason} = {count}");
    }
    println!("soak: probes a second = {:.0}", probes as f64 / probed.as_secs_f64());
    println!("soak: seconds = {:.1}", took.as_secs_f64());
    ensure!(table.wrong.is_empty(), "{}\nthe allowlists:\n{}", table.told(), lists.yaml("PARENT"));
    if wanted >= AT_LEAST {
        let missing = table.missing();
        ensure!(missing.is_empty(), "the generator covers too little: {missing:?}");
    }
    ensure!(wanted > PROBES || took < LONGEST, "it took {took:?}");
    Ok(())
}

/// A number of the environment.
fn number<T: FromStr<Err = ParseIntError>>(variable: &str, default: T) -> Result<T> {
    match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}: expected a number")),
        Err(_) => Ok(default),
    }
}
