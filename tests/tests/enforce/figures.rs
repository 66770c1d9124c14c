//! Figures with a budget. Times are the best of several tries, because other work on the machine only ever adds.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use egress_warden::kernel::{Enforcer, OwnNamespace};
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
        // Past 2^24 addresses the first byte counts on.
        let first = 11 + (number * 16 >> 24);
        writeln!(list, "{first}.{a}.{b}.{c}/29")?;
    }
    allowlists.add_file("many.txt", &list)?;
    Ok(allowlists)
}

/// Runs `body` several times; the shortest and the median.
fn times(count: usize, mut body: impl FnMut() -> Result<()>) -> Result<(Duration, Duration)> {
    let mut all = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        body()?;
        all.push(start.elapsed());
    }
    all.sort_unstable();
    Ok((all[0], all[count / 2]))
}

#[test]
fn a_hundred_thousand_prefixes_load_within_their_budget() -> Result<()> {
    const BUDGET: Duration = Duration::from_millis(300);
    let allowlists = many_prefixes()?;
    let compiled = compiled(allowlists.path())?;
    assert_eq!(compiled.usage.prefixes as u32, PREFIXES + 8, "and the built-in refusals");
    let cgroup = TestCgroup::new()?;
    let namespace = OwnNamespace { is_host: false, ..Namespace::new()?.enter(OwnNamespace::of_caller)? };
    let (least, median) = times(5, || {
        let mut enforcer = Enforcer::load(sizes(&compiled)?, false)?;
        enforcer.write_words(0, &compiled.words)?;
        Ok(enforcer.bind(0, cgroup.id()?, 0, 1, &namespace)?)
    })?;
    println!("{PREFIXES} prefixes, load into the kernel: at least {least:.1?}, median {median:.1?}, budget {BUDGET:?}");
    assert!(least < BUDGET, "{least:?}");
    Ok(())
}

#[test]
fn exec_with_a_hundred_thousand_prefixes_stays_within_its_budget() -> Result<()> {
    const BUDGET: Duration = Duration::from_millis(300);
    let allowlists = many_prefixes()?;
    let namespace = Namespace::new()?;
    let (least, median) = times(5, || run_true(&allowlists, &namespace))?;
    println!("{PREFIXES} prefixes, exec -- true: at least {least:.1?}, median {median:.1?}, budget {BUDGET:?}");
    assert!(least < BUDGET, "{least:?}");
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
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let (least, median) = times(20, || run_true(&allowlists, &namespace))?;
        println!("exec -- true: at least {least:.1?}, median {median:.1?}, budget {BUDGET:?}");
        best = best.min(median);
    }
    assert!(best < BUDGET, "{best:?}");
    Ok(())
}

#[test]
fn the_verifier_walks_no_more_instructions_than_budgeted() -> Result<()> {
    const BUDGETS: [(&str, u32); 7] = [
        ("egress", 12_000),
        ("ingress", 4_000),
        ("note_socket", 1_000),
        ("connect4", 7_000),
        ("connect6", 7_000),
        ("sendmsg4", 7_000),
        ("sendmsg6", 7_000),
    ];
    let allowlists = Allowlists::enforce("- cidrs: [10.77.2.2/32]\n  why: little")?;
    let enforcer = Enforcer::load(sizes(&compiled(allowlists.path())?)?, false)?;
    let verified = enforcer.verified_instructions()?;
    println!("{:<12} {:>9} {:>9}", "program", "verified", "budget");
    let mut over = Vec::new();
    for (program, count) in &verified {
        let (_, budget) = BUDGETS.iter().find(|(name, _)| name == program).expect("every program has a budget");
        println!("{program:<12} {count:>9} {budget:>9}");
        if count > budget {
            over.push(program);
        }
    }
    assert_eq!(verified.len(), BUDGETS.len());
    assert!(over.is_empty(), "beyond their budget: {over:?}");
    Ok(())
}
