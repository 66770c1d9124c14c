//! What people type.
#![forbid(unsafe_code)]

pub mod check;
pub mod detach;
pub mod diff;
pub mod exec;
pub mod explain;
pub mod quarantine;
pub mod run;
pub mod selftest;
mod socket;
pub mod status;
pub mod suggest;
mod table;
pub mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::text::tell;

/// Decides, in the kernel, where a workload may send packets
#[derive(Debug, Parser)]
#[command(name = "egress-warden", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Validate allowlists and print what they compile to
    Check(check::CheckArgs),
    /// Take enforcement out of the kernel
    Detach(detach::DetachArgs),
    /// Say what a change of allowlists newly allows and refuses
    Diff(diff::DiffArgs),
    /// Run a command in a new cgroup under a policy
    Exec(exec::ExecArgs),
    /// Say whether a policy lets a destination through, and by which rule
    Explain(explain::ExplainArgs),
    /// Put workloads into quarantine, let them out, and list them
    Quarantine(quarantine::QuarantineArgs),
    /// Run the agent of a node: enforce the allowlists on every workload that they select
    Run(run::RunArgs),
    /// Try the ways out of a workload on this node
    Selftest(selftest::SelftestArgs),
    /// Show what the running agent enforces
    Status(status::StatusArgs),
    /// Draft an allowlist: of a package index, or from what was tried
    Suggest(suggest::SuggestArgs),
    /// Show violations as they happen
    Watch(watch::WatchArgs),
}

/// Parses the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors. Anything else exits with what the subcommand promises for its own
            // failures: 125 for exec, whose other codes belong to the command that it runs.
            if error.use_stderr() {
                tell(&error.render().to_string());
            } else {
                let _ = error.print();
            }
            let failed = if std::env::args().nth(1).as_deref() == Some("exec") { 125 } else { 1 };
            return ExitCode::from(if error.use_stderr() { failed } else { 0 });
        }
    };
    match cli.command {
        Command::Check(args) => check::run(&args, &check::compiled_size),
        Command::Detach(args) => detach::main(&args),
        Command::Diff(args) => diff::main(&args),
        Command::Exec(args) => {
            if args.kernel_log {
                init_log();
            }
            std::process::exit(exec::exec(args))
        }
        Command::Explain(args) => explain::main(&args),
        Command::Quarantine(args) => quarantine::main(args),
        Command::Run(args) => run::main(args, crate::daemon::run),
        Command::Selftest(args) => selftest::main(&args),
        Command::Status(args) => status::main(&args),
        Command::Suggest(args) => suggest::main(&args),
        Command::Watch(args) => watch::main(&args),
    }
}

fn init_log() {
    // The programs' own lines, and not what the loader says of itself.
    env_logger::Builder::new()
        .filter_module("egress_warden_ebpf", log::LevelFilter::Debug)
        .format_timestamp_micros()
        .init();
}
