//! `cargo xtask setup`: makes a machine ready.
//!
//! First the machine is asked what it has, then what is missing is installed, each thing with the reason. What cannot
//! be installed from here ends in the exact commands for somebody who can.

mod apt;
mod kernel_programs;
mod needs;

use anyhow::{Result, bail};

pub(crate) use needs::Group;

use crate::toolchain::parse_release;
use apt::Apt;
use needs::{ALL_NEEDS, Need};

/// Help of the task.
pub(crate) const HELP: &str = "\
Usage: cargo xtask setup [--check] [GROUP]...

Makes this machine ready, says what it installs and why, and changes nothing where nothing is missing.

Groups (all of them by default):
  build   a C linker, and a compiler with a linker for kernel programs
  test    what the tests on the real kernel need
  demo    the real proxy, package index and clients of the demo
  vm      QEMU and what is in the test machines

The kernel programs need a compiler that has `core` for the BPF target and a bpf-linker built with the same LLVM:
  route A  rustup's nightly with its rust-src component; taken where it is there or can be had
  route B  the distribution's rustc with its prebuilt core (Debian: rustc-web, or rustc); needs apt and root

  --check  install nothing; tell what is missing and how to get it, and fail if anything is";

/// What the caller wants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Install what is missing.
    Install,
    /// Only tell.
    Check,
}

/// Runs the task.
pub(crate) fn task(args: &[String]) -> Result<()> {
    let mut mode = Mode::Install;
    let mut groups = Vec::new();
    for arg in args {
        match (arg.as_str(), Group::from_name(arg)) {
            ("--check", _) => mode = Mode::Check,
            (_, Some(group)) => groups.push(group),
            _ => bail!("unexpected argument `{arg}`; see `cargo xtask setup --help`"),
        }
    }
    if groups.is_empty() {
        groups = Group::ALL.to_vec();
    }
    prepare(&groups, mode, true)
}

/// Installs what other tasks need, and is silent where nothing is missing.
pub(crate) fn ensure(groups: &[Group]) -> Result<()> {
    prepare(groups, Mode::Install, false)
}

fn prepare(groups: &[Group], mode: Mode, tell_present: bool) -> Result<()> {
    let needed = parse_release(env!("CARGO_PKG_RUST_VERSION")).expect("rust-version is a version");
    let mut apt = Apt::probe();
    let mut open: Vec<String> = Vec::new();

    let (present, missing): (Vec<&Need>, Vec<&Need>) = ALL_NEEDS
        .iter()
        .filter(|need| need.groups.iter().any(|group| groups.contains(group)))
        .partition(|need| need.is_met());
    if tell_present {
        present.iter().for_each(|need| println!("have     {:<12} {}", need.what, need.why));
    }
    for need in &missing {
        println!("missing  {:<12} {}", need.what, need.why);
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    if !packages.is_empty() {
        open.extend(apt.install(&packages, "for what is missing above", mode)?);
    }
    if groups.contains(&Group::Build) {
        open.extend(kernel_programs::prepare(&mut apt, needed, mode, tell_present)?);
    }
    if !open.is_empty() {
        bail!("this machine is not ready; what is left to do:\n  {}", open.join("\n  "));
    }
    // A package that installed without bringing what it was chosen for would otherwise show up much later.
    if let Some(need) = missing.iter().find(|need| !need.is_met()) {
        bail!("{} is still missing after installing {}", need.what, need.packages.join(" "));
    }
    if tell_present {
        println!("this machine is ready");
    }
    Ok(())
}
