//! What enforcement costs a packet and a connection, beside nothing, an empty program, and nftables.
//!
//! All variants are alive at once, each in a network namespace of its own, and take turns: whatever the machine does
//! meanwhile it does to all of them.

mod names;
mod report;
mod stage;
mod wire;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{build_release, run, setup};
use names::Asking;
use report::{Row, Run};
use stage::{Measured, Stage, Variant};
use wire::Wire;

pub(crate) const HELP: &str = "\
Usage: cargo xtask bench [--quick] [--only PART] [--json FILE]

Measures nanoseconds for a 64-byte datagram (to one and to 1,024 destinations), for connect and close, and for a TCP
round trip, with 100 and with 100,000 prefixes allowed: under nothing, under an empty program, under egress-warden, and
under an nftables set; and for a query with its answer, with names allowed and without, and by a dnsmasq that fills a set of
nftables. Before anything is measured each variant shows that it refuses what it should, and lets the rest
out. Needs root; nothing of it stays on the machine. The figures mean something only on a quiet machine.

  --quick      few rounds: shows that everything works, in half a minute
  --only PART  packets (the first), wire (over a veth, with the backstop) or names
  --json FILE  where the figures go (target/bench.json)";

/// What is measured, with the number of operations of one turn.
const OPERATIONS: [(&str, &str, u32); 4] = [
    ("64-byte datagram, 1 destination", "udp 1", 20_000),
    ("64-byte datagram, 1,024 destinations", "udp 1024", 20_000),
    ("connect and close", "connect PEER", 400),
    ("TCP round trip", "trip PEER", 1_500),
];
const PREFIXES: [u32; 2] = [100, 100_000];
/// The same over a veth, with bulk data besides: the time for 64 KiB.
const WIRE_OPERATIONS: [(&str, &str, u32); 4] = [
    ("over a veth: 64-byte datagram", "udp 1", 20_000),
    ("over a veth: connect and close", "connect PEER", 400),
    ("over a veth: TCP round trip", "trip PEER", 1_500),
    ("over a veth: 64 KiB of a TCP stream", "bulk PEER", 2_000),
];
const WIRE_PREFIXES: u32 = 100_000;
const ROUNDS: usize = 40;
const QUICK_ROUNDS: usize = 4;

/// What of it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Packets,
    Wire,
    Names,
}

impl Part {
    const ALL: [(&str, Part); 3] = [("packets", Part::Packets), ("wire", Part::Wire), ("names", Part::Names)];

    fn rows(self, rounds: usize) -> Result<Vec<Row>> {
        match self {
            Part::Packets => packets(rounds),
            Part::Wire => {
                let stages = wire::Variant::ALL.iter().map(|variant| Wire::new(*variant, WIRE_PREFIXES));
                measure(&WIRE_OPERATIONS, &mut stages.collect::<Result<Vec<_>>>()?, WIRE_PREFIXES, rounds)
            }
            Part::Names => {
                let stages = names::Variant::ALL.iter().map(|variant| Asking::new(*variant));
                let mut stages: Vec<Asking> = stages.collect::<Result<_>>()?;
                stages.iter_mut().try_for_each(Asking::prove)?;
                measure(&[names::OPERATION], &mut stages, 0, rounds)
            }
        }
    }
}

fn packets(rounds: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for prefixes in PREFIXES {
        let mut stages: Vec<Stage> =
            Variant::ALL.iter().map(|variant| Stage::new(*variant, prefixes)).collect::<Result<_>>()?;
        stages.iter_mut().try_for_each(Stage::prove)?;
        rows.extend(measure(&OPERATIONS, &mut stages, prefixes, rounds)?);
    }
    Ok(rows)
}

/// What the command line asks for.
struct Asked {
    rounds: usize,
    json: PathBuf,
    only: Option<Part>,
}

pub(crate) fn task(args: &[String]) -> Result<()> {
    let Asked { rounds, json, only } = read(args)?;
    run::need_root("`cargo xtask bench`")?;
    setup::ensure(&[setup::Group::Build, setup::Group::Bench])?;
    build_release()?;
    run::run(run::cargo().args(["build", "--release", "--package", "egress-warden-tests", "--bins"]))?;
    let mut rows = Vec::new();
    for (_, part) in Part::ALL {
        if only.is_none_or(|only| only == part) {
            rows.extend(part.rows(rounds)?);
        }
    }
    let run = Run::new(rounds, rows)?;
    print!("{}{}", run.table(), names::summary(&run));
    fs::write(&json, run.json()).with_context(|| format!("cannot write {}", json.display()))?;
    println!("\nwritten to {}", json.display());
    Ok(())
}

fn read(args: &[String]) -> Result<Asked> {
    let json = run::agent_binary().with_file_name("../bench.json");
    let mut asked = Asked { rounds: ROUNDS, json, only: None };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--quick" => asked.rounds = QUICK_ROUNDS,
            "--json" => asked.json = rest.next().context("--json FILE: the file is missing")?.into(),
            "--only" => {
                let name = rest.next().context("--only PART: the part is missing")?;
                let part = Part::ALL.iter().find(|(known, _)| known == name);
                let (_, part) =
                    part.with_context(|| format!("--only {name}: there is no such part\n\n{HELP}"))?;
                asked.only = Some(*part);
            }
            _ => bail!("what is `{arg}`?\n\n{HELP}"),
        }
    }
    Ok(asked)
}

fn measure(
    operations: &[(&'static str, &'static str, u32)],
    stages: &mut [impl Measured],
    prefixes: u32,
    rounds: usize,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, command, count) in operations.iter().copied() {
        let mut figures: Vec<Vec<u64>> = vec![Vec::new(); stages.len()];
        // The first turn warms up; then each variant is the first as often as any other.
        for round in 0..=rounds {
            for turn in 0..stages.len() {
                let index = (round + turn) % stages.len();
                let figure = stages[index].turn(command, count)?;
                if round > 0 {
                    figures[index].push(figure);
                }
            }
        }
        for (stage, figures) in stages.iter().zip(figures) {
            rows.push(Row::new(name, prefixes, stage.name(), figures));
        }
        eprintln!("measured: {name}");
    }
    Ok(rows)
}
