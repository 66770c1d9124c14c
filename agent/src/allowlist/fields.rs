//! A mapping whose keys are known: unknown ones are reported, missing ones named.

use std::collections::HashMap;
use std::hash::Hash;

use super::diagnostic::Report;
use super::scalar::{found, list};
use super::source::{Located, Span};
use super::suggest::nearest;
use super::tree::{Node, Pair, Value};

/// The keys and values of a mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'n> {
    at: Span,
    what: &'static str,
    pairs: &'n [Pair],
}

impl<'n> Fields<'n> {
    /// Reads a node as a mapping with these keys; `what` names it in messages.
    pub(crate) fn read(
        node: &'n Node,
        what: &'static str,
        known: &[&str],
        report: &mut Report,
    ) -> Option<Self> {
        let fields = Self::any(node, what, report)?;
        for pair in fields.pairs.iter().filter(|pair| !known.contains(&pair.key.as_str())) {
            let finding = report.error(pair.key_at, format!("unknown key `{}` in {what}", pair.key));
            match nearest(&pair.key, known.iter().copied()) {
                Some(name) => finding.help(format!("did you mean `{name}`?")),
                None => finding.help(format!("known keys: {}", known.join(", "))),
            }
        }
        Some(fields)
    }

    /// Reads a node as a mapping with any keys.
    pub(crate) fn any(node: &'n Node, what: &'static str, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Mapping(pairs) => Some(Self { at: node.at, what, pairs }),
            Value::Refused => None,
            _ => {
                report.error(node.at, format!("{what}: expected a mapping, found {}", found(node)));
                None
            }
        }
    }

    pub(crate) const fn at(&self) -> Span {
        self.at
    }

    pub(crate) const fn pairs(&self) -> &'n [Pair] {
        self.pairs
    }

    pub(crate) fn pair(&self, key: &str) -> Option<&'n Pair> {
        self.pairs.iter().find(|pair| pair.key == key)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'n Node> {
        self.pair(key).map(|pair| &pair.value)
    }

    /// The value of a key that must be there.
    pub(crate) fn require(&self, key: &str, report: &mut Report) -> Option<&'n Node> {
        let node = self.get(key);
        if node.is_none() {
            report.error(self.at, format!("missing key `{key}` in {}", self.what));
        }
        node
    }
}

/// Reads the items of a list, each by `read`; the same value twice is an error. `None` only where it is no list.
pub(crate) fn unique_list<T: Eq + Hash + Clone>(
    node: &Node,
    key: &str,
    report: &mut Report,
    mut read: impl FnMut(&Node, &mut Report) -> Option<T>,
) -> Option<Vec<Located<T>>> {
    let mut first: HashMap<T, Span> = HashMap::new();
    let mut values = Vec::new();
    for item in list(node, key, report)? {
        let Some(value) = read(item, report) else { continue };
        match first.get(&value) {
            Some(at) => {
                let message = format!("`{key}`: the same again as at {}:{}", at.line, at.column);
                report.error(item.at, message).help("keep one of the two");
            }
            None => {
                first.insert(value.clone(), item.at);
                values.push(Located { value, at: item.at });
            }
        }
    }
    Some(values)
}

/// Like [`unique_list`], and empty is an error.
pub(crate) fn filled_list<T: Eq + Hash + Clone>(
    node: &Node,
    key: &str,
    report: &mut Report,
    read: impl FnMut(&Node, &mut Report) -> Option<T>,
) -> Option<Vec<Located<T>>> {
    let values = unique_list(node, key, report, read)?;
    if matches!(&node.value, Value::Sequence(items) if items.is_empty()) {
        report
            .error(node.at, format!("`{key}`: the list is empty"))
            .help("write an entry, or leave the key out");
    }
    Some(values)
}
