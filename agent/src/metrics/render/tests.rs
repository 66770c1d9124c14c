use std::time::{Duration, Instant};

use super::super::catalogue::EXPORTED;
use super::super::testing::{busy, workload};
use super::*;

fn page(snapshot: &Snapshot) -> String {
    render(snapshot).unwrap()
}

fn has(page: &str, line: &str) -> bool {
    page.lines().any(|found| found == format!("egress_warden_{line}"))
}

#[test]
fn what_is_exported_is_the_catalogue() {
    let page = page(&busy(3));
    let exported: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let declared: BTreeSet<_> =
        EXPORTED.iter().map(|metric| (metric.full_name(), metric.kind.name().to_owned())).collect();
    assert_eq!(exported, declared);
}

#[test]
fn figures_are_those_of_the_snapshot() {
    let page = page(&busy(3));
    for line in [
        "violations_total{namespace=\"ml-training\",pod=\"train-0\",workload=\"uid-0\",policy=\"training\",\
         mode=\"enforce\",reason=\"not_allowlisted\",protocol=\"tcp\"} 1",
        "node_violations_total{policy=\"training\",mode=\"enforce\",reason=\"not_allowlisted\"} 3",
        "node_violations_total{policy=\"training\",mode=\"enforce\",reason=\"denied\"} 0",
        "quarantines_total{policy=\"training\",action=\"isolate\"} 1",
        "quarantines_total{policy=\"training\",action=\"kill\"} 0",
        "would_quarantine_total{policy=\"training\"} 0",
        "would_quarantine_total{policy=\"former\"} 2",
        "quarantined{namespace=\"ml-training\",pod=\"train-0\",workload=\"uid-0\",policy=\"training\"} 1",
        "quarantined{namespace=\"\",pod=\"\",workload=\"/kubepods/pod1\",policy=\"training\"} 0",
        "workloads{policy=\"training\",mode=\"enforce\"} 3",
        "workload_tier{tier=\"cgroup\"} 3",
        "workload_tier{tier=\"unenforced\"} 0",
        "enforcement_delay_seconds_bucket{le=\"0.0005\"} 1",
        "enforcement_delay_seconds_bucket{le=\"10\"} 2",
        "enforcement_delay_seconds_bucket{le=\"+Inf\"} 3",
        "enforcement_delay_seconds_count 3",
        "unenforced_seconds_total 1.5",
        "ready 1",
        "allowlist_last_reload_timestamp_seconds 1700000000.5",
        "ruleset_info{policy=\"training\",hash=\"000000000000feed\"} 1",
        "records_lost_total 9",
        "dns_queries_total{verdict=\"allowed\",reason=\"allowed\"} 12",
        "dns_queries_total{verdict=\"refused\",reason=\"dns_name\"} 4",
        "dns_queries_total{verdict=\"refused\",reason=\"dns_search\"} 6",
        "dns_queries_total{verdict=\"refused\",reason=\"dns_type\"} 0",
        "dns_grants 2",
        "dns_grants_rejected_total{reason=\"quota\"} 3",
        "dns_grants_rejected_total{reason=\"address\"} 0",
        "dns_answers_truncated_total 2",
        "selftest_passing 0",
        "selftest_last_pass_timestamp_seconds 1700000000",
        "map_entries{map=\"refused\"} 7",
        "map_capacity{map=\"refused\"} 8192",
        "replies_refused_total{namespace=\"ml-training\",pod=\"train-0\",workload=\"uid-0\",policy=\"training\"} 2",
    ] {
        assert!(has(&page, line), "{line}\nis not in\n{page}");
    }
    let mut violations = page.lines().filter(|line| line.contains("violations_total{"));
    assert!(
        !violations.any(|line| line.contains("reason=\"allowed\"") || line.contains("protocol=\"udp\"")),
        "{page}"
    );
}

#[test]
fn what_does_not_hold_is_zero() {
    let mut snapshot = busy(0);
    snapshot.ready = Err("no allowlists".to_owned());
    snapshot.reload.outcome = Err("a.yaml:1:1: error".to_owned());
    let page = page(&snapshot);
    assert!(has(&page, "ready 0") && has(&page, "allowlist_last_reload_successful 0"), "{page}");
}

#[test]
fn a_workload_that_is_gone_is_told_until_another_takes_its_name() {
    let line = |count| {
        format!(
            "violations_total{{namespace=\"\",pod=\"\",workload=\"/kubepods/pod1\",policy=\"training\",\
             mode=\"enforce\",reason=\"not_allowlisted\",protocol=\"tcp\"}} {count}"
        )
    };
    let mut former = workload(1);
    former.state.counts[Reason::NotAllowlisted as usize][Protocol::Tcp as usize] = 5;
    let mut snapshot = busy(0);
    snapshot.gone.push(former);
    let alone = page(&snapshot);
    assert!(has(&alone, &line(5)) && !alone.contains("quarantined{"), "{alone}");
    snapshot.workloads.push(workload(1));
    let both = page(&snapshot);
    assert!(has(&both, &line(1)) && !has(&both, &line(5)), "{both}");
}

#[test]
fn one_name_of_two_workloads_is_one_series() {
    let mut snapshot = busy(0);
    snapshot.workloads.extend([workload(1), workload(1)]);
    let page = page(&snapshot);
    let named = page.lines().filter(|line| line.starts_with("egress_warden_violations_total{"));
    assert_eq!(named.map(|line| line.rsplit(' ').next().unwrap()).collect::<Vec<_>>(), ["2"]);
}

#[test]
fn a_path_can_neither_forge_a_series_nor_reach_a_terminal() {
    let mut snapshot = busy(0);
    let mut hostile = workload(1);
    hostile.label = "/a\"} 1\nready 1\u{1b}[2J\\\u{202e}".to_owned();
    snapshot.workloads.push(hostile);
    let page = page(&snapshot);
    assert!(!page.lines().any(|line| line.starts_with("ready")), "{page}");
    assert!(page.contains(r#"workload="/a\"} 1\\u{a}ready 1\\u{1b}[2J\\\\u{202e}""#), "{page}");
}

/// What ships has to reach the figure of the design. This test usually runs without optimisation and beside others, so
/// there the limit leaves room, and catches only work that grows faster than the page.
const PAGE_TIME: Duration = Duration::from_millis(if cfg!(debug_assertions) { 100 } else { 20 });

#[test]
fn a_page_of_250_workloads_is_written_in_time() {
    let mut snapshot = busy(250);
    for workload in &mut snapshot.workloads {
        for reason in [Reason::NotAllowlisted, Reason::PortNotAllowed, Reason::Denied, Reason::Quarantined] {
            workload.state.counts[reason as usize] = [1, 2, 0, 0];
        }
    }
    // Other processes share the machine: the quickest of several tells what the work takes.
    let quickest = (0..20).map(|_| {
        let start = Instant::now();
        let length = page(&snapshot).len();
        (start.elapsed(), length)
    });
    let (elapsed, length) = quickest.min().unwrap();
    println!("250 workloads, 8 violation series each: {length} bytes in {elapsed:?}");
    assert!(elapsed < PAGE_TIME, "{elapsed:?}");
}
