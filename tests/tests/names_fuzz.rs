//! DNS messages, read by the library on this machine and by the loaded programs: sent as datagrams from a workload to its
//! resolver and back. Whatever the walk leaves behind is the same byte for byte; so are what becomes of the message, what is
//! counted, and the addresses that are open afterwards.
//!
//! `EGRESS_WARDEN_NAMES_MESSAGES` and `EGRESS_WARDEN_NAMES_SEED` make it longer or another one (`cargo xtask soak`).

#[path = "dns_oracle/generate.rs"]
mod generate;
#[path = "names_fuzz/host.rs"]
mod host;
#[path = "names_fuzz/kernel.rs"]
mod kernel;
#[path = "fuzz/random.rs"]
mod random;
#[path = "dns_oracle/spoil.rs"]
mod spoil;
#[path = "dns_oracle/writer.rs"]
mod writer;

use std::collections::BTreeMap;
use std::env;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use egress_warden_common::dns::Problem;
use egress_warden_common::grant::Rejection;
use egress_warden_common::state::State;

use generate::Generated;
use host::{Expected, Host, Waiting, ZONES};
use kernel::{Kernel, bytes_of};
use random::Random;
use writer::Labels;

/// Messages of a run that nobody asked to be longer.
const SAMPLE: u64 = 100_000;
const SEED: u64 = 0x5eed;

fn number(variable: &str, default: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}: expected a number")),
        Err(_) => Ok(default),
    }
}

/// How often what came out.
type Tally = BTreeMap<String, u64>;

/// Both sides, and what was seen.
struct Both {
    host: Host,
    kernel: Kernel,
    tally: Tally,
    /// Which of the workload's sockets is next.
    turn: usize,
}

impl Both {
    fn new() -> Result<Both> {
        let mut host = Host::new()?;
        let kernel = Kernel::new(host.words())?;
        let scratch = kernel.scratch()?;
        host.begin_with(scratch.message.clone(), scratch.query, Box::new(scratch.answer.clone()));
        Ok(Both { host, kernel, tally: Tally::new(), turn: 0 })
    }

    fn saw(&mut self, what: impl Into<String>, count: u64) {
        if count > 0 {
            *self.tally.entry(what.into()).or_default() += count;
        }
    }

    /// One message of a kind that the random numbers choose; every third answer was asked for.
    fn message(&mut self, random: &mut Random) -> Result<()> {
        self.turn = random.below(2);
        let zone: Labels = random.of(&ZONES).map(|label| label.as_bytes().to_vec()).to_vec();
        match random.below(12) {
            0 => self.query(&generate::query(random, &zone).bytes, "well-formed queries").map(drop),
            1 | 2 => {
                let mut bytes = generate::query(random, &zone).bytes;
                spoil::spoil(random, &mut bytes);
                self.query(&bytes, "spoilt queries").map(drop)
            }
            3 => self.answer(&spoil::soup(random), None, "made-up messages"),
            kind => {
                let Generated { mut bytes, problem } = generate::answer(random, &zone);
                let asked = if random.one_in(3) { self.ask_first(random, &bytes)? } else { None };
                if kind < 8 {
                    self.answer(&bytes, asked, "well-formed answers")?;
                    let found = Problem::from_number(self.host.answer.problem);
                    // One that is too large is not walked at all.
                    ensure!(
                        problem == Problem::TooLarge || found == Some(problem),
                        "{found:?}, not {problem:?}"
                    );
                    Ok(())
                } else {
                    spoil::spoil(random, &mut bytes);
                    self.answer(&bytes, asked, "spoilt answers")
                }
            }
        }
    }

    /// Asks what this answers, or what it almost answers: with another number or type, or by another socket.
    fn ask_first(&mut self, random: &mut Random, answer: &[u8]) -> Result<Option<Waiting>> {
        let mut query = question(answer);
        let kind = query.len() - 3;
        let near_miss = random.below(16);
        match near_miss {
            0 => query[0] ^= 1 << random.below(8),
            1 => query[kind] = if query[kind] == 1 { 28 } else { 1 },
            _ => {}
        }
        let asked = self.query(&query, "queries before an answer")?;
        if near_miss == 2 {
            self.turn += 1;
            return Ok(None);
        }
        Ok(asked)
    }

    fn query(&mut self, bytes: &[u8], what: &str) -> Result<Option<Waiting>> {
        let expected = self.host.query(bytes);
        let reason = expected.reason.context("queries have one")?;
        let (arrived, state) = self.kernel.query(self.turn, bytes)?;
        agree(bytes, bytes_of(&self.host.query), &self.kernel.walked(true)?)?;
        let counted = u64::from(!reason.allows() && expected.counts.search == 0);
        let told = (state.counts[reason as usize].iter().sum::<u64>(), state.counts.iter().flatten().sum());
        ensure!(told == (counted, counted), "{bytes:02x?}: {reason:?} was counted {told:?} times");
        self.same_outcome(bytes, &expected, arrived, &state)?;
        self.saw(what, 1);
        self.saw(format!("queries that came to {}", reason.name()), 1);
        Ok(expected.waiting)
    }

    fn answer(&mut self, bytes: &[u8], asked: Option<Waiting>, what: &str) -> Result<()> {
        let expected = self.host.answer(bytes, asked)?;
        let (arrived, state) = self.kernel.answer(self.turn, bytes)?;
        agree(bytes, bytes_of(&*self.host.answer), &self.kernel.walked(false)?)?;
        self.same_outcome(bytes, &expected, arrived, &state)?;
        if asked.is_some() || state.dns.grants > 0 {
            self.same_grants(&expected).with_context(|| format!("{bytes:02x?}"))?;
        }
        self.saw(what, 1);
        self.saw("addresses opened", expected.counts.grants);
        for rejection in Rejection::ALL {
            let count = expected.counts.rejected[*rejection as usize];
            self.saw(format!("rejected as {}", rejection.name()), count);
        }
        Ok(())
    }

    fn same_outcome(&self, bytes: &[u8], expected: &Expected, arrived: bool, state: &State) -> Result<()> {
        let same = expected.passes == arrived && expected.counts == state.dns;
        ensure!(same, "{bytes:02x?}\nhere: {expected:?}\nkernel: {arrived}, {:?}", state.dns);
        Ok(())
    }

    /// The addresses that are open are those that the host would open, for as long, and for this name.
    fn same_grants(&self, expected: &Expected) -> Result<()> {
        let (grants, names) = self.kernel.take_grants()?;
        let asked = &self.host.answer.name;
        let mut found = BTreeMap::new();
        for (key, grant) in grants {
            let open: Vec<_> = grant.names.iter().filter(|granted| granted.until != 0).collect();
            let [granted] = open[..] else { anyhow::bail!("open for another name: {grant:?}") };
            let (name, class) = (granted.name, granted.class);
            ensure!((name, class) == (asked.hash, expected.class), "for {name:#x} of class {class}: {key:?}");
            found.insert(key.address, granted.until - granted.since);
        }
        ensure!(found == expected.grants, "open: {found:?}, not {:?}", expected.grants);
        let known = names.iter().all(|name| name.text == asked.text && name.length == asked.length);
        ensure!(known && (found.is_empty() || names.len() == 1), "known names: {names:?}, not {asked:?}");
        Ok(())
    }
}

/// The query that an answer is for: its number and its question, whose name is written in full.
fn question(answer: &[u8]) -> Vec<u8> {
    let mut end = 12;
    while answer[end] != 0 {
        end += usize::from(answer[end]) + 1;
    }
    [&answer[..2], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0], &answer[12..end + 5]].concat()
}

/// The same bytes are left behind by the walk on the host and by the one in the kernel.
fn agree(message: &[u8], host: &[u8], kernel: &[u8]) -> Result<()> {
    if host == kernel {
        return Ok(());
    }
    let first = host.iter().zip(kernel).position(|(one, other)| one != other);
    anyhow::bail!("{message:02x?}\ndiffers at byte {first:?}\nhere: {host:02x?}\nkernel: {kernel:02x?}")
}

#[test]
fn host_and_kernel_agree_on_every_message() -> Result<()> {
    let wanted = number("EGRESS_WARDEN_NAMES_MESSAGES", SAMPLE)?;
    let seed = number("EGRESS_WARDEN_NAMES_SEED", SEED)?;
    let start = Instant::now();
    let mut both = Both::new()?;
    let mut random = Random::new(seed);
    for count in 0..wanted {
        both.message(&mut random).with_context(|| format!("seed {seed}, message {count}"))?;
    }
    println!("soak: messages = {wanted}");
    println!("soak: seed = {seed}");
    println!("soak: walks that differ in any byte = 0");
    println!("soak: addresses that the host would not open = 0");
    both.tally.iter().for_each(|(what, count)| println!("soak: {what} = {count}"));
    println!("soak: messages a second = {:.0}", wanted as f64 / start.elapsed().as_secs_f64());
    let missing: Vec<_> = REACHED.iter().filter(|what| !both.tally.contains_key(**what)).collect();
    ensure!(missing.is_empty(), "no message came to {missing:?}: the generators cover too little");
    Ok(())
}

/// What messages of these kinds come to.
const REACHED: [&str; 11] = [
    "queries that came to allowed",
    "queries that came to dns_name",
    "queries that came to dns_type",
    "queries that came to dns_malformed",
    "queries that came to dns_search",
    "queries that came to expired",
    "rejected as unsolicited",
    "rejected as malformed",
    "rejected as too_large",
    "rejected as address",
    "addresses opened",
];
