//! The DNS walker against somebody else's parser (hickory-proto), on messages that are well-formed, spoilt and made up.
//!
//! What the walker finds, the other one has to find as well, for at least as long: on every message. On those that are
//! well-formed they find the same, else a walker that finds nothing would do. Of a message that the other refuses the walker
//! takes something only where what the other refuses is of no use: data of records that are not on the way from the asked
//! name to its addresses, parameters of services beside the hints, or records that a truncated message promised. How often is told, and that nothing else is behind it
//! is checked: `oracle::parts` reads the rest.
//!
//! `EGRESS_WARDEN_DNS_MESSAGES` and `EGRESS_WARDEN_DNS_SEED` make it longer or another one (`cargo xtask soak`).

#[path = "dns_oracle/generate.rs"]
mod generate;
#[path = "dns_oracle/oracle.rs"]
mod oracle;
#[path = "fuzz/random.rs"]
mod random;
#[path = "dns_oracle/spoil.rs"]
mod spoil;
#[path = "dns_oracle/writer.rs"]
mod writer;

use std::collections::BTreeMap;
use std::env;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use egress_warden_common::dns::{ANSWER_STEPS, Answer, MESSAGE_ROOM, Message, Problem, QUERY_STEPS, Query};

use generate::Generated;
use oracle::Granted;
use random::Random;

/// Messages of a run that nobody asked to be longer.
const SAMPLE: u64 = 300_000;
const SEED: u64 = 0x5eed;
/// Messages that come from one seed, whichever thread makes them.
const BATCH: u64 = 2000;

fn number(variable: &str, default: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}: expected a number")),
        Err(_) => Ok(default),
    }
}

/// Messages that the other refuses and the walker takes, and why.
const TRUNCATED: &str = "taken though cut off, which they say";
const USELESS: &str = "taken though data of no use cannot be read";

/// How often what came out.
type Tally = BTreeMap<String, u64>;

/// The walks, which are used again for every message as in the kernel.
struct Walks {
    message: Message,
    answer: Box<Answer>,
    query: Query,
}

impl Walks {
    fn fill(&mut self, bytes: &[u8]) {
        // What stands behind the message is left from the one before.
        let length = bytes.len().min(MESSAGE_ROOM);
        self.message.bytes[..length].copy_from_slice(&bytes[..length]);
        self.message.length = bytes.len() as u32;
    }

    fn answer(&mut self, bytes: &[u8]) -> Result<(Problem, Vec<Granted>)> {
        self.fill(bytes);
        self.answer.reset();
        let mut steps = 1;
        while !self.answer.step(&self.message) {
            steps += 1;
        }
        ensure!(steps <= ANSWER_STEPS, "{steps} steps");
        let found = oracle::found(&self.answer);
        let problem = Problem::from_number(self.answer.problem).context("no such problem")?;
        ensure!(problem == Problem::None || found.is_empty(), "{problem:?}, and still {found:?}");
        Ok((problem, found))
    }

    fn query(&mut self, bytes: &[u8]) -> Result<Problem> {
        self.fill(bytes);
        self.query.reset();
        let mut steps = 1;
        while !self.query.step(&self.message) {
            steps += 1;
        }
        ensure!(steps <= QUERY_STEPS, "{steps} steps");
        Problem::from_number(self.query.problem).context("no such problem")
    }
}

/// Checks one message, of a kind that the random numbers choose.
fn check(walks: &mut Walks, random: &mut Random, bytes: &mut Vec<u8>, tally: &mut Tally) -> Result<()> {
    let (kind, well_formed) = match random.below(12) {
        0..4 => ("well-formed answers", Some(generate::answer(random, &[]))),
        4..9 => ("spoilt answers", None),
        9 => ("made-up messages", None),
        10 => ("well-formed queries", Some(generate::query(random, &[]))),
        _ => ("spoilt queries", None),
    };
    *tally.entry(kind.to_owned()).or_default() += 1;
    let mut expected = None;
    *bytes = match (well_formed, kind) {
        (Some(Generated { bytes, problem }), _) => {
            expected = Some(problem);
            bytes
        }
        (None, "made-up messages") => spoil::soup(random),
        (None, "spoilt queries") => spoilt(random, generate::query),
        (None, _) => spoilt(random, generate::answer),
    };
    match kind {
        "well-formed queries" | "spoilt queries" => check_query(walks, bytes, expected),
        _ => check_answer(walks, bytes, expected, tally),
    }
}

fn spoilt(random: &mut Random, generate: fn(&mut Random, &[Vec<u8>]) -> Generated) -> Vec<u8> {
    let Generated { mut bytes, .. } = generate(random, &[]);
    spoil::spoil(random, &mut bytes);
    bytes
}

fn check_query(walks: &mut Walks, bytes: &[u8], expected: Option<Problem>) -> Result<()> {
    let problem = walks.query(bytes)?;
    if let Some(expected) = expected {
        ensure!(problem == expected, "a well-formed query: {problem:?}");
    }
    if problem == Problem::None {
        let name = walks.query.name.characters().to_vec();
        let (found, told) = (Some((name, walks.query.kind)), oracle::asked(bytes));
        ensure!(found == told, "found {found:?}, not {told:?}");
    }
    Ok(())
}

fn check_answer(walks: &mut Walks, bytes: &[u8], expected: Option<Problem>, tally: &mut Tally) -> Result<()> {
    let (problem, mut found) = walks.answer(bytes)?;
    *tally.entry(format!("answers that came to {problem:?}")).or_default() += 1;
    *tally.entry("addresses found".to_owned()).or_default() += found.len() as u64;
    let whole = oracle::whole(bytes);
    if let Some(expected) = expected {
        ensure!(problem == expected, "a well-formed answer: {problem:?}, not {expected:?}");
        let mut told =
            whole.as_ref().map_err(|error| anyhow::anyhow!("a well-formed answer: {error}"))?.clone();
        told.sort_unstable();
        found.sort_unstable();
        ensure!(problem != Problem::None || found == told, "found {found:?}, not {told:?}");
    }
    let told = match whole {
        Ok(told) => told,
        Err(_) if found.is_empty() => return Ok(()),
        Err(error) => {
            let parts = oracle::parts(bytes).with_context(|| format!("{error}, and found {found:?}"))?;
            let says_truncated = bytes[2] & 2 != 0;
            let which = if says_truncated { TRUNCATED } else { USELESS };
            *tally.entry(which.to_owned()).or_default() += 1;
            parts
        }
    };
    let granted = |(address, mapped, ttl): &Granted| {
        told.iter().any(|other| (other.0, other.1) == (*address, *mapped) && ttl <= &other.2)
    };
    ensure!(found.iter().all(granted), "found {found:?}, not {told:?}");
    if expected.is_none() && !found.is_empty() {
        *tally.entry("spoilt answers that still had addresses".to_owned()).or_default() += 1;
    }
    Ok(())
}

/// A batch of messages from one seed.
fn batch(seed: u64, count: u64) -> Result<Tally> {
    let mut random = Random::new(seed);
    let mut tally = Tally::new();
    let mut walks = Walks { message: Message::new(&[]), answer: Box::new(Answer::NEW), query: Query::NEW };
    let mut bytes = Vec::new();
    for message in 0..count {
        check(&mut walks, &mut random, &mut bytes, &mut tally)
            .with_context(|| format!("message {message} of batch seed {seed}\n{bytes:02x?}"))?;
    }
    Ok(tally)
}

#[test]
fn the_walker_finds_what_others_find_and_nothing_else() -> Result<()> {
    let wanted = number("EGRESS_WARDEN_DNS_MESSAGES", SAMPLE)?;
    let seed = number("EGRESS_WARDEN_DNS_SEED", SEED)?;
    let start = Instant::now();
    let (next, all) = (AtomicU64::new(0), Mutex::new(Tally::new()));
    let work = || -> Result<()> {
        loop {
            let begin = next.fetch_add(BATCH, Ordering::Relaxed);
            if begin >= wanted {
                return Ok(());
            }
            let tally = batch(Random::new(seed ^ begin).next(), BATCH.min(wanted - begin))?;
            let mut all = all.lock().expect("no thread panics with it");
            tally.into_iter().for_each(|(what, count)| *all.entry(what).or_default() += count);
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..thread::available_parallelism()?.get()).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a walk panicked"))
    })?;
    let all = all.into_inner()?;
    println!("soak: messages = {wanted}");
    println!("soak: seed = {seed}");
    println!("soak: addresses that the oracle would not give = 0");
    all.iter().for_each(|(what, count)| println!("soak: {what} = {count}"));
    println!("soak: messages a second = {:.0}", wanted as f64 / start.elapsed().as_secs_f64());
    let missing: Vec<_> = REACHED.iter().filter(|what| !all.contains_key(**what)).collect();
    ensure!(missing.is_empty(), "no message came to {missing:?}: the generators cover too little");
    Ok(())
}

/// What messages of these kinds come to.
const REACHED: [&str; 11] = [
    "answers that came to None",
    "answers that came to Malformed",
    "answers that came to TooLarge",
    "answers that came to TooMany",
    "answers that came to NotOneQuestion",
    "answers that came to NotAnAnswer",
    "answers that came to OtherClass",
    "answers that came to LongChain",
    "spoilt answers that still had addresses",
    TRUNCATED,
    USELESS,
];
