//! What is done to this repository: make a machine ready, build, test, show.

mod bench;
mod codegen;
mod demo;
mod run;
mod setup;
mod soak;
mod test;
mod text;
#[cfg_attr(not(test), expect(dead_code, reason = "the agent's build script uses the rest"))]
mod toolchain;
mod vm;

use std::process::ExitCode;

use anyhow::{Result, bail};

/// One subcommand: its name, one line for the overview, its own help, what it does.
struct Task {
    name: &'static str,
    summary: &'static str,
    help: &'static str,
    run: fn(&[String]) -> Result<()>,
}

const TASKS: [Task; 9] = [
    Task { name: "setup", summary: "make this machine ready", help: setup::HELP, run: setup::task },
    Task { name: "build", summary: "build target/release/egress-warden", help: BUILD_HELP, run: build },
    Task {
        name: "test",
        summary: "run every test that needs no VM and no cluster",
        help: test::HELP,
        run: test::task,
    },
    Task {
        name: "codegen",
        summary: "write what is generated and committed",
        help: codegen::HELP,
        run: codegen::task,
    },
    Task {
        name: "text",
        summary: "check what must not stand in a committed file",
        help: text::HELP,
        run: text::task,
    },
    Task {
        name: "vm",
        summary: "check every supported kernel, in virtual machines",
        help: vm::HELP,
        run: vm::task,
    },
    Task {
        name: "bench",
        summary: "measure what enforcement costs, beside its peers",
        help: bench::HELP,
        run: bench::task,
    },
    Task {
        name: "soak",
        summary: "run what takes too long for every change",
        help: soak::HELP,
        run: soak::task,
    },
    Task { name: "demo", summary: "show the main job on real traffic", help: DEMO_HELP, run: demo },
];

const BUILD_HELP: &str = "\
Usage: cargo xtask build

Leaves target/release/egress-warden, the kernel programs embedded. Installs what building needs first, if it is missing
(`cargo xtask setup build`). Plain `cargo build -p egress-warden` works as well once that is done.";

const DEMO_HELP: &str = "\
Usage: cargo xtask demo

Builds a small world of network namespaces, runs a training job and a stealer in it under an allowlist, and shows step
by step what gets out and what does not. Installs what it needs first, if it is missing (`cargo xtask setup build demo`).
Needs root. Nothing of it stays on the machine; it may be interrupted and run again.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let asks_for_help = |arg: &String| matches!(arg.as_str(), "-h" | "--help" | "help");
    let Some((name, rest)) = args.split_first() else { bail!("no task given\n\n{}", overview()) };
    if asks_for_help(name) {
        println!("{}", overview());
        return Ok(());
    }
    let Some(task) = TASKS.iter().find(|task| task.name == name) else {
        bail!("there is no task `{name}`\n\n{}", overview());
    };
    if rest.iter().any(asks_for_help) {
        println!("{}", task.help);
        return Ok(());
    }
    (task.run)(rest)
}

fn overview() -> String {
    let mut text = "Usage: cargo xtask <TASK>\n\nTasks:\n".to_owned();
    for task in &TASKS {
        text += &format!("  {:<8}{}\n", task.name, task.summary);
    }
    text + "\n`cargo xtask <TASK> --help` says more."
}

fn build(args: &[String]) -> Result<()> {
    no_arguments(args)?;
    setup::ensure(&[setup::Group::Build])?;
    build_release()
}

/// Builds the agent as it ships.
fn build_release() -> Result<()> {
    run::run(run::cargo().args(["build", "--release", "--package", "egress-warden"]))?;
    println!("{}", run::agent_binary().display());
    Ok(())
}

fn demo(args: &[String]) -> Result<()> {
    no_arguments(args)?;
    run::need_root("`cargo xtask demo`")?;
    setup::ensure(&[setup::Group::Build, setup::Group::Demo])?;
    build_release()?;
    demo::run(&run::agent_binary())
}

fn no_arguments(args: &[String]) -> Result<()> {
    match args.first() {
        Some(arg) => bail!("unexpected argument `{arg}`"),
        None => Ok(()),
    }
}
