//! `egress-warden watch`: violations as they happen.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::socket::SocketArg;
use crate::control::Client;
use crate::control::client::ClientError;
use crate::control::protocol::{Answer, Request};
use crate::records::Event;
use crate::text::{complain, visible};

/// What `watch` is asked.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
One line for each violation from now on: time, workload, what was refused (or in audit would have been), where to, why, by \
which process, and the rule that refused or came nearest. Under a flood the kernel writes at most 100 records a second for a \
workload; metrics and `status` count all of them. If this program does not keep up, it tells on standard error how many \
lines are missing. Ends with Ctrl-C, or when nobody reads its output any more.

Exit codes: 0 nobody reads any more; 1 the agent cannot be reached, or ended.

Examples:
  egress-warden watch
  egress-warden watch --json | jq -r 'select(.reason == \"quarantined\") | .workload'")]
pub struct WatchArgs {
    /// Print each violation as a JSON object, with the keys of the audit log
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

/// Why watching ended.
enum End {
    NobodyReads,
    Output(io::Error),
    Agent(ClientError),
}

/// Runs the command.
#[must_use]
pub fn main(args: &WatchArgs) -> ExitCode {
    match watch(args) {
        End::NobodyReads => return ExitCode::SUCCESS,
        End::Output(error) => complain(format_args!("standard output: {error}")),
        End::Agent(error) => complain(error),
    }
    ExitCode::FAILURE
}

fn watch(args: &WatchArgs) -> End {
    let mut client = match Client::ask(&args.socket.path(), Request::Watch) {
        Ok(client) => client,
        Err(error) => return End::Agent(error),
    };
    thread::spawn(end_when_nobody_reads);
    loop {
        let line = match client.answer() {
            Ok(Answer::Watching) => match client.wait_forever() {
                Ok(()) => continue,
                Err(error) => return End::Agent(error),
            },
            Ok(Answer::Violation(event)) if args.json => json(&event),
            Ok(Answer::Violation(event)) => text(&event),
            Ok(Answer::Missed(missed)) => {
                complain(format_args!("too slow: {missed} violations are missing here"));
                continue;
            }
            Ok(_) => return End::Agent(client.mistaken()),
            Err(error) => return End::Agent(error),
        };
        let mut stdout = io::stdout();
        match stdout.write_all(&line).and_then(|()| stdout.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return End::NobodyReads,
            Err(error) => return End::Output(error),
        }
    }
}

/// A closed pipe shows at the next line only, which on a quiet node is never.
fn end_when_nobody_reads() {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => break,
            Err(nix::Error::EINTR) => {}
            Err(_) => return,
        }
    }
    if fds[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP)) {
        std::process::exit(0);
    }
}

fn json(event: &Event) -> Vec<u8> {
    event.line().unwrap_or_default()
}

/// One violation as a line for people.
fn text(event: &Event) -> Vec<u8> {
    let refused = if event.mode == "audit" { "would be refused" } else { "refused" };
    let to = match (event.dst, event.port) {
        (None, _) => "an unknown destination".to_owned(),
        (Some(address), Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
    };
    let name = event.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    let process = match (&event.comm, event.tgid) {
        (Some(comm), Some(tgid)) => format!("by {comm} (pid {tgid})"),
        (Some(comm), None) => format!("by {comm}"),
        (None, _) => "by a process that is not known".to_owned(),
    };
    let rule = event.rule.as_ref().map(|rule| format!(", see {rule}")).unwrap_or_default();
    let Event { time, workload, protocol, reason, .. } = event;
    let line = format!("{time} {workload} {refused}: {protocol} to {to}{name}: {reason}, {process}{rule}");
    (visible(&line) + "\n").into_bytes()
}
