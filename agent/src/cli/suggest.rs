//! `egress-warden suggest`: drafts of allowlists, for review.

mod from_events;
mod index;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Subcommand;

use crate::allowlist::is_name;
use crate::text::complain;

/// What `suggest` is asked.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Audit, suggest, review, enforce:
  egress-warden suggest index > lists/package-index.yaml
  egress-warden exec --allowlists lists/ --policy job --mode audit --events job.jsonl -- ./train.sh
  egress-warden suggest from-events job.jsonl > lists/job-suggested.yaml
  egress-warden check lists/")]
pub struct SuggestArgs {
    #[command(subcommand)]
    from: From,
}

#[derive(Clone, Debug, Subcommand)]
enum From {
    /// From a package index: its host, and every host that its files are served from
    Index(index::IndexArgs),
    /// From the records of an audit run: what was tried, grouped, each entry with its evidence
    FromEvents(from_events::FromEventsArgs),
}

/// Runs the command.
#[must_use]
pub fn main(args: &SuggestArgs) -> ExitCode {
    match &args.from {
        From::Index(args) => print(index::suggest(args)),
        From::FromEvents(args) => print(from_events::suggest(args)),
    }
}

/// The draft on standard output, or an error and nothing.
fn print(suggested: Result<String, impl Display>) -> ExitCode {
    let yaml = match suggested {
        Ok(yaml) => yaml,
        Err(error) => {
            complain(error);
            return ExitCode::FAILURE;
        }
    };
    match io::stdout().write_all(yaml.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(format_args!("standard output: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// `--name`, judged before anything is asked or read.
fn document_name(name: &str) -> Result<String, String> {
    if is_name(name) {
        return Ok(name.to_owned());
    }
    Err("1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit".to_owned())
}
