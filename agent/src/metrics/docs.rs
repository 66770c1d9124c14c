//! docs/metrics.md, written from the catalogue.

use super::catalogue::{EXPORTED, Metric};

const HEAD: &str = "\
# Metrics

<!-- Written by `cargo xtask codegen` from agent/src/metrics/catalogue.rs; a test fails where they differ. -->

`GET /metrics` of the agent, in the Prometheus text format 0.0.4; counters are read from the kernel for each scrape. It listens
where `metrics.listen` or `--metrics-listen` says, 127.0.0.1:9464 by default. `/healthz` answers 200 while the agent lives,
`/readyz` 200 while every selected workload is enforced, else 503 and the reason. GET only, 16 connections at once; a client
has 5 s for its request and 10 s for all.

`workload` is the pod's UID or the path of the cgroup, characters that could mislead a terminal escaped; `namespace` and `pod`
are empty where no pod is known. A merged policy is the names of its parts, sorted and joined by `+`. Where one workload took
the path of another, the one that is there is told.

Alerts: `deploy/alerts.yaml`, each with a section in the [runbook](runbook.md#alerts).

";

/// The page.
#[must_use]
pub fn markdown() -> String {
    format!("{HEAD}{}", table(EXPORTED))
}

fn table(metrics: &[Metric]) -> String {
    let mut table =
        "| metric | type | labels | unit | tells | series exist |\n| --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
    for metric in metrics {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
        table += &format!(
            "| `{}` | {} | {labels} | {} | {} | {} |\n",
            metric.full_name(),
            metric.kind.name(),
            metric.unit,
            metric.help,
            metric.exists
        );
    }
    table
}
