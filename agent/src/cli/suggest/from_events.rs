//! `egress-warden suggest from-events`.

use std::path::PathBuf;

use crate::suggest::events::{self, EventsError};

/// What `suggest from-events` is asked.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Prints a Destinations document with everything that was tried and that an entry can open, and an EgressPolicy in audit mode \
that allows it. Review both: a record tells that something was tried, not that it should be allowed. What is not \
suggested (instance metadata, loopback, packets that name no destination) stands in comments, with the reason. Where a \
record has the name that was asked for, the entry is by name.

A bad line is an error with file:line:column, and nothing is printed. Exit codes: 0 printed; 1 an error, or nothing to \
suggest.

Examples:
  egress-warden exec --allowlists lists/ --policy job --mode audit --events job.jsonl -- ./train.sh
  egress-warden suggest from-events job.jsonl > lists/job-suggested.yaml
  egress-warden check lists/")]
pub(super) struct FromEventsArgs {
    /// Records, one JSON object a line, as `exec --events` and the agent's audit log write them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What the two documents are called
    #[arg(long, default_value = "suggested", value_parser = super::document_name)]
    name: String,
}

pub(super) fn suggest(args: &FromEventsArgs) -> Result<String, EventsError> {
    events::suggest(&args.files, &args.name)
}
