//! Figures with a budget. Of several tries the best counts, because other work on the machine only ever adds.

use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use egress_warden::kernel::{Enforcer, OwnNamespace, Preparation, Sizes};
use egress_warden_tests::{Namespace, TestCgroup};

use crate::loaded::{compiled, sizes};
use crate::support::Allowlists;

const PREFIXES: u32 = 100_000;

/// A list of this many prefixes of which no two touch, so that none can be joined with its neighbour.
fn many_prefixes() -> Result<Allowlists> {
    let allowlists = Allowlists::enforce("- cidrsFrom: many.txt\n  ports: [443]\n  why: many")?;
    let mut list = String::new();
    for number in 0..PREFIXES {
        let [_, a, b, c] = (number * 16).to_be_bytes();
        writeln!(list, "11.{a}.{b}.{c}/29")?;
    }
    allowlists.add_file("many.txt", &list)?;
    Ok(allowlists)
}

/// How long something took when it was done several times: the shortest, the median, and the budget for both on a machine as busy as this one.
struct Times {
    least: Duration,
    median: Duration,
    budget: Duration,
}

impl Times {
    fn of(count: usize, budget: Duration, mut body: impl FnMut() -> Result<()>) -> Result<Times> {
        let mut share = shared_by()?;
        let mut all = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            body()?;
            all.push(start.elapsed());
        }
        share = share.max(shared_by()?);
        all.sort_unstable();
        Ok(Times { least: all[0], median: all[count / 2], budget: budget.mul_f64(share) })
    }

    fn print(&self, what: &str) {
        let Times { least, median, budget } = self;
        println!("{what}: at least {least:.1?}, median {median:.1?}, budget {budget:.1?}");
    }
}

/// By how many the processors are shared: 1 on a machine with nothing else to do. A budget holds for such a machine;
/// threads on every processor that only compute tell how long one has to wait here for what takes no time there.
fn shared_by() -> Result<f64> {
    const LONG_ENOUGH: Duration = Duration::from_millis(40);
    let compute = || -> Result<f64> {
        let before = scheduled()?;
        let start = Instant::now();
        while start.elapsed() < LONG_ENOUGH {
            std::hint::spin_loop();
        }
        let after = scheduled()?;
        let (ran, waited) = (after.0 - before.0, after.1 - before.1);
        Ok((ran + waited) as f64 / ran.max(1) as f64)
    };
    let count = thread::available_parallelism()?.get();
    let shares: Vec<f64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(compute)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it only computes")).collect::<Result<_>>()
    })?;
    Ok(shares.iter().sum::<f64>() / shares.len() as f64)
}

/// Nanoseconds for which the calling thread ran, and for which it waited for a processor.
fn scheduled() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let mut numbers = text.split(' ').map(|number| number.trim().parse::<u64>());
    let mut next = || numbers.next().context("schedstat has three numbers");
    Ok((next()??, next()??))
}

#[test]
fn a_hundred_thousand_prefixes_load_within_their_budget() -> Result<()> {
    const BUDGET: Duration = Duration::from_millis(300);
    let allowlists = many_prefixes()?;
    let compiled = compiled(allowlists.path())?;
    assert_eq!(compiled.usage.prefixes as u32, PREFIXES + 8, "and the built-in refusals");
    let cgroup = TestCgroup::new()?;
    let namespace = OwnNamespace { is_host: false, ..Namespace::new()?.enter(OwnNamespace::of_caller)? };
    let times = Times::of(5, BUDGET, || {
        let mut enforcer = Enforcer::load(Preparation::begin(), sizes(&compiled)?, false)?;
        enforcer.write_words(0, &compiled.words)?;
        Ok(enforcer.bind(0, cgroup.id()?, 0, 1, &namespace)?)
    })?;
    times.print("100,000 prefixes, load into the kernel");
    assert!(times.least < times.budget, "{:?}", times.least);
    Ok(())
}

#[test]
fn exec_with_a_hundred_thousand_prefixes_stays_within_its_budget() -> Result<()> {
    const BUDGET: Duration = Duration::from_millis(300);
    let allowlists = many_prefixes()?;
    let namespace = Namespace::new()?;
    let times = Times::of(5, BUDGET, || run_true(&allowlists, &namespace))?;
    times.print("100,000 prefixes, exec -- true");
    assert!(times.least < times.budget, "{:?}", times.least);
    Ok(())
}

fn run_true(allowlists: &Allowlists, namespace: &Namespace) -> Result<()> {
    let report = allowlists.run(namespace, &["true"])?;
    assert!(report.status.success(), "{}", report.summary);
    Ok(())
}

#[test]
fn exec_adds_little_to_a_command() -> Result<()> {
    const BUDGET: Duration = Duration::from_millis(50);
    let allowlists = Allowlists::enforce("- cidrs: [10.77.2.2/32]\n  why: little")?;
    let namespace = Namespace::new()?;
    run_true(&allowlists, &namespace)?;
    let mut rounds = Vec::new();
    for _ in 0..3 {
        let times = Times::of(20, BUDGET, || run_true(&allowlists, &namespace))?;
        times.print("exec -- true");
        rounds.push(times);
    }
    assert!(rounds.iter().any(|times| times.median < times.budget), "no round kept the budget");
    Ok(())
}

#[test]
fn the_verifier_walks_no_more_instructions_than_budgeted() -> Result<()> {
    // Under a policy that says nothing of names, and under one that does.
    const BUDGETS: [(&str, [u32; 2]); 9] = [
        ("egress", [17_000, 85_000]),
        ("ingress", [11_000, 135_000]),
        ("note_socket", [4_000, 4_000]),
        ("note_bound4", [1_000, 1_000]),
        ("note_bound6", [1_000, 1_000]),
        ("connect4", [8_000, 32_000]),
        ("connect6", [8_000, 32_000]),
        ("sendmsg4", [9_000, 33_000]),
        ("sendmsg6", [9_000, 33_000]),
    ];
    let allowlists = Allowlists::enforce("- cidrs: [10.77.2.2/32]\n  why: little")?;
    let sizes = sizes(&compiled(allowlists.path())?)?;
    let mut over = Vec::new();
    for (index, names) in [false, true].into_iter().enumerate() {
        let verified =
            Enforcer::load(Preparation::begin(), Sizes { names, ..sizes }, false)?.verified_instructions()?;
        println!("{:<12} {:>9} {:>9}  names: {names}", "program", "verified", "budget");
        for (program, count) in &verified {
            let (_, budgets) =
                BUDGETS.iter().find(|(name, _)| name == program).expect("every program has a budget");
            println!("{program:<12} {count:>9} {:>9}", budgets[index]);
            if *count > budgets[index] {
                over.push((*program, names));
            }
        }
        println!("{:<12} {:>9}", "all", verified.iter().map(|(_, count)| count).sum::<u32>());
        assert_eq!(verified.len(), BUDGETS.len());
    }
    assert!(over.is_empty(), "beyond their budget: {over:?}");
    Ok(())
}
