//! `egress-warden status`: what the running agent enforces.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::socket::{SocketArg, finish, json};
use super::table::{ago, table};
use crate::control::protocol::{
    Allowlists, Answer, Grant, Held, Interface, OtherProgram, Policy, Request, Status, Workload,
};
use crate::text::{visible, visible_lines};

/// What `status` is asked.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
One line for each workload that a policy selects: its policy, mode, ruleset (the first 8 digits of its hash), protection \
tier, violations so far, quarantine, and for how long it has been enforced. Names that are too long are shortened in the \
middle; --json has all of them. Below: policies, where the rules come from, whether the agent is ready and why not.

Exit codes: 0 the agent answered, ready or not (`ready` in --json tells); 1 it did not.

Examples:
  egress-warden status
  egress-warden status --json | jq -e .ready
  egress-warden status --json | jq '.workloads[] | select(.quarantine)'")]
pub struct StatusArgs {
    /// Print JSON; docs/control.md describes it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

/// Runs the command.
#[must_use]
pub fn main(args: &StatusArgs) -> ExitCode {
    let status = args.socket.ask(Request::Status, |answer| match answer {
        Answer::Status(status) => Some(status),
        _ => None,
    });
    finish(status.map(|status| if args.json { json(&status) } else { text(&status) }))
}

/// For people.
fn text(status: &Status) -> String {
    let mut out = if status.workloads.is_empty() {
        "no policy selects any workload on this node\n".to_owned()
    } else {
        workloads(&status.workloads)
    };
    out.push('\n');
    for workload in &status.workloads {
        if let Some(failure) = &workload.failure {
            line(&mut out, "not enforced", &format!("{}: {failure}", workload.workload));
        }
    }
    for (workload, interface) in unguarded(&status.workloads) {
        let why = interface.why.as_deref().unwrap_or("unknown");
        line(&mut out, "no backstop", &format!("{}: {}: {why}", workload.workload, interface.name));
    }
    for workload in &status.workloads {
        in_reach(&mut out, workload);
    }
    for workload in &status.workloads {
        open_for_names(&mut out, workload);
    }
    for other in &status.others {
        line(&mut out, "also there", &also(other));
    }
    line(&mut out, "policies", &policies(&status.policies));
    allowlists(&mut out, &status.allowlists);
    if status.records_lost > 0 {
        line(&mut out, "records", &format!("{} were lost; the violations are counted", status.records_lost));
    }
    let ready = match &status.not_ready {
        None => "yes".to_owned(),
        Some(why) => format!("no: {why}"),
    };
    if let Some(selftest) = &status.selftest {
        let result = if selftest.passed { "passed" } else { "FAILED" };
        line(&mut out, "self-test", &format!("{result} {}: {}", selftest.at, selftest.result));
    }
    line(&mut out, "ready", &ready);
    out
}

/// What the workload has by which packets leave unjudged.
fn in_reach(out: &mut String, workload: &Workload) {
    let name = &workload.workload;
    for Held { capability, why, processes, pid } in workload.capabilities.iter().flat_map(|all| &all.held) {
        let who = if *processes == 1 {
            format!("process {pid}")
        } else {
            format!("{processes} processes, {pid} one of them")
        };
        line(out, "leads past", &format!("{name}: on the host's network with {capability}: {why} ({who})"));
    }
    if let Some(all) = workload.capabilities.as_ref().filter(|all| all.unexamined > 0) {
        let unexamined = all.unexamined;
        line(
            out,
            "leads past",
            &format!("{name}: what {unexamined} of its threads or processes may do is not known"),
        );
    }
    if let Some(rdma) = workload.rdma.as_ref().filter(|rdma| rdma.in_reach) {
        let devices = if rdma.devices.is_empty() { "none known".to_owned() } else { rdma.devices.join(", ") };
        let files = rdma.files.join(", ");
        line(out, "in reach", &format!("{name}: {files}; RDMA devices ({}): {devices}", rdma.sharing));
    }
}

/// Addresses of each workload that are written out; the rest are counted.
const GRANTS_SHOWN: usize = 3;

/// The addresses that are open because a name resolved to them.
fn open_for_names(out: &mut String, workload: &Workload) {
    let Workload { workload: name, grants, .. } = workload;
    for Grant { address, name: resolved, since, .. } in grants.iter().take(GRANTS_SHOWN) {
        let resolved = resolved.as_deref().unwrap_or("a name that is not known any more");
        line(out, "open", &format!("{name}: {address} for {resolved}, since {}", ago(since)));
    }
    if grants.len() > GRANTS_SHOWN {
        let more = grants.len() - GRANTS_SHOWN;
        line(out, "open", &format!("{name}: {more} more for names; --json has all of them"));
    }
}

/// Another program, in words.
fn also(other: &OtherProgram) -> String {
    let OtherProgram { path, hook, id, name, exclusive, followed } = other;
    let name = if name.is_empty() { "a program without name" } else { name };
    let end = match (*exclusive, *followed) {
        (true, _) => ", without the multi flag: nothing below can be enforced anew",
        (false, true) => ", may rewrite addresses: calls are judged behind it",
        (false, false) => "",
    };
    format!("{}: {hook}: {name} (id {id}){end}", path.display())
}

/// Interfaces by which frames leave that no program sees.
fn unguarded(workloads: &[Workload]) -> impl Iterator<Item = (&Workload, &Interface)> {
    let interfaces = workloads.iter().flat_map(|one| one.interfaces.iter().map(move |found| (one, found)));
    interfaces.filter(|(_, interface)| interface.why.is_some())
}

fn workloads(workloads: &[Workload]) -> String {
    let head = ["WORKLOAD", "POLICY", "MODE", "RULESET", "TIER", "VIOLATIONS", "QUARANTINE", "SINCE"];
    let rows: Vec<[String; 8]> = workloads
        .iter()
        .map(|workload| {
            [
                workload.workload.clone(),
                workload.policy.clone(),
                workload.mode.clone(),
                short(&workload.ruleset),
                workload.tier.clone(),
                workload.violations.to_string(),
                workload.quarantine.as_ref().map_or("-", |quarantine| quarantine.action.name()).to_owned(),
                workload.enforced_since.as_deref().map_or_else(|| "-".to_owned(), ago),
            ]
        })
        .collect();
    table(head, &rows, &[0, 1])
}

fn policies(policies: &[Policy]) -> String {
    let told = policies.iter().map(|policy| {
        let plural = if policy.workloads == 1 { "" } else { "s" };
        let Policy { name, mode, workloads, .. } = policy;
        format!("{name} ({mode}, {}, {workloads} workload{plural})", short(&policy.ruleset))
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}

fn allowlists(out: &mut String, allowlists: &Allowlists) {
    let source = match allowlists.source.as_str() {
        "files" => "the files",
        "last-good" => "the copy of the last valid files",
        "pinned" => "what is pinned in the kernel",
        "none" => "none yet",
        other => other,
    };
    match &allowlists.error {
        None => line(out, "allowlists", &format!("{source}, loaded {}", allowlists.loaded)),
        Some(error) => {
            line(out, "allowlists", &format!("{source}; loading the files failed {}:", allowlists.loaded));
            for finding in error.lines() {
                line(out, "", finding);
            }
        }
    }
}

/// The first 8 digits of a hash.
fn short(ruleset: &str) -> String {
    ruleset.chars().take(8).collect()
}

fn line(out: &mut String, head: &str, text: &str) {
    // Writing into a string cannot fail.
    let _ = writeln!(out, "{head:<12}  {}", indented(text));
}

fn indented(text: &str) -> String {
    visible_lines(text.trim_end()).lines().map(visible).collect::<Vec<_>>().join("\n              ")
}
