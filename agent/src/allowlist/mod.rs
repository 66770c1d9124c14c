//! Allowlists: what operators write, read strictly.
//!
//! The way of a text: `source` reads the files, `tree` makes nodes that know their place, `document`, `destinations`
//! and `egress_policy` validate each document by itself, `references` the set as a whole, and `set` turns it into
//! [`crate::policy`]. Every stage reports into one `Report`, so that all that is wrong with a set is told in one run; a
//! set with an error yields no policy at all.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

mod cidr_file;
mod destinations;
pub(crate) mod diagnostic;
mod dns;
mod document;
pub(crate) mod domain;
mod egress_policy;
pub(crate) mod fields;
mod network;
mod ports;
mod references;
mod render;
mod resolution;
mod sarif;
pub(crate) mod scalar;
mod select;
mod set;
mod settings;
pub(crate) mod source;
pub(crate) mod suggest;
mod texts;
pub(crate) mod tree;

pub use diagnostic::{Diagnostic, Severity};
pub use dns::type_name;
pub use render::{Format, counts, render};
pub(crate) use select::{Select, is_name};
pub use set::{AllowlistSet, Destinations, prefixes};
pub use settings::{Action, Existing, Scope, Settings};
pub use texts::{Fingerprint, Text, Texts};

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
    read(paths).set
}

/// What came of reading a set, whether or not it is valid.
#[derive(Debug)]
pub struct Reading {
    /// The set, or everything that is wrong with it.
    pub set: Result<AllowlistSet, Vec<Diagnostic>>,
    /// Every file that was looked for, those that are missing too: a change of any of them is a change of the set.
    pub files: Vec<PathBuf>,
    /// What the files said.
    pub texts: Texts,
}

/// Like [`load`], for who wants to know of the files as well.
#[must_use]
pub fn read(paths: &[PathBuf]) -> Reading {
    if paths.is_empty() {
        let nothing =
            Diagnostic::without_file("no path was given: name a file or a directory with allowlists");
        return Reading { set: Err(vec![nothing]), files: Vec::new(), texts: Texts::default() };
    }
    let mut context = Context::default();
    let files = source::collect(paths, &mut context.sources, &mut context.report);
    validate(&files, context)
}

/// Reads and validates what an earlier [`read`] found, without the disk. Places are those of the files as they were.
#[must_use]
pub fn read_stored(texts: &Texts) -> Reading {
    let mut context = Context { sources: Sources::stored(texts), report: Report::default() };
    let files = source::collect_stored(texts, &mut context.sources, &mut context.report);
    validate(&files, context)
}

fn validate(files: &[u32], mut context: Context) -> Reading {
    let documents = documents(files, &mut context);
    references::check(&documents, &mut context);
    let refused = context.report.errors() > 0;
    let set = if refused { None } else { Some(AllowlistSet::new(documents, &context.sources)) };
    let diagnostics = context.report.into_diagnostics(&context.sources);
    Reading {
        set: match set {
            Some(set) => Ok(set.with_warnings(diagnostics)),
            None => Err(diagnostics),
        },
        files: context.sources.paths().map(Path::to_owned).collect(),
        texts: context.sources.into_texts(),
    }
}

fn documents(files: &[u32], context: &mut Context) -> Documents {
    let mut documents = Documents::default();
    documents.whole = context.report.errors() == 0;
    for &file in files {
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
