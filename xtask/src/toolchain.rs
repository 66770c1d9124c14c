//! Which compiler and linker build the kernel programs.
//!
//! Facts are probed once; the plan is a pure function of them. The agent's build script includes this file as well, so
//! `cargo build` and `cargo xtask` can never disagree, and it needs nothing but std.
//!
//! Route A: a rustup nightly that has the `rust-src` component builds `core` for the BPF target itself. Route B: the
//! distribution's compiler with the prebuilt `core` that the distribution ships for that target. Both end in
//! bpf-linker, which reads the compiler's bitcode and therefore has to be built with the same LLVM.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The target of the kernel programs; every machine that runs them is little-endian.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// The package that holds them.
pub(crate) const PACKAGE: &str = "egress-warden-ebpf";
/// Where a distribution puts its own compiler. rustup's is never there.
pub(crate) const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";

/// One compiler, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// Major and minor of its release.
    pub(crate) release: (u32, u32),
    /// Major of the LLVM in it.
    pub(crate) llvm: u32,
    /// Whether `core` for [`TARGET`] is there: as source (nightly) or prebuilt (distribution).
    pub(crate) core: bool,
}

/// One bpf-linker that starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Linker {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Major of the LLVM it was built with, where that can be told.
    pub(crate) llvm: Option<u32>,
}

/// What the machine offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// rustup's nightly.
    pub(crate) nightly: Option<Compiler>,
    /// The distribution's compiler.
    pub(crate) distribution: Option<Compiler>,
    /// Every bpf-linker found, the project's own ones first.
    pub(crate) linkers: Vec<Linker>,
}

/// How `core` for the BPF target comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// rustup's nightly builds it from `rust-src`.
    Nightly,
    /// The distribution ships it.
    Distribution,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Route::Nightly => "route A (rustup's nightly with rust-src)",
            Route::Distribution => "route B (the distribution's rustc with its prebuilt core)",
        })
    }
}

/// Why one route cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No such compiler.
    Compiler(Route),
    /// The compiler is older than the workspace allows.
    TooOld { route: Route, release: (u32, u32), needed: (u32, u32) },
    /// The compiler has no `core` for the BPF target.
    Core(Route),
    /// No bpf-linker at all.
    Linker { llvm: u32 },
    /// Only ones that were built with another LLVM.
    OtherLlvm { llvm: u32, found: Linker },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Compiler(Route::Nightly) => f.write_str("rustup has no nightly toolchain"),
            Missing::Compiler(Route::Distribution) => write!(f, "there is no {DISTRIBUTION_RUSTC}"),
            Missing::TooOld { route, release: (major, minor), needed } => write!(
                f,
                "{} is Rust {major}.{minor}, and {}.{} is needed",
                compiler_name(*route),
                needed.0,
                needed.1
            ),
            Missing::Core(Route::Nightly) => f.write_str("rustup's nightly has no rust-src component"),
            Missing::Core(Route::Distribution) => {
                write!(f, "{DISTRIBUTION_RUSTC} has no core library for {TARGET}")
            }
            Missing::Linker { llvm } => {
                write!(f, "there is no bpf-linker (one built with LLVM {llvm} is needed)")
            }
            Missing::OtherLlvm { llvm, found } => match found.llvm {
                Some(other) => write!(
                    f,
                    "{} was built with LLVM {other}, and the compiler has LLVM {llvm}",
                    found.path.display()
                ),
                None => write!(
                    f,
                    "{} does not tell its LLVM, and the compiler has LLVM {llvm}",
                    found.path.display()
                ),
            },
        }
    }
}

fn compiler_name(route: Route) -> &'static str {
    match route {
        Route::Nightly => "rustup's nightly",
        Route::Distribution => DISTRIBUTION_RUSTC,
    }
}

/// Neither route can be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoRoute {
    /// What route A lacks.
    pub(crate) nightly: Missing,
    /// What route B lacks.
    pub(crate) distribution: Missing,
}

impl NoRoute {
    /// What the route that is nearer to working lacks: a missing linker is nearer than a missing compiler.
    #[must_use]
    pub(crate) fn nearest(&self) -> &Missing {
        let lacks_linker =
            |missing: &Missing| matches!(missing, Missing::Linker { .. } | Missing::OtherLlvm { .. });
        if lacks_linker(&self.nightly) && !lacks_linker(&self.distribution) {
            &self.nightly
        } else {
            &self.distribution
        }
    }
}

impl fmt::Display for NoRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nearest = self.nearest();
        let other = if *nearest == self.nightly { &self.distribution } else { &self.nightly };
        write!(f, "cannot build the kernel programs: {nearest}")?;
        if other != nearest {
            write!(f, " ({other})")?;
        }
        f.write_str("; run `cargo xtask setup`")
    }
}

impl std::error::Error for NoRoute {}

/// A chosen route with its tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The route.
    pub(crate) route: Route,
    /// Major of the compiler's and the linker's LLVM.
    pub(crate) llvm: u32,
    /// The linker.
    pub(crate) linker: PathBuf,
}

/// The exact command of a plan, before the environment of the outer build is taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invocation {
    /// The program.
    pub(crate) program: OsString,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// What it gets in its environment.
    pub(crate) env: Vec<(&'static str, OsString)>,
}

/// Chooses a route: A where it is complete, else B. `needed` is the oldest release the workspace compiles with.
///
/// # Errors
/// What each of the two routes lacks.
pub(crate) fn plan(facts: &Facts, needed: (u32, u32)) -> Result<Plan, NoRoute> {
    let nightly = match route(Route::Nightly, facts.nightly.as_ref(), &facts.linkers, needed) {
        Ok(plan) => return Ok(plan),
        Err(missing) => missing,
    };
    route(Route::Distribution, facts.distribution.as_ref(), &facts.linkers, needed)
        .map_err(|distribution| NoRoute { nightly, distribution })
}

/// Whether one route is complete.
///
/// # Errors
/// The first thing that it lacks.
pub(crate) fn route(
    route: Route,
    compiler: Option<&Compiler>,
    linkers: &[Linker],
    needed: (u32, u32),
) -> Result<Plan, Missing> {
    let compiler = compiler.ok_or(Missing::Compiler(route))?;
    if compiler.release < needed {
        return Err(Missing::TooOld { route, release: compiler.release, needed });
    }
    if !compiler.core {
        return Err(Missing::Core(route));
    }
    let llvm = compiler.llvm;
    if let Some(linker) = linkers.iter().find(|linker| linker.llvm == Some(llvm)) {
        return Ok(Plan { route, llvm, linker: linker.path.clone() });
    }
    Err(match linkers.first() {
        Some(found) => Missing::OtherLlvm { llvm, found: found.clone() },
        None => Missing::Linker { llvm },
    })
}

impl Plan {
    /// The command that builds the kernel programs into `target_dir`. `cargo` is the one that runs the outer build.
    #[must_use]
    pub(crate) fn invocation(&self, cargo: &OsStr, target_dir: &Path) -> Invocation {
        let mut args: Vec<OsString> = Vec::new();
        let mut env = Vec::new();
        let program = match self.route {
            Route::Nightly => {
                args.extend(["run", "nightly", "cargo"].map(OsString::from));
                OsString::from("rustup")
            }
            Route::Distribution => {
                env.push(("RUSTC", OsString::from(DISTRIBUTION_RUSTC)));
                // aya-ebpf uses an unstable feature, and this compiler calls itself stable.
                env.push(("RUSTC_BOOTSTRAP", OsString::from("1")));
                cargo.to_os_string()
            }
        };
        args.extend(["build", "--release", "--locked", "--target", TARGET].map(OsString::from));
        args.extend(["--package", PACKAGE, "--target-dir"].map(OsString::from));
        args.push(target_dir.into());
        if self.route == Route::Nightly {
            args.extend(["-Z", "build-std=core"].map(OsString::from));
        }
        env.push(("CARGO_ENCODED_RUSTFLAGS", self.rustflags()));
        Invocation { program, args, env }
    }

    /// Maps that are defined by BTF, socket storage among them, need BTF, and BTF is made from debug information.
    fn rustflags(&self) -> OsString {
        let mut flags = OsString::from("-Ctarget-cpu=v3\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf\x1f-Clinker=");
        flags.push(&self.linker);
        flags
    }

    /// Where [`Plan::invocation`] leaves the object.
    #[must_use]
    pub(crate) fn object(target_dir: &Path) -> PathBuf {
        target_dir.join(TARGET).join("release").join(PACKAGE)
    }
}

impl Invocation {
    /// The command to run, free of everything that the outer cargo said to its own compiler: clippy's wrapper and the
    /// host's flags would otherwise be applied to the kernel programs.
    #[must_use]
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(belongs_to_outer_build) {
                command.env_remove(name);
            }
        }
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Whether a variable steers the build that this one runs inside. Where packages come from and how cargo reaches them
/// stays as the user has it.
fn belongs_to_outer_build(name: &str) -> bool {
    const KEPT: [&str; 5] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_"];
    const EXACT: [&str; 9] = [
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "TARGET",
        "HOST",
        "OPT_LEVEL",
        "PROFILE",
        "DEBUG",
        "OUT_DIR",
        "CLIPPY_ARGS",
    ];
    if KEPT.iter().any(|kept| name.starts_with(kept)) {
        return false;
    }
    EXACT.contains(&name)
        || ["CARGO", "RUSTC", "RUSTDOC", "DEP_"].iter().any(|prefix| name.starts_with(prefix))
}

/// Reads `rust-version` of a manifest, such as cargo hands to what it compiles.
#[must_use]
pub(crate) fn parse_release(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '-']).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

/// Reads the release and the LLVM major from `rustc -vV`.
#[must_use]
pub(crate) fn parse_version(text: &str) -> Option<((u32, u32), u32)> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let release = parse_release(value("release:")?)?;
    let llvm = value("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((release, llvm))
}

/// Where the project keeps a bpf-linker of its own: per user, so that every clone shares it, and per LLVM, so that none
/// is ever overwritten by one that does not fit. The user's own bpf-linker is used where it fits and never touched.
#[must_use]
pub(crate) fn linker_root(llvm: u32) -> Option<PathBuf> {
    Some(linker_cache()?.join(format!("llvm-{llvm}")))
}

fn linker_cache() -> Option<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(cache) => cache,
        None => env::home_dir()?.join(".cache"),
    };
    Some(base.join("egress-warden"))
}

impl Facts {
    /// Looks at this machine.
    #[must_use]
    pub(crate) fn probe() -> Facts {
        Facts { nightly: probe_nightly(), distribution: probe_distribution(), linkers: probe_linkers() }
    }
}

fn probe_nightly() -> Option<Compiler> {
    // A look at the machine must not make rustup fetch a toolchain.
    let run = |args: &[&str]| {
        let mut rustup = Command::new("rustup");
        stdout_of(rustup.env("RUSTUP_AUTO_INSTALL", "0").args(["run", "nightly", "rustc"]).args(args))
    };
    let (release, llvm) = parse_version(&run(&["-vV"])?)?;
    let sysroot = PathBuf::from(run(&["--print", "sysroot"])?.trim());
    Some(Compiler { release, llvm, core: sysroot.join("lib/rustlib/src/rust/library/core").is_dir() })
}

fn probe_distribution() -> Option<Compiler> {
    let run = |args: &[&str]| stdout_of(Command::new(DISTRIBUTION_RUSTC).args(args));
    let (release, llvm) = parse_version(&run(&["-vV"])?)?;
    let library = run(&["--print", "target-libdir", "--target", TARGET])?;
    let core = fs::read_dir(library.trim()).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    });
    Some(Compiler { release, llvm, core })
}

fn probe_linkers() -> Vec<Linker> {
    let own = linker_cache().and_then(|cache| fs::read_dir(cache).ok()).into_iter().flatten().flatten();
    let mut candidates: Vec<PathBuf> = own.map(|entry| entry.path().join("bin")).collect();
    candidates.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    candidates.extend(env::var_os("CARGO_HOME").map(|home| PathBuf::from(home).join("bin")));
    candidates.extend(env::home_dir().map(|home| home.join(".cargo/bin")));
    let mut linkers: Vec<Linker> = Vec::new();
    for path in candidates.into_iter().map(|directory| directory.join("bpf-linker")) {
        // One whose libLLVM was removed is still a file, but it does not start.
        let starts = || stdout_of(Command::new(&path).arg("--version")).is_some();
        if path.is_file() && linkers.iter().all(|known| known.path != path) && starts() {
            let llvm = fs::read(&path).ok().and_then(|bytes| llvm_of_binary(&bytes));
            linkers.push(Linker { path, llvm });
        }
    }
    linkers
}

/// The LLVM major in a binary. `bpf-linker --version` does not tell it, but a dynamic build names the library that it
/// needs (`libLLVM.so.22.1`, `libLLVM-19.so`) and a static one carries the name that LLVM writes into bitcode
/// (`LLVM22.1.8`).
fn llvm_of_binary(bytes: &[u8]) -> Option<u32> {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == b'L') {
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix(b"LLVM") {
            let after = after.strip_prefix(b".so.").or_else(|| after.strip_prefix(b"-")).unwrap_or(after);
            let digits = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let number = std::str::from_utf8(&after[..digits]).ok().and_then(|text| text.parse().ok());
            if after.get(digits) == Some(&b'.') && number.is_some() {
                return number;
            }
        }
        rest = &rest[1..];
    }
    None
}

/// What a command prints, or nothing if it does not start or does not succeed.
fn stdout_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
#[path = "toolchain_tests.rs"]
mod tests;
