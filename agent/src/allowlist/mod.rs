//! Allowlists: what operators write, read strictly.
//!
//! The way of a text: `source` reads the files, `tree` makes nodes that know their place, `document`, `destinations`
//! and `egress_policy` validate each document by itself, `references` the set as a whole, and `set` turns it into
//! [`crate::policy`]. Every stage reports into one `Report`, so that all that is wrong with a set is told in one run; a
//! set with an error yields no policy at all.
#![forbid(unsafe_code)]

use std::path::PathBuf;

mod cidr_file;
mod destinations;
mod diagnostic;
mod dns;
mod document;
mod domain;
mod egress_policy;
mod fields;
mod network;
mod ports;
mod references;
mod render;
mod sarif;
mod scalar;
mod select;
mod set;
mod settings;
mod source;
mod suggest;
mod tree;

pub use diagnostic::{Diagnostic, Severity};
pub use render::{Format, counts, render};
pub(crate) use select::Select;
pub use set::{AllowlistSet, Destinations, NameRule, prefixes};
pub use settings::{Action, Existing, Scope, Settings};

use diagnostic::Report;
use document::Documents;
use source::Sources;

/// What every stage needs: the files, to show places, and where to report.
#[derive(Debug, Default)]
struct Context {
    sources: Sources,
    report: Report,
}

/// Reads and validates everything that these paths name: files, and of a directory the files in it that end in
/// `.yaml` or `.yml` and are not hidden.
///
/// # Errors
///
/// Everything that is wrong, sorted by file and line, warnings included, as soon as there is one error.
pub fn load(paths: &[PathBuf]) -> Result<AllowlistSet, Vec<Diagnostic>> {
    if paths.is_empty() {
        return Err(vec![Diagnostic::without_file(
            "no path was given: name a file or a directory with allowlists",
        )]);
    }
    let mut context = Context::default();
    let documents = read(paths, &mut context);
    references::check(&documents, &mut context);
    let refused = context.report.errors() > 0;
    let set = if refused { None } else { Some(AllowlistSet::new(documents, &context.sources)) };
    let diagnostics = context.report.into_diagnostics(&context.sources);
    match set {
        Some(set) => Ok(set.with_warnings(diagnostics)),
        None => Err(diagnostics),
    }
}

fn read(paths: &[PathBuf], context: &mut Context) -> Documents {
    let mut documents = Documents::default();
    let files = source::collect(paths, &mut context.sources, &mut context.report);
    documents.whole = context.report.errors() == 0;
    for &file in &files {
        let parsed = tree::parse(file, context.sources.text(file), &mut context.report);
        documents.whole &= parsed.whole;
        let mut seen = 0;
        for root in parsed.roots.iter().filter(|root| !document::is_blank(root)) {
            seen += 1;
            document::read(root, &mut documents, context);
        }
        if seen == 0 && parsed.whole {
            document::none(file, context);
        }
    }
    if documents.is_empty() && context.report.errors() == 0 {
        let at = source::Span::start(files.first().copied().unwrap_or_default());
        context.report.error(at, "there is no document in any of the files").help(
            "an allowlist is a Destinations or EgressPolicy document; the allowlists that ship are a beginning",
        );
    }
    documents
}

#[cfg(test)]
mod tests;
