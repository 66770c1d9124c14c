//! What is wrong, where, and what to do about it.

use super::source::{Sources, Span};
use crate::policy::Origin;

/// More findings than this in one file help nobody: a list of addresses that is no list has one for each line.
const MAX_FINDINGS_PER_FILE: usize = 1000;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The set is refused.
    Error,
    /// The set is accepted; a person should look.
    Warning,
}

impl Severity {
    /// As it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing to tell the person who wrote an allowlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where it stands.
    pub origin: Origin,
    /// Characters from the origin that are meant; at least 1.
    pub length: usize,
    /// What is wrong.
    pub message: String,
    /// What to do, where that can be told.
    pub help: Option<String>,
    /// The line of the file; `None` where the file could not be read.
    pub source_line: Option<String>,
}

impl Diagnostic {
    /// An error that has no file to point into.
    pub(crate) fn without_file(message: &str) -> Self {
        Self {
            severity: Severity::Error,
            origin: Origin { file: ".".into(), line: 1, column: 1 },
            length: 1,
            message: message.to_owned(),
            help: None,
            source_line: None,
        }
    }
}

/// A diagnostic whose place is still a span.
#[derive(Debug)]
pub(crate) struct Finding {
    severity: Severity,
    at: Span,
    message: String,
    help: Option<String>,
}

impl Finding {
    /// Says what to do.
    pub(crate) fn help(&mut self, text: impl Into<String>) {
        self.help = Some(text.into());
    }
}

/// Collects findings, so that all of a set are told at once.
#[derive(Debug, Default)]
pub(crate) struct Report {
    findings: Vec<Finding>,
    errors: usize,
}

impl Report {
    pub(crate) fn error(&mut self, at: Span, message: impl Into<String>) -> &mut Finding {
        self.errors += 1;
        self.push(Severity::Error, at, message.into())
    }

    pub(crate) fn warning(&mut self, at: Span, message: impl Into<String>) -> &mut Finding {
        self.push(Severity::Warning, at, message.into())
    }

    /// How many errors were reported. A reader compares two counts to learn whether a part was sound.
    pub(crate) const fn errors(&self) -> usize {
        self.errors
    }

    fn push(&mut self, severity: Severity, at: Span, message: String) -> &mut Finding {
        self.findings.push(Finding { severity, at, message, help: None });
        self.findings.last_mut().expect("one was just pushed")
    }

    /// Everything found, sorted by file and place, each once, with the lines meant.
    pub(crate) fn into_diagnostics(mut self, sources: &Sources) -> Vec<Diagnostic> {
        // By path, not by number: two entries may name one file, which is then read twice and found wrong twice.
        let place = |finding: &Finding| (sources.path(finding.at), finding.at.line, finding.at.column);
        self.findings
            .sort_by(|a, b| (place(a), a.severity, &a.message).cmp(&(place(b), b.severity, &b.message)));
        self.findings
            .dedup_by(|a, b| place(a) == place(b) && a.severity == b.severity && a.message == b.message);
        let mut diagnostics = Vec::with_capacity(self.findings.len());
        for findings in self.findings.chunk_by(|a, b| sources.path(a.at) == sources.path(b.at)) {
            let lines = sources.lines(findings[0].at.file);
            // Where warnings crowd a file, they must not push its errors out.
            let mut kept: Vec<&Finding> = findings.iter().collect();
            kept.sort_by_key(|finding| finding.severity);
            let dropped = kept.split_off(kept.len().min(MAX_FINDINGS_PER_FILE));
            kept.sort_by_key(|finding| (finding.at.line, finding.at.column));
            diagnostics.extend(kept.iter().map(|finding| finding.diagnostic(sources, &lines)));
            if let Some(first) = dropped.first() {
                let message = format!("{} more like these in this file are not shown", dropped.len());
                let summary = Finding { severity: first.severity, at: first.at, message, help: None };
                diagnostics.push(summary.diagnostic(sources, &lines));
            }
        }
        diagnostics
    }
}

impl Finding {
    fn diagnostic(&self, sources: &Sources, lines: &[&str]) -> Diagnostic {
        let line = (self.at.line as usize).checked_sub(1).and_then(|index| lines.get(index));
        Diagnostic {
            severity: self.severity,
            origin: sources.origin(self.at),
            length: self.at.length.max(1) as usize,
            message: self.message.clone(),
            help: self.help.clone(),
            source_line: line.map(|&line| line.to_owned()),
        }
    }
}
