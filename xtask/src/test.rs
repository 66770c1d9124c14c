//! `cargo xtask test`.

use anyhow::Result;

use crate::run::{agent_binary, cargo, need_root, run};
use crate::{no_arguments, setup};

/// Help of the task.
pub(crate) const HELP: &str = "\
Usage: cargo xtask test

Runs every test that needs no virtual machine and no cluster: the unit and property tests of all crates, then the tests
on this machine's own kernel (tests/tests/), against the binary that ships. Installs what they need first, if it is
missing (`cargo xtask setup build test`). Needs root: a test that cannot run is a failure, not a skip. Programs are
attached only to cgroups that a test made, and traffic stays inside network namespaces that a test made.";

/// The crate whose tests need a real kernel.
const KERNEL_TESTS: &str = "egress-warden-tests";

/// Runs the task.
pub(crate) fn task(args: &[String]) -> Result<()> {
    no_arguments(args)?;
    need_root("`cargo xtask test`")?;
    setup::ensure(&[setup::Group::Build, setup::Group::Test])?;
    run(cargo().args(["build", "--release", "--package", "egress-warden"]))?;
    run(cargo().args(["test", "--workspace", "--exclude", "egress-warden-ebpf", "--exclude", KERNEL_TESTS]))?;
    // Each of these tests has namespaces, cgroups and processes of its own; a few at a time keep timings meaningful.
    run(cargo()
        .args(["test", "--package", KERNEL_TESTS, "--", "--test-threads", "2"])
        .env("EGRESS_WARDEN_BIN", agent_binary()))
}
