//! `egress-warden explain`: would a policy let this through, and by which entry?
//!
//! The answer comes from the compiled ruleset through the `decide()` that the kernel runs; what is added here is only
//! the way back from a rule's number to the file.

mod name;
mod target;

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use egress_warden_common::decide::{Clock, UNSYNCHRONISED};
use egress_warden_common::names::may_open;
use egress_warden_common::reason::{IPPROTO_ICMP, IPPROTO_ICMPV6};
use egress_warden_common::ruleset::{FOREVER, NO_RULE};
use egress_warden_common::{Address, Facts, Reason, Route, Verdict, decide};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::allowlist::{self, AllowlistSet, Format, render, type_name};
use crate::kernel::clock::HostClock;
use crate::policy::{Mode, NameRule, Policy, Rule};
use crate::ruleset::attempt::Attempt;
use crate::ruleset::nearest::{NearestMiss, nearest};
use crate::ruleset::{CompileError, compile};
use crate::text::{complain, tell, visible_lines};
pub use name::explain_name;
pub use target::{Target, TargetError};

/// Exit code: the policy allows it.
pub const EXIT_ALLOWED: u8 = 0;
/// Exit code: the policy refuses it, or would in `enforce`.
pub const EXIT_REFUSED: u8 = 3;

/// What `explain` is asked.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 allowed, 3 refused, 1 error. A policy in audit mode is asked what it would refuse in
enforce mode. Nothing is sent, and no root is needed.

Examples:
  egress-warden explain --allowlists allowlists/ --policy training --to 10.0.0.5:443
  egress-warden explain --allowlists allowlists/ --policy training --to '[fd00::53]:53/udp'
  egress-warden explain --allowlists allowlists/ --policy training --to 10.0.0.1:echo-request/icmp
  egress-warden explain --allowlists allowlists/ --policy training --to registry.corp.example:443

A name is looked up in the policy and not resolved: what is allowed by it is open at the addresses that a resolver answers.")]
pub struct ExplainArgs {
    /// Files with allowlists, or directories whose .yaml and .yml files are read
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    pub allowlists: Vec<PathBuf>,
    /// The policy that is asked
    #[arg(long, value_name = "NAME")]
    pub policy: String,
    /// The destination: a name or an address (IPv6 in brackets), a port, and tcp, udp or icmp; tcp where nothing is written.
    /// For icmp the port is a message type, as a name or a number
    #[arg(long, value_name = "HOST-OR-IP:PORT[/PROTO]")]
    pub to: String,
}

/// What `explain` needs of the allowlists that were read.
pub trait Allowlists {
    /// The policy with this name.
    fn policy(&self, name: &str) -> Option<Policy>;
    /// The names of all policies.
    fn policies(&self) -> Vec<String>;
    /// The entries by address of every Destinations document, whether a policy allows it or not.
    fn destinations(&self) -> Vec<Rule>;
    /// The entries by name of every Destinations document, whether a policy allows it or not.
    fn names(&self) -> Vec<NameRule>;
}

impl Allowlists for AllowlistSet {
    fn policy(&self, name: &str) -> Option<Policy> {
        Self::policy(self, name)
    }

    fn policies(&self) -> Vec<String> {
        Self::policies(self).into_iter().map(str::to_owned).collect()
    }

    fn destinations(&self) -> Vec<Rule> {
        Self::destinations(self).iter().flat_map(|document| document.rules.clone()).collect()
    }

    fn names(&self) -> Vec<NameRule> {
        Self::destinations(self).iter().flat_map(|document| document.names.clone()).collect()
    }
}

/// Reads the allowlists, answers on standard output, and returns the exit code.
#[must_use]
pub fn main(args: &ExplainArgs) -> ExitCode {
    let set = match allowlist::load(&args.allowlists) {
        Ok(set) => set,
        Err(diagnostics) => {
            tell(&render(&diagnostics, Format::Text));
            return ExitCode::FAILURE;
        }
    };
    match run(args, &set, &HostClock) {
        Ok(explanation) => {
            let answer = visible_lines(&format!("{explanation}\n"));
            match io::stdout().write_all(answer.as_bytes()).and_then(|()| io::stdout().flush()) {
                // `explain … | head` may close the pipe early; the exit code is an answer, too.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    complain(format_args!("standard output: {error}"));
                    ExitCode::FAILURE
                }
                _ => ExitCode::from(explanation.exit_code()),
            }
        }
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// `--to` cannot be understood.
    #[error("--to {to}: {source}")]
    Target {
        /// What was given.
        to: String,
        /// What is wrong with it.
        source: TargetError,
    },
    /// There is no such policy.
    #[error("--policy {name}: no such policy; {}", known_policies(.known))]
    NoPolicy {
        /// What was given.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The policy cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

fn known_policies(known: &[String]) -> String {
    if known.is_empty() {
        return "the allowlists have no policy at all: write a document with kind: EgressPolicy".to_owned();
    }
    format!("the allowlists have: {}", known.join(", "))
}

/// Answers, and leaves printing and exit code to the caller.
///
/// # Errors
/// When the question cannot be understood or has no answer yet.
pub fn run(
    args: &ExplainArgs,
    allowlists: &impl Allowlists,
    clock: &impl Clock,
) -> Result<Explanation, ExplainError> {
    let target =
        Target::parse(&args.to).map_err(|source| ExplainError::Target { to: args.to.clone(), source })?;
    let Some(policy) = allowlists.policy(&args.policy) else {
        return Err(ExplainError::NoPolicy { name: args.policy.clone(), known: allowlists.policies() });
    };
    match target {
        Target::Attempt(attempt) => Ok(explain(&policy, &allowlists.destinations(), attempt, clock)?),
        Target::Name(attempt) => Ok(explain_name(&policy, &allowlists.names(), &attempt, clock)?),
    }
}

/// What a policy says of an attempt. [`fmt::Display`] tells it to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was asked.
    pub asked: String,
    /// The verdict. On loopback: that in the host's network namespace, where `exec` runs and which is the stricter one.
    pub verdict: Verdict,
    /// What allows or denies it.
    pub by: Option<String>,
    /// What follows the first line.
    pub notes: Vec<String>,
}

impl Explanation {
    /// The exit code that belongs to it.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        if self.verdict.reason.allows() { EXIT_ALLOWED } else { EXIT_REFUSED }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, verdict, by, notes } = self;
        match (verdict.reason, by) {
            (Reason::Allowed, Some(by)) => write!(f, "allowed  {asked}  by {by}")?,
            (reason, _) if reason.allows() => write!(f, "allowed  {asked}  {}", told(reason))?,
            (Reason::Denied, Some(by)) => write!(f, "refused  {asked}  denied: by {by}")?,
            (reason, _) => write!(f, "refused  {asked}  {}", told(reason))?,
        }
        notes.iter().try_for_each(|note| write!(f, "\n         {note}"))
    }
}

/// A reason's name and its sentence in the middle of a line.
fn told(reason: Reason) -> String {
    let help = reason.help().trim().trim_end_matches('.');
    let mut letters = help.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    format!("{}: {}{}", reason.name(), first.map(String::from).unwrap_or_default(), letters.as_str())
}

/// Asks the policy. `destinations` are the entries of every Destinations document that was read.
///
/// # Errors
/// When the policy cannot be compiled.
pub fn explain(
    policy: &Policy,
    destinations: &[Rule],
    attempt: Attempt,
    clock: &impl Clock,
) -> Result<Explanation, CompileError> {
    let compiled = compile(policy)?;
    let mut notes = Vec::new();
    if attempt.address.is_unspecified() {
        notes.push(format!("{} reaches the own host: judged as loopback", attempt.address));
    }
    let judge = |host_namespace| {
        let destination = Address::from(attempt.address);
        let own_host = destination.is_loopback() || destination.is_unspecified();
        let route = if own_host { Route::Loopback } else { Route::Uplink };
        let Attempt { protocol, port, .. } = attempt;
        let facts = Facts {
            destination,
            protocol,
            port,
            route,
            host_namespace,
            reply: false,
            to_node: false,
            quarantined: false,
            own_resolver: false,
        };
        decide(&compiled.ruleset(), clock, &facts)
    };
    let verdict = judge(true);
    let by = match (verdict.reason, compiled.rule(verdict.rule)) {
        (_, Some(rule)) => Some(rule.to_string()),
        (Reason::Allowed, None) => {
            Some(format!("`dns.resolvers` of policy {} at {}", policy.name, policy.origin))
        }
        _ => None,
    };
    notes.extend(deadline(policy, &verdict, clock));
    if !verdict.reason.allows() && judge(false).reason.allows() {
        notes.push(
            "in a network namespace of the workload's own it is allowed; this is the host's".to_owned(),
        );
    }
    notes.extend(raw_socket(policy, &attempt, &verdict));
    notes.extend(dns(policy, &verdict));
    if !verdict.reason.allows() {
        let misses = nearest(policy, destinations, &attempt, verdict.reason);
        notes.extend(misses.iter().map(|miss: &NearestMiss<'_>| format!("nearest: {miss}")));
        notes.extend(audit(policy));
    }
    Ok(Explanation { asked: attempt.to_string(), verdict, by, notes })
}

fn audit(policy: &Policy) -> Option<String> {
    (policy.mode == Mode::Audit).then(|| {
        format!("policy {} is in audit mode: it would be let through and counted as a violation", policy.name)
    })
}

/// What the address alone does not decide.
fn dns(policy: &Policy, verdict: &Verdict) -> Option<String> {
    match verdict.reason {
        Reason::Allowed if verdict.rule == NO_RULE => {
            let types: Vec<String> = policy.dns.types.iter().copied().map(type_name).collect();
            Some(format!("for queries of type {}, for names that the policy allows", types.join(", ")))
        }
        Reason::DnsServer => Some(match &policy.dns.resolvers {
            Some(cidrs) => {
                let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
                format!("the resolvers of policy {} are {}", policy.name, cidrs.join(", "))
            }
            None => "a workload may ask the resolvers of its own resolv.conf, if they are private: which, is not known here"
                .to_owned(),
        }),
        reason if may_open(reason) && !policy.names.is_empty() => {
            Some("what is allowed by name is open at the addresses that are answered for it: ask with the name".to_owned())
        }
        _ => None,
    }
}

/// Most of what sends ICMP does it by a raw socket where it runs as root, and that is another question.
fn raw_socket(policy: &Policy, attempt: &Attempt, verdict: &Verdict) -> Option<String> {
    let name = match attempt.protocol {
        IPPROTO_ICMP => "icmp",
        IPPROTO_ICMPV6 => "icmpv6",
        _ => return None,
    };
    let closed = verdict.reason.allows() && !policy.raw.contains(&attempt.protocol);
    closed.then(|| {
        format!("by a ping socket; a raw one, as ping uses as root, is refused until the policy says raw: [{name}]")
    })
}

/// The deadline, where one decides or will decide.
fn deadline(policy: &Policy, verdict: &Verdict, clock: &impl Clock) -> Option<String> {
    match verdict.reason {
        Reason::Allowed if verdict.until != FOREVER => {
            Some(format!("until {}", point_in_time(verdict.until)))
        }
        Reason::Expired => {
            let (origin, destinations, expires) = policy.entry(verdict.rule)?;
            let until = point_in_time(expires?);
            let entry = format!("{origin} ({destinations})");
            Some(match clock.unix_seconds() {
                now if now != UNSYNCHRONISED => format!("{entry} expired at {until}"),
                _ => format!(
                    "{entry} has the deadline {until}, but the clock of this host is not synchronised: until it is, \
                     entries with a deadline are closed; start a time service (NTP)"
                ),
            })
        }
        _ => None,
    }
}

fn point_in_time(unix_seconds: u64) -> String {
    let time = i64::try_from(unix_seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| format!("Unix second {unix_seconds}"))
}

#[cfg(test)]
mod tests;
