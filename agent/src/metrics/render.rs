//! A [`Snapshot`] as a page of Prometheus' text format.

use std::collections::{BTreeMap, BTreeSet};
use std::time::UNIX_EPOCH;

use egress_warden_common::grant::Rejection;
use egress_warden_common::reason::Protocol;
use egress_warden_common::state::State;
use egress_warden_common::{ABI_VERSION, Reason};
use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric as Sample, MetricFamily, MetricType,
};

use super::catalogue::{self as metric, Kind, Metric};
use crate::allowlist::Action;
use crate::enforce::Snapshot;
use crate::enforce::dns::QUERY_REASONS;
use crate::enforce::snapshot::{DELAY_BOUNDS, Delays, Tier, WorkloadStatus};
use crate::policy::Mode;
use crate::reach::Reach;
use crate::text::visible;

/// Media type of the page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Values of a metric's labels, in the catalogue's order.
type Labels = Vec<String>;
/// Figures by labels: a page that names one series twice is refused whole.
type Series = BTreeMap<Labels, u64>;
/// One of a workload's counters.
type Counted = fn(&State) -> u64;

/// The page.
///
/// # Errors
/// When the encoder refuses the figures.
pub fn render(snapshot: &Snapshot) -> prometheus::Result<String> {
    let mut page = Page::default();
    violations(&mut page, snapshot);
    counters(&mut page, snapshot);
    quarantine(&mut page, snapshot);
    workloads(&mut page, snapshot);
    allowlists(&mut page, snapshot);
    kernel(&mut page, snapshot);
    names(&mut page, snapshot);
    selftest(&mut page, snapshot);
    page.one(&metric::BUILD_INFO, &[env!("CARGO_PKG_VERSION"), &ABI_VERSION.to_string()], 1.0);
    TextEncoder::new().encode_to_string(&page.0)
}

#[derive(Default)]
struct Page(Vec<MetricFamily>);

impl Page {
    fn one(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        self.family(metric, vec![sample(metric, labels, value)]);
    }

    fn series(&mut self, metric: &Metric, series: impl IntoIterator<Item = (Labels, u64)>) {
        #[expect(clippy::cast_precision_loss, reason = "the format's figures are doubles")]
        let samples =
            series.into_iter().map(|(labels, value)| sample(metric, labels, value as f64)).collect();
        self.family(metric, samples);
    }

    /// The format has no family without a sample.
    fn family(&mut self, metric: &Metric, samples: Vec<Sample>) {
        if samples.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(metric.full_name());
        family.set_help(metric.help.to_owned());
        family.set_field_type(match metric.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(samples);
        self.0.push(family);
    }
}

fn sample(metric: &Metric, labels: Labels, value: f64) -> Sample {
    assert_eq!(metric.labels.len(), labels.len(), "labels of {}", metric.name);
    let pairs = metric.labels.iter().zip(labels).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value);
        pair
    });
    let mut sample = Sample::from_label(pairs.collect());
    match metric.kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        }
        Kind::Gauge | Kind::Histogram => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        }
    }
    sample
}

fn violations(page: &mut Page, snapshot: &Snapshot) {
    page.series(&metric::VIOLATIONS, per_workload(snapshot, violations_of));
    let mut node = Series::new();
    for policy in &snapshot.policies {
        for reason in Reason::ALL.iter().filter(|reason| !reason.allows()) {
            node.insert(labels([&policy.name, mode(policy.mode), reason.name()]), 0);
        }
    }
    for cell in &snapshot.node_violations {
        *node.entry(labels([&cell.policy, mode(cell.mode), cell.reason.name()])).or_default() += cell.count;
    }
    page.series(&metric::NODE_VIOLATIONS, node);
}

/// What the kernel counts of a workload besides violations.
fn counters(page: &mut Page, snapshot: &Snapshot) {
    let counters: [(&Metric, Counted); 5] = [
        (&metric::REFUSED_DESTINATIONS_LOST, |state| state.destinations_lost),
        (&metric::REPLIES_REFUSED, |state| state.replies_refused),
        (&metric::FORGED_DROPPED, |state| state.forged_dropped),
        (&metric::UDP_FLOWS_EVICTED, |state| state.udp_flows_evicted),
        (&metric::STORAGE_FAILED, |state| state.storage_failed),
    ];
    for (metric, count) in counters {
        page.series(metric, per_workload(snapshot, |workload| vec![(Labels::new(), count(&workload.state))]));
    }
}

fn violations_of(workload: &WorkloadStatus) -> Vec<(Labels, u64)> {
    let mut cells = Vec::new();
    for reason in Reason::ALL {
        for (protocol, count) in Protocol::ALL.iter().zip(workload.state.counts[*reason as usize]) {
            if count > 0 {
                // Of all labels these are written most often, and none of them comes from a user.
                let labels = [mode(workload.mode), reason.name(), protocol.name()];
                cells.push((labels.map(str::to_owned).to_vec(), count));
            }
        }
    }
    cells
}

/// Figures of workloads that are not zero. A workload may have taken the path of one that is gone: the newer one's
/// figure replaces the older one's, which Prometheus takes for a counter that began again.
///
/// By workload first: all labels in one key would spend most of a scrape on comparing their common beginnings.
fn per_workload(
    snapshot: &Snapshot,
    figures: impl Fn(&WorkloadStatus) -> Vec<(Labels, u64)>,
) -> impl Iterator<Item = (Labels, u64)> {
    let counted = |workload: &WorkloadStatus| {
        let figures: Vec<_> = figures(workload).into_iter().filter(|(_, count)| *count > 0).collect();
        (!figures.is_empty()).then(|| (labels_of(workload), figures))
    };
    let mut all: BTreeMap<Labels, Series> = BTreeMap::new();
    for (whose, figures) in snapshot.gone.iter().filter_map(counted) {
        all.entry(whose).or_default().extend(figures);
    }
    let mut present: BTreeMap<Labels, Series> = BTreeMap::new();
    for (whose, figures) in snapshot.workloads.iter().filter_map(counted) {
        let series = present.entry(whose).or_default();
        // Paths that differ only in what cannot be shown have one name here.
        figures.into_iter().for_each(|(more, count)| *series.entry(more).or_default() += count);
    }
    for (whose, series) in present {
        all.entry(whose).or_default().extend(series);
    }
    all.into_iter().flat_map(|(whose, series)| {
        series.into_iter().map(move |(more, count)| (whose.iter().cloned().chain(more).collect(), count))
    })
}

fn quarantine(page: &mut Page, snapshot: &Snapshot) {
    let mut quarantines = Series::new();
    let mut would = Series::new();
    for policy in &snapshot.policies {
        for action in [Action::Isolate, Action::Freeze, Action::Kill] {
            quarantines.insert(labels([policy.name.as_str(), action_name(action)]), 0);
        }
        would.insert(labels([policy.name.as_str()]), 0);
    }
    for total in &snapshot.quarantines {
        *quarantines.entry(labels([total.policy.as_str(), action_name(total.action)])).or_default() +=
            total.count;
    }
    for (policy, count) in &snapshot.would_quarantine {
        *would.entry(labels([policy.as_str()])).or_default() += count;
    }
    page.series(&metric::QUARANTINES, quarantines);
    page.series(&metric::WOULD_QUARANTINE, would);
    let mut quarantined = Series::new();
    for workload in &snapshot.workloads {
        let flag = quarantined.entry(labels_of(workload)).or_default();
        *flag = u64::from(workload.quarantine.is_some()).max(*flag);
    }
    page.series(&metric::QUARANTINED, quarantined);
}

fn workloads(page: &mut Page, snapshot: &Snapshot) {
    let mut selected = Series::new();
    for policy in &snapshot.policies {
        selected.insert(labels([policy.name.as_str(), mode(policy.mode)]), 0);
    }
    let mut tiers: Series = Tier::ALL.iter().map(|tier| (labels([tier.name()]), 0)).collect();
    for workload in &snapshot.workloads {
        *selected.entry(labels([workload.policy.as_str(), mode(workload.mode)])).or_default() += 1;
        *tiers.entry(labels([workload.tier.name()])).or_default() += 1;
    }
    page.series(&metric::WORKLOADS, selected);
    page.series(&metric::WORKLOAD_TIER, tiers);
    let exposed = |by: fn(&Reach) -> bool| {
        snapshot.workloads.iter().filter(|one| one.reach.as_ref().is_some_and(by)).count() as u64
    };
    let capabilities = exposed(|reach| reach.capabilities.as_ref().is_some_and(|all| !all.held.is_empty()));
    let devices = exposed(|reach| reach.rdma.is_in_reach());
    let exposed = [("capabilities", capabilities), ("devices", devices)];
    page.series(&metric::EXPOSED, exposed.map(|(by, count)| (labels([by]), count)));
    let older = snapshot.older;
    let older = [("kept", older.kept), ("cut", older.cut), ("judged", older.judged)];
    page.series(&metric::EXISTING, older.map(|(outcome, count)| (labels([outcome]), count)));
    page.family(&metric::ENFORCEMENT_DELAY, vec![delays(&snapshot.enforcement_delay)]);
    page.one(&metric::UNENFORCED, &[], snapshot.unenforced_seconds);
    page.one(&metric::READY, &[], truth(snapshot.ready.is_ok()));
}

fn delays(delays: &Delays) -> Sample {
    let mut so_far = 0;
    let buckets = DELAY_BOUNDS.iter().zip(delays.buckets).map(|(bound, count)| {
        so_far += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(so_far);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(delays.count);
    histogram.set_sample_sum(delays.sum);
    let mut sample = Sample::default();
    sample.set_histogram(histogram);
    sample
}

fn allowlists(page: &mut Page, snapshot: &Snapshot) {
    let at = snapshot.reload.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    page.one(&metric::RELOAD_SUCCESSFUL, &[], truth(snapshot.reload.outcome.is_ok()));
    page.one(&metric::RELOAD_TIMESTAMP, &[], at.as_secs_f64());
    let hashes = snapshot.policies.iter().map(|policy| {
        let hash = format!("{:016x}", policy.ruleset);
        (labels([policy.name.as_str(), hash.as_str()]), 1)
    });
    page.series(&metric::RULESET_INFO, hashes.collect::<Series>());
}

fn selftest(page: &mut Page, snapshot: &Snapshot) {
    if let Some((_, outcome)) = &snapshot.selftest.last {
        page.one(&metric::SELFTEST_PASSING, &[], if outcome.is_ok() { 1.0 } else { 0.0 });
    }
    if let Some(passed) = snapshot.selftest.passed_at {
        let since = passed.duration_since(UNIX_EPOCH).unwrap_or_default();
        page.one(&metric::SELFTEST_LAST_PASS, &[], since.as_secs_f64());
    }
}

fn kernel(page: &mut Page, snapshot: &Snapshot) {
    page.series(&metric::RECORDS_LOST, Series::from([(Labels::new(), snapshot.records_lost)]));
    let maps = |figure: fn(&crate::enforce::snapshot::MapUsage) -> u64| -> Series {
        snapshot.maps.iter().map(|map| (labels([map.map]), figure(map))).collect()
    };
    page.series(&metric::MAP_ENTRIES, maps(|map| map.entries));
    page.series(&metric::MAP_CAPACITY, maps(|map| map.capacity));
}

fn names(page: &mut Page, snapshot: &Snapshot) {
    let dns = &snapshot.dns;
    let count = |sums: &BTreeMap<String, u64>, name: &str| sums.get(name).copied().unwrap_or_default();
    let allowed = Reason::Allowed.name();
    let mut queries = Series::from([(labels(["allowed", allowed]), dns.allowed)]);
    for reason in QUERY_REASONS.map(Reason::name) {
        queries.insert(labels(["refused", reason]), count(&dns.refused, reason));
    }
    page.series(&metric::DNS_QUERIES, queries);
    let rejected = Rejection::ALL.iter().map(|rejection| rejection.name());
    let rejected = rejected.map(|reason| (labels([reason]), count(&dns.rejected, reason)));
    page.series(&metric::DNS_GRANTS_REJECTED, rejected.collect::<Series>());
    page.series(&metric::DNS_ANSWERS_TRUNCATED, [(Labels::new(), dns.truncated)]);
    let open = |workload: &WorkloadStatus| {
        // One that is open for two names is one address.
        let addresses: BTreeSet<_> = workload.grants.iter().map(|grant| grant.address).collect();
        addresses.len() as u64
    };
    page.series(&metric::DNS_GRANTS, [(Labels::new(), snapshot.workloads.iter().map(open).sum())]);
}

/// Paths and names come from users. The encoder escapes what would break the format; what would reach the terminal of
/// somebody who reads the page is escaped here.
fn labels<const N: usize>(values: [&str; N]) -> Labels {
    values.map(visible).to_vec()
}

fn labels_of(workload: &WorkloadStatus) -> Labels {
    let (namespace, pod) =
        workload.pod.as_ref().map_or(("", ""), |pod| (pod.namespace.as_str(), pod.name.as_str()));
    labels([namespace, pod, &workload.label, &workload.policy])
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
    }
}

const fn action_name(action: Action) -> &'static str {
    match action {
        Action::Isolate => "isolate",
        Action::Freeze => "freeze",
        Action::Kill => "kill",
    }
}

const fn truth(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests;
