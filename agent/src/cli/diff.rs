//! `egress-warden diff`: what a change of allowlists newly allows and refuses.
//!
//! The compiled rulesets are compared, not the texts. Where the effect of a change cannot be known from the two sets,
//! because it depends on the workloads, it counts as broadening and says so: a review that is asked for in vain costs
//! less than one that is missed.

mod names;
mod policies;
mod report;
mod settings;
mod words;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::allowlist::{self, AllowlistSet, Format, counts, render};
use crate::policy::Policy;
use crate::ruleset::{Compiled, compile};
use crate::text::visible;
use report::{Limits, Section};

/// Exit code: the new set lets out something that the old one refuses.
pub const EXIT_BROADENS: u8 = 4;

/// What `diff` is asked.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
What is compared is what the compiled policies decide, by name of policy: a CIDR split in two, an entry that moved to \
another file or a new `why` is no difference. A policy in audit mode is compared by what it would refuse in enforce mode, \
and an entry with `expires` by its deadline, whether that has passed or not.

Broadens: a destination, port or name newly allowed or allowed for longer, or kept open in quarantine; fewer `deny`; \
`metadata: true`; looser `loopback`, `mode`, `quarantine`, `raw`, `dns`, `existing` or `require`; a policy removed, \
because what it selected may run without one; a changed `select`, for the same reason; a new policy only where it \
certainly selects what an old one selects, because policies on one workload add up.

Exit codes: 0 nothing is broadened, 4 something is, 1 one of the sets has an error.

Examples:
  egress-warden diff /etc/egress-warden/allowlists ./allowlists
  git worktree add ../base main && egress-warden diff ../base/allowlists allowlists")]
pub struct DiffArgs {
    /// The set as it is: a file, or a directory whose .yaml and .yml files are read
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
    /// The set as it would be
    #[arg(value_name = "NEW")]
    pub new: PathBuf,
    /// List everything, instead of the 20 widest CIDRs of a change and the first 40 changes of a kind
    #[arg(long)]
    pub all: bool,
}

/// What a comparison ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output.
    pub output: String,
    /// For standard error.
    pub errors: String,
    /// The exit code.
    pub code: u8,
}

/// Runs the command.
#[must_use]
pub fn main(args: &DiffArgs) -> ExitCode {
    let outcome = diff(args);
    let written = io::stderr()
        .write_all(outcome.errors.as_bytes())
        .and_then(|()| io::stdout().write_all(outcome.output.as_bytes()))
        .and_then(|()| io::stdout().flush());
    match written {
        // `diff … | head` may close the pipe early; what was found stays found.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::from(outcome.code),
    }
}

/// Compares, and returns what is to be printed.
#[must_use]
pub fn diff(args: &DiffArgs) -> Outcome {
    let sides = [("OLD", &args.old), ("NEW", &args.new)].map(|(name, path)| Side::load(name, path));
    let (old, new) = match sides {
        [Ok(old), Ok(new)] => (old, new),
        sides => {
            let errors = sides.into_iter().filter_map(Result::err).collect();
            return Outcome { output: String::new(), errors, code: 1 };
        }
    };
    let sections = policies::compare(&old, &new);
    let limits = if args.all { Limits::NONE } else { Limits::DEFAULT };
    let mut output: String = sections.iter().map(|section| section.render(&limits)).collect();
    let broadened: Vec<&str> =
        sections.iter().filter(|section| section.broadens()).map(Section::policy).collect();
    let last = match (sections.is_empty(), broadened.is_empty()) {
        (true, _) => "no change in what is decided".to_owned(),
        (false, true) => "broadens nothing".to_owned(),
        (false, false) => format!("broadens {}", broadened.join(", ")),
    };
    let _ = writeln!(output, "{}", visible(&last));
    Outcome { output, errors: String::new(), code: if broadened.is_empty() { 0 } else { EXIT_BROADENS } }
}

/// One of the two sets, compiled.
#[derive(Debug)]
struct Side {
    set: AllowlistSet,
    policies: Vec<(Policy, Compiled)>,
}

impl Side {
    /// Reads and compiles a set. The error is what is told to a person.
    fn load(name: &str, path: &PathBuf) -> Result<Self, String> {
        let head = visible(&format!("egress-warden diff: {name} ({}) has errors", path.display()));
        let set = allowlist::load(std::slice::from_ref(path)).map_err(|diagnostics| {
            let found = render(&diagnostics, Format::Text);
            format!("{head}\n{found}{}\n", counts(&diagnostics))
        })?;
        let policies = set.policies().into_iter().filter_map(|name| set.policy(name));
        let compiled: Result<Vec<_>, _> =
            policies.map(|policy| compile(&policy).map(|compiled| (policy, compiled))).collect();
        let policies = compiled.map_err(|error| format!("{head}\n{}\n", visible(&error.to_string())))?;
        Ok(Self { set, policies })
    }

    fn policy(&self, name: &str) -> Option<&(Policy, Compiled)> {
        self.policies.iter().find(|(policy, _)| policy.name == name)
    }
}
