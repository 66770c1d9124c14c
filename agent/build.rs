//! Builds the kernel programs and leaves them as `OUT_DIR/egress-warden.bpf.o`, which the agent embeds: a binary can
//! never ship with a stale object.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "../xtask/src/toolchain.rs"]
#[expect(dead_code, reason = "xtask uses the rest")]
mod toolchain;

use toolchain::{Facts, Plan};

fn main() {
    // Each line becomes one `error:` of cargo's own; a panic or an exit code would add a dump of this script's output.
    if let Err(message) = build() {
        for line in message.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn build() -> Result<(), String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the agent has no workspace")?;
    for input in
        ["ebpf/src", "ebpf/Cargo.toml", "common/src", "common/Cargo.toml", "Cargo.toml", "Cargo.lock"]
    {
        rerun_if_changed(&workspace.join(input));
    }
    rerun_if_changed(&workspace.join("xtask/src/toolchain.rs"));
    rerun_if_changed(Path::new(toolchain::DISTRIBUTION_RUSTC));

    let needed =
        toolchain::parse_release(env!("CARGO_PKG_RUST_VERSION")).ok_or("rust-version is no version")?;
    let plan = toolchain::plan(&Facts::probe(), needed).map_err(|missing| missing.to_string())?;
    rerun_if_changed(&plan.linker);

    let out = PathBuf::from(variable("OUT_DIR")?);
    // One directory for all profiles, beside theirs: debug, release, clippy and doc embed the same object, and cargo
    // sees for itself whether it is fresh. A build of its own for each would cost half a minute each.
    let target_dir = out.ancestors().nth(4).unwrap_or(&out).join(toolchain::PACKAGE);
    let invocation = plan.invocation(&variable("CARGO")?, &target_dir);
    let output = invocation
        .command()
        .current_dir(workspace)
        .output()
        .map_err(|error| format!("cannot start {}: {error}", invocation.program.display()))?;
    if !output.status.success() {
        return Err(format!("the kernel programs do not build:\n{}", errors(&output.stderr)));
    }
    let object = Plan::object(&target_dir);
    fs::copy(&object, out.join("egress-warden.bpf.o"))
        .map(drop)
        .map_err(|error| format!("cannot copy {}: {error}", object.display()))
}

fn rerun_if_changed(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set; this script is run by cargo"))
}

/// What the compiler said, without cargo's lines about what it was doing.
fn errors(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let start = ["error", "warning"].iter().filter_map(|word| text.find(word)).min().unwrap_or(0);
    text[start..].trim_end().to_owned()
}
