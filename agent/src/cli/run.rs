//! `egress-warden run`: the agent of a node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::allowlist::{Format, render};
use crate::config::{Config, ConfigError, Flags};
use crate::logging;
use crate::text::{complain, tell};

/// What `run` is asked.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Flags beat the file. Without --config everything is at its default and --allowlists is needed.
Ends orderly on SIGTERM and SIGINT; enforcement stays in the kernel, and the next start takes it
over. To take it out: egress-warden detach --all.

Exit codes: 0 after an orderly end, 1 when it could not start or had to give up.

Examples:
  egress-warden run --config /etc/egress-warden/config.yaml
  egress-warden run --allowlists /etc/egress-warden/allowlists")]
pub struct RunArgs {
    /// The agent's configuration; docs/configuration.md has every key
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Files with allowlists, or directories whose .yaml and .yml files are read
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub allowlists: Vec<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Where programs, links and maps are pinned, in a bpffs; one agent for each [default: /sys/fs/bpf/egress-warden]
    #[arg(long, value_name = "DIR")]
    pub pin_directory: Option<PathBuf>,
    /// Print the kernel programs' own diagnostics to standard error
    #[arg(long)]
    pub kernel_log: bool,
}

/// Reads the configuration and hands it to the agent, which returns when it ends.
#[must_use]
pub fn main(args: RunArgs, agent: impl FnOnce(Config) -> anyhow::Result<()>) -> ExitCode {
    let RunArgs { config, allowlists, metrics_listen, pin_directory, kernel_log } = args;
    let flags = Flags { allowlists, metrics_listen, pin_directory, kernel_log };
    let config = match Config::load(config.as_deref(), flags) {
        Ok(config) => config,
        Err(error) => {
            if let ConfigError::File(diagnostics) = &error {
                tell(&render(diagnostics, Format::Text));
            }
            complain(error);
            return ExitCode::FAILURE;
        }
    };
    logging::init(config.log, config.kernel_log);
    match agent(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the agent ends");
            ExitCode::FAILURE
        }
    }
}
