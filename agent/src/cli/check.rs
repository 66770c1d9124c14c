//! `egress-warden check`: validates allowlists and says what they compile to.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::allowlist::{self, AllowlistSet, Diagnostic, Format, Severity, counts, prefixes, render};
use crate::policy::{Mode, Policy};
use crate::ruleset::compile;
use crate::text::{visible, visible_lines};

/// Validate allowlists and print what they compile to
///
/// Exit code 0, or 1 with every error of the whole set on standard error as file:line:column: error: … Warnings go to
/// standard error too and do not change the exit code.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Files, or directories in which every .yaml and .yml file is read (not those below, not hidden ones). All of
    /// them together are one set: a policy in one file may name Destinations of another
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// How errors and warnings are written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Says how large a policy is once compiled, or why it cannot be.
pub type Measure<'a> = dyn Fn(&Policy) -> Result<String, String> + 'a;

/// The size of a policy's ruleset, as `check` prints it.
///
/// # Errors
/// What does not fit, and what to do.
pub fn compiled_size(policy: &Policy) -> Result<String, String> {
    let compiled = compile(policy).map_err(|error| error.to_string())?;
    let kib = (compiled.words.len() * size_of::<u64>()).div_ceil(1024);
    let (figure, found) = compiled.usage.fullest();
    Ok(format!("{kib} KiB, {found} of {} {figure}", figure.limit()))
}

/// What a check ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output.
    pub output: String,
    /// For standard error.
    pub errors: String,
    /// Is the set good?
    pub good: bool,
}

/// Runs the command.
#[must_use]
pub fn run(args: &CheckArgs, measure: &Measure<'_>) -> ExitCode {
    let outcome = check(args, measure);
    let written = io::stderr()
        .write_all(outcome.errors.as_bytes())
        .and_then(|()| io::stdout().write_all(outcome.output.as_bytes()))
        .and_then(|()| io::stdout().flush());
    match written {
        Ok(()) if outcome.good => ExitCode::SUCCESS,
        // `check … | head` may close the pipe early; what was judged good stays good.
        Err(error) if outcome.good && error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Checks, and returns what is to be printed.
#[must_use]
pub fn check(args: &CheckArgs, measure: &Measure<'_>) -> Outcome {
    let (diagnostics, output) = match allowlist::load(&args.paths) {
        Err(diagnostics) => (diagnostics, None),
        Ok(set) => match summary(&set, measure) {
            Ok(output) => (set.warnings, Some(output)),
            Err(errors) => (errors.into_iter().chain(set.warnings).collect(), None),
        },
    };
    let mut errors = render(&diagnostics, args.format);
    if args.format == Format::Text && !diagnostics.is_empty() {
        let _ = writeln!(errors, "{}", counts(&diagnostics));
    }
    Outcome { good: output.is_some(), output: output.unwrap_or_default(), errors }
}

const HEAD: [&str; 9] =
    ["policy", "mode", "entries", "ipv4", "ipv6", "names", "deny", "compiled", "quarantine"];

/// One line for each policy, and what of it `exec` cannot enforce.
fn summary(set: &AllowlistSet, measure: &Measure<'_>) -> Result<String, Vec<Diagnostic>> {
    let mut rows = vec![HEAD.map(str::to_owned)];
    let (mut notes, mut errors) = (String::new(), Vec::new());
    for policy in set.policies().into_iter().filter_map(|name| set.policy(name)) {
        match measure(&policy) {
            Ok(compiled) => rows.push(row(&policy, compiled)),
            Err(message) => errors.push(Diagnostic {
                severity: Severity::Error,
                origin: policy.origin.clone(),
                length: 1,
                message: format!("policy {}: {message}", policy.name),
                help: None,
                source_line: None,
            }),
        }
        for beyond in &policy.beyond_exec {
            let note = format!(
                "note: {}: `{}` in policy {} is not enforced by exec yet, which refuses the policy",
                beyond.origin, beyond.what, policy.name
            );
            let _ = writeln!(notes, "{}", visible(&note));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut output = if rows.len() > 1 { visible_lines(&table(&rows)) } else { String::new() };
    output.push_str(&notes);
    let _ = writeln!(
        output,
        "ok: {}, {}",
        counted(set.policies().len(), "policy", "policies"),
        counted(set.destinations().len(), "Destinations", "Destinations")
    );
    Ok(output)
}

fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn row(policy: &Policy, compiled: String) -> [String; 9] {
    let (v4, v6) = prefixes(policy);
    let mode = match policy.mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
    };
    [
        policy.name.clone(),
        mode.to_owned(),
        (policy.rules.len() + policy.names.len()).to_string(),
        v4.to_string(),
        v6.to_string(),
        policy.names.iter().map(|rule| rule.names.len()).sum::<usize>().to_string(),
        policy.deny.len().to_string(),
        compiled,
        quarantine(policy),
    ]
}

fn quarantine(policy: &Policy) -> String {
    let rules: Vec<String> = policy
        .quarantine
        .iter()
        .map(|rule| format!("{} in {}", rule.violations, seconds(rule.within_ns)))
        .collect();
    if rules.is_empty() {
        return "none".to_owned();
    }
    let by_address = policy.rules.iter().filter(|rule| rule.keep).map(|rule| &rule.destinations);
    let by_name = policy.names.iter().filter(|rule| rule.keep).map(|rule| &rule.destinations);
    let mut keep: Vec<&str> = Vec::new();
    for name in by_address.chain(by_name) {
        if !keep.contains(&name.as_str()) {
            keep.push(name);
        }
    }
    let keep = if keep.is_empty() { "nothing".to_owned() } else { keep.join(", ") };
    format!("{}, keeps {keep}", rules.join(" or "))
}

fn seconds(nanoseconds: u64) -> String {
    if nanoseconds.is_multiple_of(1_000_000_000) {
        format!("{}s", nanoseconds / 1_000_000_000)
    } else {
        format!("{}ms", nanoseconds / 1_000_000)
    }
}

fn table(rows: &[[String; 9]]) -> String {
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut output = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(output, "{}", cells.join("  ").trim_end());
    }
    output
}
