//! `egress-warden selftest`: does this node enforce?

use std::process::ExitCode;

use super::socket::{SocketArg, json, print};
use super::table::table;
use crate::control::client::ClientError;
use crate::control::protocol::{Answer, Request};
use crate::selftest::{Finding, Report, Verdict, standalone};
use crate::text::complain;

/// What `selftest` is asked.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Tries the ways out of a workload one by one, in a cgroup and network namespaces of its own that lead nowhere, and says of \
each: closed, open, or not testable here and why. Closed is only what was really tried, did not arrive while the same to an \
allowed place did, and was counted by the programs. Where an agent runs, its own programs are tested; else they are loaded \
for the test. Takes about a second. Needs root.

Exit codes: 0 no way is open; 1 one is, or nothing could be tested.

Examples:
  egress-warden selftest
  egress-warden selftest --json | jq -r '.ways[] | select(.verdict != \"closed\") | [.way, .why] | @tsv'")]
pub struct SelftestArgs {
    /// Print JSON; docs/control.md describes it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

/// Runs the command.
#[must_use]
pub fn main(args: &SelftestArgs) -> ExitCode {
    let asked = args.socket.ask(Request::Selftest, |answer| match answer {
        Answer::Selftest(report) => Some(*report),
        _ => None,
    });
    let report = match asked {
        Err(ClientError::NoAgent(_)) => standalone().map_err(|error| error.to_string()),
        asked => asked.map_err(|error| error.to_string()),
    };
    match report {
        Ok(report) => {
            let printed = print(&if args.json { json(&report) } else { text(&report) });
            if report.passed { printed } else { ExitCode::FAILURE }
        }
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

fn text(report: &Report) -> String {
    let rows: Vec<[String; 4]> = report.ways.iter().map(row).collect();
    let mut out = table(["WAY", "RESULT", "REASON", "WHAT"], &rows, &[]);
    let whose = if report.by_agent { "the running agent's programs" } else { "programs loaded for the test" };
    let (summary, took) = (report.summary(), report.milliseconds);
    out += &format!("\n{summary}; {whose}, Linux {}, {took} ms\n", report.kernel);
    out
}

fn row(found: &Finding) -> [String; 4] {
    let (result, why) = match found.verdict {
        Verdict::Closed => ("closed", None),
        Verdict::Open => ("OPEN", found.why.as_deref()),
        Verdict::NotTestable => ("not testable here", found.why.as_deref()),
    };
    let what = why.map_or_else(|| found.means.clone(), |why| format!("{}: {why}", found.means));
    [found.way.clone(), result.to_owned(), found.reason.clone(), what]
}
