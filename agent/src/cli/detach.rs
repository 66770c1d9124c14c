//! `egress-warden detach`: the way out.

use std::path::PathBuf;
use std::process::ExitCode;

use super::socket::{SocketArg, print};
use crate::control::client::ClientError;
use crate::control::protocol::{Answer, Request};
use crate::kernel::node;
use crate::text::complain;

/// What `detach` is asked.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
From then on no packet of any workload is judged. A running agent is asked to do it; it stays, not ready, and enforces \
nothing until it is started again. Without an agent this program removes what the last one left pinned in the kernel. \
Jobs under `egress-warden exec` are not touched.

Exit codes: 0 enforcement is out of the kernel; 1 it is not, or not all of it.

Example:
  systemctl stop egress-warden && egress-warden detach --all")]
pub struct DetachArgs {
    /// Also what agents of other versions left pinned; a running agent has taken that over already
    #[arg(long)]
    all: bool,
    /// Where the agent's bpffs is mounted; asked for only where no agent answers
    #[arg(long, value_name = "PATH", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    #[command(flatten)]
    socket: SocketArg,
}

/// Below the bpffs.
const DIRECTORY: &str = "egress-warden";

/// Runs the command.
#[must_use]
pub fn main(args: &DetachArgs) -> ExitCode {
    let asked = args.socket.ask(Request::Detach, |answer| match answer {
        Answer::Detached { workloads } => Some(workloads),
        _ => None,
    });
    let detached = match asked {
        Ok(workloads) => Ok(workloads),
        Err(ClientError::NoAgent(_)) => {
            node::detach(&args.bpffs, DIRECTORY, args.all).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    match detached {
        Ok(1) => print("1 workload is no longer enforced\n"),
        Ok(workloads) => print(&format!("{workloads} workloads are no longer enforced\n")),
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}
