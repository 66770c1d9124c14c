//! A compiler and a linker for the kernel programs, by the route that the machine offers.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Mode;
use super::apt::Apt;
use crate::run::{has_program, run, typed};
use crate::toolchain::{self, Compiler, Facts, Missing, Route};

/// Makes one of the two routes work. Returns what is left to do where that cannot be done from here.
pub(crate) fn prepare(apt: &mut Apt, needed: (u32, u32), mode: Mode, tell: bool) -> Result<Vec<String>> {
    let facts = Facts::probe();
    let no_route = match toolchain::plan(&facts, needed) {
        Ok(plan) => {
            if tell {
                println!("have     kernel programs: {}, {}", plan.route, plan.linker.display());
            }
            return Ok(Vec::new());
        }
        Err(no_route) => no_route,
    };
    println!("missing  kernel programs: {}", no_route.nearest());
    if mode == Mode::Check {
        return Ok(instructions(apt, &facts, needed));
    }
    let refused = match nightly(apt, needed)? {
        Ok(()) => return report(needed),
        Err(reason) => reason,
    };
    println!("choose   route B, as route A is not to be had: {refused}");
    if !apt.usable() {
        return Ok(instructions(apt, &facts, needed));
    }
    distribution(apt, needed)?;
    report(needed)
}

fn report(needed: (u32, u32)) -> Result<Vec<String>> {
    let plan = toolchain::plan(&Facts::probe(), needed)?;
    println!("ready    kernel programs: {}, {}", plan.route, plan.linker.display());
    Ok(Vec::new())
}

/// Tries route A. The inner error is why it is not to be had here.
fn nightly(apt: &mut Apt, needed: (u32, u32)) -> Result<std::result::Result<(), String>> {
    if !has_program("rustup") {
        return Ok(Err("there is no rustup".to_owned()));
    }
    if Facts::probe().nightly.is_none() {
        println!("install  rustup's nightly: route A builds core with it");
        if !quietly(Command::new("rustup").args(["toolchain", "install", "nightly", "--profile", "minimal"]))
        {
            return Ok(Err("rustup cannot fetch a nightly".to_owned()));
        }
    }
    if !Facts::probe().nightly.is_some_and(|nightly| nightly.core) {
        println!("install  rust-src: the source of core, for route A");
        if !quietly(Command::new("rustup").args(["component", "add", "rust-src", "--toolchain", "nightly"])) {
            return Ok(Err("rustup cannot fetch rust-src for its nightly".to_owned()));
        }
    }
    let facts = Facts::probe();
    match toolchain::route(Route::Nightly, facts.nightly.as_ref(), &facts.linkers, needed) {
        Ok(_) => Ok(Ok(())),
        Err(Missing::Linker { llvm } | Missing::OtherLlvm { llvm, .. }) => {
            let library = format!("llvm-{llvm}-dev");
            let obtainable = has_llvm(llvm) || (apt.usable() && apt.offers(&library));
            if !obtainable {
                return Ok(Err(format!("no LLVM {llvm} library to build bpf-linker with")));
            }
            linker(apt, llvm)?;
            Ok(Ok(()))
        }
        Err(missing) => Ok(Err(missing.to_string())),
    }
}

/// Takes route B.
fn distribution(apt: &mut Apt, needed: (u32, u32)) -> Result<()> {
    let fits = |compiler: &Compiler| compiler.core && compiler.release >= needed;
    if !Facts::probe().distribution.is_some_and(|compiler| fits(&compiler)) {
        let Some(packages) = compiler_packages(apt) else {
            bail!(
                "this release of Debian has neither libstd-rust-web-dev-bpf nor libstd-rust-dev-bpf; use route A: \
                 rustup toolchain install nightly --component rust-src"
            );
        };
        apt.install(packages, "a compiler that has core for the BPF target", Mode::Install)?;
    }
    let facts = Facts::probe();
    match toolchain::route(Route::Distribution, facts.distribution.as_ref(), &facts.linkers, needed) {
        Ok(_) => Ok(()),
        Err(Missing::Linker { llvm } | Missing::OtherLlvm { llvm, .. }) => linker(apt, llvm),
        Err(missing) => bail!("{missing}, and that is the newest one this system offers"),
    }
}

/// The compiler's packages: stable releases get a newer compiler under a name of its own.
fn compiler_packages(apt: &mut Apt) -> Option<&'static [&'static str]> {
    const WEB: [&str; 3] = ["rustc-web", "rust-web-llvm", "libstd-rust-web-dev-bpf"];
    const PLAIN: [&str; 2] = ["rustc", "libstd-rust-dev-bpf"];
    if apt.offers("libstd-rust-web-dev-bpf") {
        Some(&WEB)
    } else if apt.offers("libstd-rust-dev-bpf") {
        Some(&PLAIN)
    } else {
        None
    }
}

/// The packages that building bpf-linker with one LLVM needs.
fn linker_packages(llvm: u32) -> [String; 4] {
    [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"), "libzstd-dev".into(), "zlib1g-dev".into()]
}

fn has_llvm(llvm: u32) -> bool {
    std::path::Path::new(&prefix(llvm)).join("bin/llvm-config").exists()
}

fn prefix(llvm: u32) -> String {
    format!("/usr/lib/llvm-{llvm}")
}

/// Builds a bpf-linker into the project's own place.
fn linker(apt: &mut Apt, llvm: u32) -> Result<()> {
    let packages = linker_packages(llvm);
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    if apt.usable() {
        apt.install(&packages, "the LLVM that bpf-linker is built with", Mode::Install)?;
    }
    println!("install  bpf-linker with LLVM {llvm}, the compiler's own (about a minute)");
    run(&mut linker_install(llvm)?).with_context(|| {
        format!("bpf-linker does not build with LLVM {llvm}; does its current release support it?")
    })
}

fn linker_install(llvm: u32) -> Result<Command> {
    let root = toolchain::linker_root(llvm).context("HOME is not set: there is no place for bpf-linker")?;
    let mut command = Command::new("cargo");
    command.args(["install", "--quiet", "--force", "bpf-linker", "--no-default-features", "--features"]);
    command.arg(format!("llvm-{llvm}")).arg("--root").arg(root).env("LLVM_PREFIX", prefix(llvm));
    // A build of its own, not one inside the target directory of whoever runs this.
    command.env_remove("CARGO_TARGET_DIR").current_dir("/");
    Ok(command)
}

/// What somebody with root or a network would type.
fn instructions(apt: &mut Apt, facts: &Facts, needed: (u32, u32)) -> Vec<String> {
    let mut lines = Vec::new();
    let route_b = toolchain::route(Route::Distribution, facts.distribution.as_ref(), &facts.linkers, needed);
    match route_b {
        Err(Missing::Linker { llvm } | Missing::OtherLlvm { llvm, .. }) => {
            if !has_llvm(llvm) {
                lines.push(format!("as root: apt-get install {}", linker_packages(llvm).join(" ")));
            }
            lines.extend(linker_install(llvm).map(|command| typed(&command)));
        }
        _ if apt.present() => {
            let packages = compiler_packages(apt).unwrap_or(&["rustc", "libstd-rust-dev-bpf"]);
            lines.push(format!("as root: apt-get install --no-install-recommends {}", packages.join(" ")));
            lines.push(
                "then `cargo xtask setup build` again, as root, for the bpf-linker that fits".to_owned(),
            );
        }
        _ => {
            lines.push("rustup toolchain install nightly --component rust-src".to_owned());
            lines.push(
                "and a bpf-linker built with that nightly's LLVM (`rustc +nightly -vV`) on the PATH"
                    .to_owned(),
            );
        }
    }
    lines
}

/// Runs a command whose failure is an answer, not an error.
fn quietly(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
