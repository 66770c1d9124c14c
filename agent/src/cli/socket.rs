//! What the commands share that talk to the running agent.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::control::client::ClientError;
use crate::control::protocol::{Answer, Request};
use crate::control::{Client, DEFAULT_SOCKET, SOCKET_VARIABLE};
use crate::text::complain;

/// Where the agent is.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SocketArg {
    /// The agent's control socket [default: $EGRESS_WARDEN_SOCKET, else /run/egress-warden/control.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl SocketArg {
    /// The argument, the environment or the default.
    pub(super) fn path(&self) -> PathBuf {
        let told = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
        self.socket.clone().or(told.map(PathBuf::from)).unwrap_or_else(|| DEFAULT_SOCKET.into())
    }

    /// Asks, and takes the one answer in the form that is expected.
    pub(super) fn ask<T>(
        &self,
        request: Request,
        expected: impl FnOnce(Answer) -> Option<T>,
    ) -> Result<T, ClientError> {
        let mut client = Client::ask(&self.path(), request)?;
        let answer = client.answer()?;
        expected(answer).ok_or_else(|| client.mistaken())
    }
}

/// Prints what was answered, or why nothing was.
pub(super) fn finish(output: Result<String, ClientError>) -> ExitCode {
    match output {
        Ok(output) => print(&output),
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

/// Standard output may be closed early: `| head`.
pub(super) fn print(output: &str) -> ExitCode {
    let mut stdout = io::stdout();
    match stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(format_args!("standard output: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// For `--json`: an object over several lines, as `jq` prints it.
pub(super) fn json(object: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(object).map(|text| text + "\n").unwrap_or_default()
}
