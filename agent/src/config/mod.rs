//! What the agent is told about its node: the file of `run --config`, and the flags that beat it.
#![forbid(unsafe_code)]

mod file;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::allowlist::Diagnostic;

/// Where metrics are served unless told otherwise: this machine only.
const METRICS_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);
const STATE_DIR: &str = "/var/lib/egress-warden";
const CONTROL_SOCKET: &str = "/run/egress-warden/control.sock";
const SELFTEST_EVERY: Duration = Duration::from_secs(3600);
const PIN_DIRECTORY: &str = "/sys/fs/bpf/egress-warden";

/// How the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Files and directories with allowlists; at least one.
    pub allowlists: Vec<PathBuf>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub metrics_listen: SocketAddr,
    /// What must outlive the agent and the machine's next boot: the last good allowlists, the history of quarantines.
    pub state_dir: PathBuf,
    /// The socket behind `status`, `quarantine` and `watch`.
    pub control_socket: PathBuf,
    /// The mount of cgroup2; `None` to find it.
    pub cgroup_root: Option<PathBuf>,
    /// Where programs, links and maps are pinned: a directory of a bpffs.
    pub pin_directory: PathBuf,
    /// The file to which violations are appended.
    pub audit_log: Option<PathBuf>,
    /// What is done about programs above the workloads that rewrite the addresses of calls.
    pub load_balancer: LoadBalancer,
    /// How often the agent tests itself; `None` for never.
    pub selftest_every: Option<Duration>,
    /// The agent's own messages.
    pub log: Log,
    /// Print the kernel programs' own diagnostics.
    pub kernel_log: bool,
}

/// `load_balancer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadBalancer {
    /// Nothing is attached above a workload: a call is judged by the address that it names, its packets by theirs.
    #[default]
    Ignore,
    /// Programs of the agent's follow it on its cgroup and see what became of the address.
    Follow,
}

/// How the agent's own messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// For people or for programs.
    pub format: LogFormat,
    /// What is left out.
    pub level: LogLevel,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line each, for people.
    #[default]
    Text,
    /// One object each.
    Json,
}

/// `log.level`: this and what is worse is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Something does not work.
    Error,
    /// Somebody should look.
    Warn,
    /// What happens.
    #[default]
    Info,
    /// Why it happens.
    Debug,
}

/// What the command line says; it beats the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--allowlists`; empty where not given.
    pub allowlists: Vec<PathBuf>,
    /// `--metrics-listen`.
    pub metrics_listen: Option<SocketAddr>,
    /// `--pin-directory`.
    pub pin_directory: Option<PathBuf>,
    /// `--kernel-log`.
    pub kernel_log: bool,
}

/// Why the agent cannot be told how to run.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Everything that is wrong with the file.
    #[error("the configuration is not valid")]
    File(Vec<Diagnostic>),
    /// Nothing says what to enforce.
    #[error(
        "no allowlists: name files or directories with --allowlists, or under `allowlists:` in the file of --config"
    )]
    NoAllowlists,
}

impl Config {
    /// Reads the file, if there is one, and lets the flags beat it.
    ///
    /// # Errors
    /// [`ConfigError`], with everything that is wrong with the file.
    pub fn load(file: Option<&Path>, flags: Flags) -> Result<Self, ConfigError> {
        let file = file.map(file::read).transpose().map_err(ConfigError::File)?.unwrap_or_default();
        let allowlists = if flags.allowlists.is_empty() { file.allowlists } else { flags.allowlists };
        if allowlists.is_empty() {
            return Err(ConfigError::NoAllowlists);
        }
        Ok(Self {
            allowlists,
            metrics_listen: flags.metrics_listen.or(file.metrics_listen).unwrap_or(METRICS_LISTEN),
            state_dir: file.state_dir.unwrap_or_else(|| STATE_DIR.into()),
            control_socket: file.control_socket.unwrap_or_else(|| CONTROL_SOCKET.into()),
            cgroup_root: file.cgroup_root,
            pin_directory: flags.pin_directory.unwrap_or_else(|| PIN_DIRECTORY.into()),
            audit_log: file.audit_log,
            load_balancer: file.load_balancer,
            selftest_every: file.selftest_every.unwrap_or(Some(SELFTEST_EVERY)),
            log: file.log,
            kernel_log: flags.kernel_log,
        })
    }
}
