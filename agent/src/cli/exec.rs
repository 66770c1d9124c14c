//! `egress-warden exec`: runs a command under a policy.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::allowlist::{Format, render};
use crate::exec::run::{ExecError, Options, run};
use crate::exec::{CapabilitySet, FAILED};
use crate::policy::Mode;
use crate::text::{complain, tell};

/// What `exec` is asked.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
The caller's network and user namespaces stay; mount, PID, IPC and cgroup namespaces are new. The
command cannot leave its cgroup, and killing this process frees nothing. Needs root, cgroup2 and
Linux 6.1 or newer; no agent and no bpffs. Standard output is the command's; a summary of what was
allowed and refused goes to standard error.

Exit codes: the command's own; 128+n when signal n ended it; 125 when exec itself failed: then
nothing ran, unless the message is about the end (--events could not be written).

Examples:
  egress-warden exec --allowlists allowlists/ --policy training -- python train.py
  egress-warden exec --allowlists allowlists/ --policy training --mode audit -- ./job.sh
  egress-warden exec --allowlists allowlists/ --policy training --events seen.jsonl -- ./job.sh
  egress-warden exec --allowlists allowlists/ --policy training -- bash")]
pub struct ExecArgs {
    /// Files with allowlists, or directories whose .yaml and .yml files are read
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    pub allowlists: Vec<PathBuf>,
    /// The policy to run under; what it selects does not matter here
    #[arg(long, value_name = "NAME")]
    pub policy: String,
    /// Instead of the policy's own mode: enforce refuses and counts, audit lets through and counts
    #[arg(long, value_enum)]
    pub mode: Option<ModeArg>,
    /// Write violations to this file, one JSON object a line; it is complete when exec returns
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// Capabilities that the command keeps if the caller has them, with or without CAP_, separated by commas; `none`
    /// for none. Those that lead out of the jail are refused. With NET_RAW or NET_ADMIN do not rely on the run: frames
    /// that the command builds itself are not judged, and it can change routes and addresses
    #[arg(long, value_name = "NAME,...", default_value_t = CapabilitySet::default().to_string())]
    pub keep_caps: String,
    /// Print the kernel programs' own diagnostics to standard error
    #[arg(long)]
    pub kernel_log: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ModeArg {
    /// Refuse and count.
    Enforce,
    /// Let through and count.
    Audit,
}

/// Runs the command, and returns the exit code.
#[must_use]
pub fn exec(args: ExecArgs) -> i32 {
    // Read here and not by clap, whose errors take three lines.
    let keep_caps = match args.keep_caps.parse() {
        Ok(keep_caps) => keep_caps,
        Err(error) => {
            complain(format_args!("--keep-caps: {error}"));
            return FAILED;
        }
    };
    let options = Options {
        allowlists: args.allowlists,
        policy: args.policy,
        mode: args.mode.map(|mode| match mode {
            ModeArg::Enforce => Mode::Enforce,
            ModeArg::Audit => Mode::Audit,
        }),
        events: args.events,
        keep_caps,
        kernel_log: args.kernel_log,
        command: args.command,
    };
    match run(&options) {
        Ok(code) => code,
        Err(error) => {
            if let ExecError::Allowlists(diagnostics) = &error {
                tell(&render(diagnostics, Format::Text));
            }
            complain(error);
            FAILED
        }
    }
}
