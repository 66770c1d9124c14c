//! `egress-warden quarantine`: workloads that are cut off.

use std::process::ExitCode;

use nix::unistd::{User, getuid};

use super::socket::{SocketArg, finish, json};
use super::table::{ago, table};
use crate::control::client::ClientError;
use crate::control::protocol::{Action, Answer, Quarantined, Quarantines, Request};
use crate::quarantine::history::{Entry, What};
use crate::text::visible;

/// What `quarantine` is asked.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
A workload in quarantine reaches only loopback and what its policy keeps open. The kernel puts it there when a policy's \
threshold is crossed, or an operator with `add`.

Examples:
  egress-warden quarantine list
  egress-warden quarantine add job-1 --why 'scans the network, ticket 4711'
  egress-warden quarantine release job-1 --why 'was a test'")]
pub struct QuarantineArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// List the workloads in quarantine
    List(ListArgs),
    /// Put a workload into quarantine
    Add(AddArgs),
    /// Let a workload out of quarantine
    Release(ReleaseArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct ListArgs {
    /// Also what happened before: who was put in and let out, when, by whom and why
    #[arg(long)]
    history: bool,
    /// Print JSON; docs/control.md describes it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 the workload is in quarantine; 1 it is not, or the action was not done, or the agent did \
                  not answer."
)]
struct AddArgs {
    #[command(flatten)]
    order: Order,
    /// What is done with it
    #[arg(long, value_enum, default_value = "isolate")]
    action: Action,
}

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 the workload is out of quarantine; 1 it is not, or the agent did not answer."
)]
struct ReleaseArgs {
    #[command(flatten)]
    order: Order,
}

#[derive(Clone, Debug, clap::Args)]
struct Order {
    /// Its label or path as `status` shows it, its pod as NAMESPACE/NAME, or an end of one that fits no other
    workload: String,
    /// Why; kept in the history
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// Who; kept in the history beside what the agent knows of this process [default: who called sudo, or the login name]
    #[arg(long, value_name = "NAME")]
    who: Option<String>,
    #[command(flatten)]
    socket: SocketArg,
}

/// Runs the command.
#[must_use]
pub fn main(args: QuarantineArgs) -> ExitCode {
    finish(match args.command {
        Command::List(args) => list(&args),
        Command::Add(AddArgs { order, action }) => {
            let Order { workload, why, who, socket } = order;
            let request = Request::QuarantineAdd { workload, action, who: who.or_else(caller), why };
            done(&socket, request)
                .map(|workload| format!("{workload} is in quarantine ({})\n", action.name()))
        }
        Command::Release(ReleaseArgs { order }) => {
            let Order { workload, why, who, socket } = order;
            let request = Request::Release { workload, who: who.or_else(caller), why };
            done(&socket, request).map(|workload| format!("{workload} is out of quarantine\n"))
        }
    })
}

/// Returns what the workload is called.
fn done(socket: &SocketArg, request: Request) -> Result<String, ClientError> {
    socket.ask(request, |answer| match answer {
        Answer::Done { workload } => Some(visible(&workload)),
        _ => None,
    })
}

/// Who asks, as far as that can be known without being told.
fn caller() -> Option<String> {
    let told = ["SUDO_USER", "LOGNAME"].iter().find_map(|key| std::env::var(key).ok());
    let told = told.filter(|name| !name.is_empty());
    told.or_else(|| User::from_uid(getuid()).ok().flatten().map(|user| user.name))
}

fn list(args: &ListArgs) -> Result<String, ClientError> {
    let quarantines =
        args.socket.ask(Request::QuarantineList { history: args.history }, |answer| match answer {
            Answer::Quarantines(quarantines) => Some(quarantines),
            _ => None,
        })?;
    Ok(if args.json { json(&quarantines) } else { text(&quarantines) })
}

/// For people.
fn text(quarantines: &Quarantines) -> String {
    let mut out = if quarantines.active.is_empty() {
        "no workload is in quarantine\n".to_owned()
    } else {
        let head = ["WORKLOAD", "POLICY", "ACTION", "FOR", "UNTIL", "WHO", "WHY"];
        let rows: Vec<[String; 7]> = quarantines.active.iter().map(row).collect();
        table(head, &rows, &[0, 1, 5, 6])
    };
    if let Some(history) = &quarantines.history {
        out.push('\n');
        if history.is_empty() {
            out.push_str("nothing happened before\n");
        } else {
            let rows: Vec<[String; 6]> = history.iter().map(past_row).collect();
            out.push_str(&table(["TIME", "EVENT", "WORKLOAD", "POLICY", "WHO", "WHY"], &rows, &[2, 3, 4, 5]));
        }
    }
    out
}

fn row(quarantined: &Quarantined) -> [String; 7] {
    let Quarantined { workload, policy, quarantine, .. } = quarantined;
    [
        workload.clone(),
        policy.clone(),
        quarantine.action.name().to_owned(),
        ago(&quarantine.since),
        quarantine.until.clone().unwrap_or_else(|| "released".to_owned()),
        quarantine.who.clone(),
        quarantine.why.clone(),
    ]
}

fn past_row(past: &Entry) -> [String; 6] {
    let what = match past.what {
        What::Quarantined => past.action.name().to_owned(),
        What::Released => "released".to_owned(),
        What::Failed => "failed".to_owned(),
    };
    [past.time.clone(), what, past.workload.clone(), past.policy.clone(), past.who.clone(), past.why.clone()]
}
