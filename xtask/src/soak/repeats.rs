//! Suites, twenty times each: those that count frames on the far side, which fail at the first frame that nothing explains; and
//! first connects, which fail at the first that is lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::suite::{figures, fresh_seed, passed, suite, tests_passed};
use super::{Figure, Job};

const RUNS: u64 = 20;
/// Probes of each run of the truth table.
const PROBES: &str = "10000";

pub(super) const BYPASS: Job = Job {
    name: "bypass",
    what: "The bypass suite (`tests/tests/bypass.rs`), again and again: every way out that is known, by a workload that is \
           enforced, by one in quarantine and by one in audit. Each case asserts how many frames arrive at the far host that \
           is allowed and at the one that is not, the reason, and the exact change of the counters.",
    takes: "40 minutes",
    run: bypass,
};

pub(super) const TRUTH: Job = Job {
    name: "truth",
    what: "The truth table (`tests/tests/truth.rs`), again and again, with a fresh seed each time: generated allowlists on 13 \
           workloads, and for each probe what it hears, the frames on the far side and the change of the counters as an \
           oracle reads them off the YAML; `explain` is asked the same.",
    takes: "5 minutes",
    run: truth,
};

/// Rounds of each of the two clients, each with a name of its own: below a workload's quota of addresses and names.
const ROUNDS: &str = "2500";

pub(super) const CONNECTS: Job = Job {
    name: "connects",
    what: "Resolving a name that nobody asked for before and connecting at once, again and again \
           (`tests/tests/names/enforced/load.rs`), in a workload that is enforced with a backstop, by two programs on two \
           processors at a time: glibc over IPv4, then musl over IPv6; dnsmasq answers. Each run begins with a workload that \
           knows nothing, and fails if one round does not resolve or connect, or if the places behind the names have not \
           accepted as many connections as there were rounds.",
    takes: "3 minutes",
    run: connects,
};

fn connects() -> Result<Vec<Figure>> {
    let mut command = suite("names")?;
    command.args(["no_first_connect_is_lost", "--", "--nocapture"]);
    command.env("EGRESS_WARDEN_NAME_ROUNDS", ROUNDS);
    let mut sums = Vec::new();
    let longest = repeat(CONNECTS.name, |_| add(&mut sums, &figures(&passed(&mut command)?)))?;
    let mut all = told(&[("runs", RUNS), ("longest run, seconds", longest.as_secs())]);
    all.extend(told(&sums.iter().map(|(name, sum)| (name.as_str(), *sum)).collect::<Vec<_>>()));
    Ok(all)
}

fn bypass() -> Result<Vec<Figure>> {
    let mut command = suite("bypass")?;
    command.args(["--", "--test-threads", "2"]);
    let mut passed_cases = 0;
    let longest = repeat(BYPASS.name, |_| {
        passed_cases += tests_passed(&passed(&mut command)?).context("no test result")?;
        Ok(())
    })?;
    Ok(told(&[
        ("runs", RUNS),
        ("cases passed", passed_cases),
        ("cases failed", 0),
        ("longest run, seconds", longest.as_secs()),
    ]))
}

fn truth() -> Result<Vec<Figure>> {
    let first = fresh_seed()?;
    let mut command = suite("truth")?;
    command.args(["--", "--nocapture"]).env("EGRESS_WARDEN_TRUTH_PROBES", PROBES);
    let mut sums = Vec::new();
    let longest = repeat(TRUTH.name, |run| {
        command.env("EGRESS_WARDEN_TRUTH_SEED", (first + run).to_string());
        add(&mut sums, &figures(&passed(&mut command)?))
    })?;
    let mut all = told(&[("runs", RUNS), ("first seed", first), ("longest run, seconds", longest.as_secs())]);
    all.extend(told(&sums.iter().map(|(name, sum)| (name.as_str(), *sum)).collect::<Vec<_>>()));
    Ok(all)
}

/// Runs it so many times, and gives how long the slowest took.
fn repeat(name: &str, mut run: impl FnMut(u64) -> Result<()>) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for index in 0..RUNS {
        let start = Instant::now();
        run(index).with_context(|| format!("run {} of {RUNS}", index + 1))?;
        longest = longest.max(start.elapsed());
        println!("soak: {name}: {} of {RUNS} ({} s)", index + 1, start.elapsed().as_secs());
    }
    Ok(longest)
}

/// Adds what can be added up; a speed, a time and a seed cannot.
fn add(sums: &mut Vec<(String, u64)>, figures: &[Figure]) -> Result<()> {
    for (name, value) in figures {
        if ["seed", "seconds", "probes a second"].contains(&name.as_str()) {
            continue;
        }
        let value: u64 = value.parse().with_context(|| format!("{name} = {value}"))?;
        match sums.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += value,
            None => sums.push((name.clone(), value)),
        }
    }
    Ok(())
}

fn told(figures: &[(&str, u64)]) -> Vec<Figure> {
    figures.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_tell_is_added_up() {
        let run = |probes| told(&[("probes", probes), ("seed", 7), ("unexplained frames", 0)]);
        let mut sums = Vec::new();
        add(&mut sums, &run(3)).unwrap();
        add(&mut sums, &run(4)).unwrap();
        assert_eq!(sums, [("probes".to_owned(), 7), ("unexplained frames".to_owned(), 0)]);
        assert!(add(&mut sums, &[("probes".to_owned(), "many".to_owned())]).is_err());
    }
}
