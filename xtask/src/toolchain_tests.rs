//! Every choice of a route and every kind of missing piece.

use super::*;

const NEEDED: (u32, u32) = (1, 95);

fn compiler(release: (u32, u32), llvm: u32, core: bool) -> Option<Compiler> {
    Some(Compiler { release, llvm, core })
}

fn linker(llvm: Option<u32>) -> Linker {
    Linker { path: format!("/tools/{}/bpf-linker", llvm.unwrap_or(0)).into(), llvm }
}

fn strings(args: &[OsString]) -> Vec<&str> {
    args.iter().map(|arg| arg.to_str().unwrap()).collect()
}

#[test]
fn nightly_with_source_wins_and_builds_core_itself() {
    let facts = Facts {
        nightly: compiler((1, 97), 22, true),
        distribution: compiler((1, 96), 22, true),
        linkers: vec![linker(Some(21)), linker(Some(22))],
    };
    let plan = plan(&facts, NEEDED).unwrap();
    assert_eq!(plan, Plan { route: Route::Nightly, llvm: 22, linker: "/tools/22/bpf-linker".into() });

    let invocation = plan.invocation(OsStr::new("cargo"), Path::new("/out"));
    assert_eq!(invocation.program, "rustup");
    assert_eq!(
        strings(&invocation.args).join(" "),
        "run nightly cargo build --release --locked --target bpfel-unknown-none --package egress-warden-ebpf \
         --target-dir /out -Z build-std=core"
    );
    assert_eq!(
        invocation.env,
        [(
            "CARGO_ENCODED_RUSTFLAGS",
            OsString::from(
                "-Ctarget-cpu=v3\u{1f}-Cdebuginfo=2\u{1f}-Clink-arg=--btf\u{1f}-Clinker=/tools/22/bpf-linker"
            )
        )]
    );
}

#[test]
fn distribution_compiler_is_taken_where_nightly_lacks_the_source() {
    let facts = Facts {
        nightly: compiler((1, 97), 22, false),
        distribution: compiler((1, 96), 22, true),
        linkers: vec![linker(Some(22))],
    };
    let plan = plan(&facts, NEEDED).unwrap();
    assert_eq!(plan.route, Route::Distribution);

    let invocation = plan.invocation(OsStr::new("/rust/bin/cargo"), Path::new("/out"));
    assert_eq!(invocation.program, "/rust/bin/cargo");
    assert_eq!(
        strings(&invocation.args).join(" "),
        "build --release --locked --target bpfel-unknown-none --package egress-warden-ebpf --target-dir /out"
    );
    assert_eq!(invocation.env[0], ("RUSTC", OsString::from("/usr/bin/rustc")));
    assert_eq!(invocation.env[1], ("RUSTC_BOOTSTRAP", OsString::from("1")));
    assert_eq!(
        Plan::object(Path::new("/out")),
        Path::new("/out/bpfel-unknown-none/release/egress-warden-ebpf")
    );
}

#[test]
fn a_nightly_whose_llvm_no_linker_fits_leaves_the_distribution() {
    let facts = Facts {
        nightly: compiler((1, 99), 23, true),
        distribution: compiler((1, 96), 22, true),
        linkers: vec![linker(Some(22))],
    };
    assert_eq!(plan(&facts, NEEDED).unwrap().route, Route::Distribution);
}

/// What route B lacks on a machine without any nightly.
fn lacks(distribution: Option<Compiler>, linkers: Vec<Linker>) -> (Missing, String) {
    let error = plan(&Facts { nightly: None, distribution, linkers }, NEEDED).unwrap_err();
    assert_eq!(error.nightly, Missing::Compiler(Route::Nightly));
    (error.distribution.clone(), error.to_string())
}

#[test]
fn nothing_at_all() {
    let (missing, line) = lacks(None, vec![]);
    assert_eq!(missing, Missing::Compiler(Route::Distribution));
    assert_eq!(
        line,
        "cannot build the kernel programs: there is no /usr/bin/rustc (rustup has no nightly toolchain); \
         run `cargo xtask setup`"
    );
}

#[test]
fn too_old() {
    let (missing, line) = lacks(compiler((1, 63), 14, true), vec![linker(Some(14))]);
    assert_eq!(missing, Missing::TooOld { route: Route::Distribution, release: (1, 63), needed: NEEDED });
    assert!(line.contains("/usr/bin/rustc is Rust 1.63, and 1.95 is needed"), "{line}");
}

#[test]
fn no_core() {
    let (missing, line) = lacks(compiler((1, 96), 22, false), vec![linker(Some(22))]);
    assert_eq!(missing, Missing::Core(Route::Distribution));
    assert!(line.contains("no core library for bpfel-unknown-none"), "{line}");
}

#[test]
fn no_linker() {
    let (missing, line) = lacks(compiler((1, 96), 22, true), vec![]);
    assert_eq!(missing, Missing::Linker { llvm: 22 });
    assert!(line.contains("there is no bpf-linker (one built with LLVM 22 is needed)"), "{line}");
}

#[test]
fn linker_of_another_or_an_unknown_llvm() {
    let (missing, line) = lacks(compiler((1, 96), 22, true), vec![linker(Some(21))]);
    assert_eq!(missing, Missing::OtherLlvm { llvm: 22, found: linker(Some(21)) });
    assert!(line.contains("was built with LLVM 21, and the compiler has LLVM 22"), "{line}");

    let (missing, line) = lacks(compiler((1, 96), 22, true), vec![linker(None)]);
    assert_eq!(missing, Missing::OtherLlvm { llvm: 22, found: linker(None) });
    assert!(line.contains("does not tell its LLVM"), "{line}");
}

#[test]
fn every_message_is_one_line_and_says_what_to_run() {
    let facts = Facts { nightly: compiler((1, 97), 22, true), ..Facts::default() };
    let error = plan(&facts, NEEDED).unwrap_err();
    assert_eq!(*error.nearest(), Missing::Linker { llvm: 22 });
    let line = error.to_string();
    assert!(!line.contains('\n') && line.ends_with("run `cargo xtask setup`"), "{line}");
}

#[test]
fn versions() {
    let text =
        "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nrelease: 1.97.0-nightly\nLLVM version: 22.1.8\n";
    assert_eq!(parse_version(text), Some(((1, 97), 22)));
    assert_eq!(parse_version("release: 1.97.0\n"), None);
    assert_eq!(parse_release("1.95"), Some((1, 95)));
    assert_eq!(parse_release("one"), None);
}

#[test]
fn llvm_is_read_from_dynamic_and_static_binaries() {
    assert_eq!(llvm_of_binary(b"\0LLVM_PREFIX\0libLLVM.so.22.1\0libc"), Some(22));
    assert_eq!(llvm_of_binary(b"\0libLLVM-19.so\0"), Some(19));
    assert_eq!(llvm_of_binary(b"\0LLVM 22 builds also\0LLVM23.1.0-rust\0"), Some(23));
    assert_eq!(llvm_of_binary(b"LLVM"), None);
    assert_eq!(llvm_of_binary(b"nothing"), None);
}

#[test]
fn the_outer_build_is_shut_out_and_the_way_to_packages_is_not() {
    for name in
        ["RUSTC", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"]
    {
        assert!(belongs_to_outer_build(name), "{name}");
    }
    for name in ["CARGO_TARGET_DIR", "CARGO_PROFILE_RELEASE_LTO", "CARGO_CFG_TARGET_OS", "RUSTUP_TOOLCHAIN"] {
        assert!(belongs_to_outer_build(name), "{name}");
    }
    for name in [
        "PATH",
        "HOME",
        "CARGO_HOME",
        "CARGO_HTTP_CAINFO",
        "CARGO_NET_OFFLINE",
        "RUSTUP_HOME",
        "RUST_BACKTRACE",
    ] {
        assert!(!belongs_to_outer_build(name), "{name}");
    }
}

#[test]
fn the_command_has_the_plans_environment_and_not_cargos() {
    let plan = Plan { route: Route::Distribution, llvm: 22, linker: "/tools/22/bpf-linker".into() };
    let command = plan.invocation(OsStr::new("cargo"), Path::new("/out")).command();
    let environment: Vec<_> = command.get_envs().collect();
    assert!(environment.contains(&(OsStr::new("RUSTC"), Some(OsStr::new("/usr/bin/rustc")))));
    // cargo sets this one for every test that it runs.
    assert!(environment.contains(&(OsStr::new("CARGO_MANIFEST_DIR"), None)));
}
