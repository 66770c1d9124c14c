//! The head of a document: `apiVersion`, `kind`, `metadata.name`; and the set of documents.

use std::collections::HashMap;

use super::Context;
use super::destinations::{self, Destinations};
use super::diagnostic::Report;
use super::egress_policy::{self, EgressPolicy};
use super::fields::Fields;
use super::scalar::{one_of, shorten, text};
use super::select::is_name;
use super::source::{Located, Span};
use super::tree::{Node, Value};

const API_VERSION: &str = "egress-warden.dev/v1";

/// `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Destinations,
    EgressPolicy,
}

const KINDS: [(&str, Kind); 2] = [("Destinations", Kind::Destinations), ("EgressPolicy", Kind::EgressPolicy)];

/// The validated documents of a set.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    pub(crate) destinations: Vec<Destinations>,
    pub(crate) policies: Vec<EgressPolicy>,
    /// Every name, of documents too whose `spec` is wrong: what refers to them is not wrong for that.
    names: HashMap<(Kind, String), Span>,
    /// Was every file and the head of every document read? Else a missing name proves nothing.
    pub(crate) whole: bool,
}

impl Documents {
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(crate) fn defined(&self, kind: Kind, name: &str) -> bool {
        self.names.contains_key(&(kind, name.to_owned()))
    }

    pub(crate) fn names(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.names.keys().filter(move |(of, _)| *of == kind).map(|(_, name)| name.as_str())
    }
}

/// Is there nothing in this document, such as between two `---`?
pub(crate) fn is_blank(root: &Node) -> bool {
    matches!(&root.value, Value::Scalar { text, plain: true } if text.is_empty())
}

/// Reports a file without a document.
pub(crate) fn none(file: u32, context: &mut Context) {
    let at = Span::start(file);
    if context.sources.text(file).trim().is_empty() {
        context
            .report
            .error(at, "the file is empty")
            .help("was it cut short while it was written? Remove it if nothing is meant to be in it");
    } else {
        context.report.warning(at, "the file has comments and no document");
    }
}

/// Reads one document into the set.
pub(crate) fn read(root: &Node, documents: &mut Documents, context: &mut Context) {
    let errors = context.report.errors();
    let Some((kind, name, spec)) = head(root, &mut context.report) else {
        documents.whole &= context.report.errors() == errors;
        return;
    };
    if let Some(&first) = documents.names.get(&(kind, name.value.clone())) {
        let message = format!(
            "the name `{}` is already taken by the {kind:?} at {}",
            name.value,
            context.sources.origin(first)
        );
        context.report.error(name.at, message).help("names are unique in a set; rename one of the two");
    } else {
        documents.names.insert((kind, name.value.clone()), name.at);
    }
    let Some(spec) = spec else { return };
    match kind {
        Kind::Destinations => documents.destinations.extend(destinations::read(name, root.at, spec, context)),
        Kind::EgressPolicy => {
            documents.policies.extend(egress_policy::read(name, root.at, spec, &mut context.report));
        }
    }
}

type Head<'n> = (Kind, Located<String>, Option<&'n Node>);

fn head<'n>(root: &'n Node, report: &mut Report) -> Option<Head<'n>> {
    let fields = Fields::read(root, "the document", &["apiVersion", "kind", "metadata", "spec"], report)?;
    if let Some(node) = fields.require("apiVersion", report) {
        one_of(node, "apiVersion", &[(API_VERSION, ())], report);
    }
    let kind = fields.require("kind", report).and_then(|node| one_of(node, "kind", &KINDS, report));
    let name = fields.require("metadata", report).and_then(|node| name(node, report));
    let spec = fields.require("spec", report);
    Some((kind?, name?, spec))
}

fn name(node: &Node, report: &mut Report) -> Option<Located<String>> {
    let node = Fields::read(node, "`metadata`", &["name"], report)?.require("name", report)?;
    let name = text(node, "name", report)?;
    if !is_name(name.value) {
        let message = format!("`name`: {} is not a name", shorten(name.value));
        let finding = report.error(name.at, message);
        let near: String = name
            .value
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        let rule = "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit";
        match is_name(&near) {
            true => finding.help(format!("{rule}, such as {near}")),
            false => finding.help(rule),
        }
        return None;
    }
    Some(Located { value: name.value.to_owned(), at: name.at })
}
