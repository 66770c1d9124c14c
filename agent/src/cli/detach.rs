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
    /// Where the agent was told to pin; asked for only where no agent answers
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PINS)]
    pin_directory: PathBuf,
    #[command(flatten)]
    socket: SocketArg,
}

const DEFAULT_PINS: &str = "/sys/fs/bpf/egress-warden";

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
            let (bpffs, directory) = (args.pin_directory.parent(), args.pin_directory.file_name());
            match (bpffs, directory.and_then(|name| name.to_str())) {
                (Some(bpffs), Some(directory)) => {
                    node::detach(bpffs, directory, args.all).map_err(|error| error.to_string())
                }
                _ => Err(format!(
                    "--pin-directory {}: name a directory in a bpffs",
                    args.pin_directory.display()
                )),
            }
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
