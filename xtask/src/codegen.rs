//! `cargo xtask codegen`: writes what is generated and committed.

use anyhow::Result;

use crate::no_arguments;
use crate::run::{cargo, run};

/// Help of the task.
pub(crate) const HELP: &str = "\
Usage: cargo xtask codegen

Writes docs/metrics.md from the catalogue of metrics (agent/src/metrics/catalogue.rs). `cargo test` fails where the
committed page differs.";

/// Runs the task. The test that compares writes as well, so that there is one way only to make the page.
pub(crate) fn task(args: &[String]) -> Result<()> {
    no_arguments(args)?;
    run(cargo()
        .args(["test", "--quiet", "--package", "egress-warden", "--test", "metrics_docs"])
        .env("UPDATE_GOLDEN", "1"))
}
