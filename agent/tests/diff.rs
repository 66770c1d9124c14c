//! `diff`: what is compared, against the `decide()` that the kernel runs; what is told, against golden files.
//!
//! In `tests/golden/diff` each directory holds two sets, `old` and `new`, and in `expected.txt` what `diff` prints.
//! `UPDATE_GOLDEN=1 cargo test -p egress-warden --test diff` writes the expectations anew: read the diff.

mod generators;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use egress_warden::cli::diff::{DiffArgs, Outcome, diff};
use egress_warden::policy::{Policy, PortRange};
use egress_warden::ruleset::compare::{Change, Difference, Standing, compare};
use egress_warden::ruleset::{Compiled, compile};
use egress_warden_common::ruleset::FOREVER;
use egress_warden_common::{Address, Facts, Reason, Route, decide};
use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;

use generators::{FixedClock, all_cidrs, bare_policy, beside, policy, tcp_rule};

// ---- The difference is what decide() decides otherwise ----

/// Two policies, the second often a little change of the first.
fn two_policies() -> impl Strategy<Value = (Policy, Policy)> {
    let keep = || prop::collection::vec(prop::bool::weighted(0.7), 8);
    let judged = (any::<bool>(), any::<bool>());
    let policies = (policy(), policy(), any::<bool>(), keep(), keep(), judged);
    policies.prop_map(|(mut old, mut other, related, kept, taken, judged)| {
        (old.dns.judged, other.dns.judged) = judged;
        if !related {
            return (old, other);
        }
        let mut new = old.clone();
        new.dns.judged = other.dns.judged;
        new.mode = other.mode;
        let choose = |kept: &[bool], index: usize| kept[index % kept.len()];
        let rules = old.rules.iter().enumerate().filter(|(index, _)| choose(&kept, *index));
        let more = other.rules.iter().enumerate().filter(|(index, _)| !choose(&taken, *index));
        new.rules = more.chain(rules).map(|(_, rule)| rule.clone()).collect();
        let denies = old.deny.iter().enumerate().filter(|(index, _)| choose(&taken, *index));
        new.deny = denies.map(|(_, deny)| deny.clone()).collect();
        (old, new)
    })
}

/// Every address at or beside an end of these. An IPv4-mapped one is the IPv4 address, as for `decide()`.
fn around(cidrs: &[IpNet]) -> Vec<IpAddr> {
    let ends = cidrs.iter().flat_map(|cidr| [cidr.network(), cidr.broadcast()]);
    let mut all: Vec<IpAddr> =
        ends.flat_map(|end| [-1, 0, 1].map(|step| beside(end, step).to_canonical())).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Every protocol and port at or beside an end of these.
fn around_ports(ports: &[PortRange]) -> Vec<(u8, u16)> {
    let ends = ports.iter().flat_map(|range| [(range.protocol, range.first), (range.protocol, range.last)]);
    let mut all: Vec<(u8, u16)> = ends
        .flat_map(|(protocol, port)| {
            [port.saturating_sub(1), port, port.saturating_add(1)].map(|port| (protocol, port))
        })
        .chain([(47, 0)])
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn covers(change: &Change, facts: &Facts) -> bool {
    let address = IpAddr::from(facts.destination);
    change.quarantined == facts.quarantined
        && change.cidrs.iter().any(|cidr| cidr.contains(&address))
        && change
            .ports
            .iter()
            .any(|range| range.protocol == facts.protocol && (range.first..=range.last).contains(&facts.port))
}

fn is_open(standing: Standing, now: Option<u64>) -> bool {
    standing.until() == FOREVER || now.is_some_and(|now| now < standing.until())
}

/// The difference names this attempt once where the two decide otherwise at some time, and not where they never do.
fn agrees(old: &Compiled, new: &Compiled, found: &Difference, facts: &Facts) -> Result<(), TestCaseError> {
    let changes: Vec<&Change> = found.changes.iter().filter(|change| covers(change, facts)).collect();
    prop_assert!(changes.len() <= 1, "{:?} is told twice: {:?}", facts, changes);
    for now in [None, Some(0), Some(1), Some(2), Some(3), Some(4), Some(5), Some(6)] {
        let verdict = |compiled: &Compiled| decide(&compiled.ruleset(), &FixedClock(now), facts);
        let (before, after) = (verdict(old), verdict(new));
        match changes.first() {
            None => {
                prop_assert_eq!(before.reason.allows(), after.reason.allows(), "{:?} at {:?}", facts, now);
            }
            Some(change) => {
                prop_assert_ne!(change.before.until(), change.after.until());
                for (verdict, standing) in [(before, change.before), (after, change.after)] {
                    prop_assert_eq!(verdict.reason.allows(), is_open(standing, now), "{:?}", facts);
                    match standing {
                        Standing::Denied { rule } => {
                            prop_assert_eq!((verdict.reason, verdict.rule), (Reason::Denied, rule));
                        }
                        Standing::Open { rule, .. } if !facts.quarantined => {
                            prop_assert_eq!(verdict.rule, rule);
                        }
                        Standing::Open { .. } | Standing::Closed => {}
                    }
                }
            }
        }
    }
    Ok(())
}

/// Is it refused whatever is allowed?
fn is_denied(compiled: &Compiled, address: IpAddr) -> bool {
    let facts = facts(address, (6, 1), false);
    decide(&compiled.ruleset(), &FixedClock(None), &facts).reason == Reason::Denied
}

fn facts(address: IpAddr, (protocol, port): (u8, u16), quarantined: bool) -> Facts {
    let destination = Address::from(address);
    let (route, host_namespace, reply) = (Route::Uplink, false, false);
    Facts {
        destination,
        protocol,
        port,
        route,
        host_namespace,
        reply,
        to_node: false,
        quarantined,
        own_resolver: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_difference_is_what_is_decided_otherwise((old_policy, new_policy) in two_policies()) {
        let (old, new) = (compile(&old_policy).unwrap(), compile(&new_policy).unwrap());
        let found = compare(&old, &new);
        let told = found.changes.iter().flat_map(|change| change.cidrs.iter().copied());
        let cidrs: Vec<IpNet> =
            told.chain(all_cidrs(&old_policy)).chain(all_cidrs(&new_policy)).collect();
        let rules = old_policy.rules.iter().chain(&new_policy.rules);
        let ports: Vec<PortRange> = rules.flat_map(|rule| rule.ports.iter().copied()).collect();
        let ports = around_ports(&ports);
        for (index, address) in around(&cidrs).into_iter().enumerate() {
            // Every combination would take minutes: each address takes its share of the ports, in turn.
            for port in ports.iter().skip(index % 8).step_by(8) {
                for quarantined in [false, true] {
                    agrees(&old, &new, &found, &facts(address, *port, quarantined))?;
                }
            }
            let (before, after) = (is_denied(&old, address), is_denied(&new, address));
            for (refusals, expected) in
                [(&found.no_longer_denied, before && !after), (&found.newly_denied, after && !before)]
            {
                let named = refusals.iter().flat_map(|refusal| &refusal.cidrs);
                prop_assert_eq!(named.filter(|cidr| cidr.contains(&address)).count(), usize::from(expected));
            }
        }
        for change in &found.changes {
            prop_assert_eq!(&IpNet::aggregate(&change.cidrs), &change.cidrs, "the fewest CIDRs, in order");
        }
        prop_assert_eq!(compare(&new, &old).changes.len(), found.changes.len());
        prop_assert_eq!(compare(&old, &old), Difference::default());
    }
}

// ---- What is told ----

fn golden() -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a workspace");
    repository.join("tests/golden/diff")
}

fn run(old: &Path, new: &Path, all: bool) -> Outcome {
    diff(&DiffArgs { old: old.to_owned(), new: new.to_owned(), all })
}

/// A set of a case: a directory, or a file.
fn side(case: &Path, name: &str) -> PathBuf {
    let directory = case.join(name);
    if directory.is_dir() { directory } else { case.join(format!("{name}.yaml")) }
}

/// What is printed, with paths as they would be beside the sets.
fn printed(case: &Path, all: bool) -> String {
    let Outcome { output, errors, code } = run(&side(case, "old"), &side(case, "new"), all);
    let text = format!("exit {code}\n--- standard error\n{errors}--- standard output\n{output}");
    text.replace(&format!("{}/", case.display()), "")
}

#[test]
fn every_change_is_told_as_recorded() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut cases: Vec<PathBuf> =
        fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() > 10, "the golden files are missing");
    let mut wrong = Vec::new();
    for case in cases {
        let actual = printed(&case, false);
        let expected = case.join("expected.txt");
        if update {
            fs::write(&expected, &actual).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != actual {
            wrong.push(format!("{}:\n{actual}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "not as recorded:\n{}", wrong.join("\n"));
}

#[test]
fn all_of_a_long_list_is_told_on_demand() {
    let told = printed(&golden().join("long-list"), true);
    assert_eq!(told.matches("/24").count(), 100, "{told}");
    assert!(!told.contains("more"), "{told}");
}

#[test]
fn a_set_is_no_change_of_itself_and_what_opens_closes_the_other_way() {
    for case in ["destinations", "names", "policies", "settings"].map(|name| golden().join(name)) {
        let (old, new) = (side(&case, "old"), side(&case, "new"));
        let same = run(&old, &old, false);
        assert_eq!((same.code, same.output.as_str()), (0, "no change in what is decided\n"));
        let told = |from: &Path, to: &Path, word: &str| run(from, to, true).output.matches(word).count();
        assert_eq!(told(&old, &new, "newly allowed"), told(&new, &old, "newly refused"));
        assert_eq!(told(&old, &new, "name allowed"), told(&new, &old, "name refused"));
    }
}

#[test]
fn the_exit_code_is_the_contract() {
    for (case, expected) in [
        ("same-in-other-words", 0),
        ("policy-added", 0),
        ("settings-narrowed", 0),
        ("destinations", 4),
        ("policies", 4),
        ("quarantine-removed", 4),
        ("error-on-one-side", 1),
    ] {
        let case = golden().join(case);
        let status = Command::new(env!("CARGO_BIN_EXE_egress-warden"))
            .arg("diff")
            .args([side(&case, "old"), side(&case, "new")])
            .output()
            .unwrap()
            .status;
        assert_eq!(status.code(), Some(expected), "{}", case.display());
    }
    let usage = Command::new(env!("CARGO_BIN_EXE_egress-warden")).args(["diff", "one"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(1));
}

// ---- A hundred thousand prefixes ----

/// The figure that counts is the release build's, told by `--nocapture`; the limit here catches only what grows faster
/// than the lists.
#[test]
fn a_hundred_thousand_prefixes_compare_fast() {
    let cidr = |index: u32, shift: u32| {
        Ipv4Net::new(Ipv4Addr::from_bits((index * 2) << 8 | shift << 7), 25).unwrap().into()
    };
    // Every other prefix moves to the other half of its /24.
    let old: Vec<IpNet> = (0..100_000).map(|index| cidr(index, 0)).collect();
    let new: Vec<IpNet> = (0..100_000).map(|index| cidr(index, index % 2)).collect();
    let [old, new] = [old, new].map(|cidrs| compile(&bare_policy(vec![tcp_rule(cidrs, 0, 5)])).unwrap());
    let begin = Instant::now();
    let found = compare(&old, &new);
    let took = begin.elapsed();
    println!("two rulesets of 100,000 prefixes compared in {took:?}");
    let told: Vec<usize> = found.changes.iter().map(|change| change.cidrs.len()).collect();
    assert_eq!(told, [50_000, 50_000]);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn two_sets_with_a_hundred_thousand_prefixes_are_told_fast() {
    let directory = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| directory.path().join(name));
    for (side, shift) in [(&old, 0), (&new, 1)] {
        fs::create_dir(side).unwrap();
        fs::copy(golden().join("long-list/old/a.yaml"), side.join("a.yaml")).unwrap();
        fs::create_dir(side.join("lists")).unwrap();
        let list: String = (0..100_000u32)
            .map(|index| format!("{}/25\n", Ipv4Addr::from_bits((index * 2) << 8 | (index % 2 * shift) << 7)))
            .collect();
        fs::write(side.join("lists/ranges.txt"), list).unwrap();
    }
    let begin = Instant::now();
    let outcome = run(&old, &new, false);
    let took = begin.elapsed();
    println!("two sets of 100,000 prefixes read, compiled, compared and told in {took:?}");
    assert_eq!(outcome.code, 4);
    assert!(
        outcome.output.contains("and 49980 more CIDRs; 6,400,000 IPv4 addresses in all"),
        "{}",
        outcome.output
    );
    assert!(took < Duration::from_secs(20), "{took:?}");
}
