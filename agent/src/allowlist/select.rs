//! `select`: which workloads a policy applies to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::diagnostic::Report;
use super::fields::{Fields, filled_list};
use super::scalar::{boolean, shorten, text};
use super::source::Located;
use super::tree::Node;
use crate::workload::Pod;
use crate::workload::pattern::Pattern;

/// A selector in a form that can be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Select {
    pub(crate) all: bool,
    namespaces: BTreeSet<String>,
    labels: BTreeMap<String, String>,
    cgroups: BTreeSet<String>,
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all {
            return f.write_str("all: true");
        }
        let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(", ");
        let labels: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        let parts = [
            ("namespaces: [", list(&self.namespaces), "]"),
            ("labels: {", labels.join(", "), "}"),
            ("cgroups: [", list(&self.cgroups), "]"),
        ];
        let written = parts.iter().filter(|(_, content, _)| !content.is_empty());
        let written: Vec<String> =
            written.map(|(open, content, close)| format!("{open}{content}{close}")).collect();
        f.write_str(&written.join(", "))
    }
}

impl Select {
    /// The globs of cgroups, without the slash in front.
    pub(crate) fn cgroups(&self) -> impl Iterator<Item = &str> {
        self.cgroups.iter().map(String::as_str)
    }

    /// Do `namespaces` and `labels` let this pod through? What is no pod has neither.
    pub(crate) fn selects_pod(&self, pod: Option<&Pod>) -> bool {
        if self.namespaces.is_empty() && self.labels.is_empty() {
            return true;
        }
        pod.is_some_and(|pod| {
            let labelled = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
            (self.namespaces.is_empty() || self.namespaces.contains(&pod.namespace))
                && self.labels.iter().all(labelled)
        })
    }
}

/// Reads a selector.
pub(crate) fn read(node: &Node, report: &mut Report) -> Option<Located<Select>> {
    let fields = Fields::read(node, "`select`", &["namespaces", "labels", "cgroups", "all"], report)?;
    if fields.pairs().is_empty() {
        report
            .error(node.at, "`select` is empty: the policy would apply to no workload")
            .help("name `namespaces`, `labels` or `cgroups`; or write all: true");
        return None;
    }
    let mut select = Select::default();
    if let Some(node) = fields.get("namespaces") {
        select.namespaces = strings(filled_list(node, "namespaces", report, namespace)?);
    }
    if let Some(node) = fields.get("labels") {
        select.labels = labels(node, report)?;
    }
    if let Some(node) = fields.get("cgroups") {
        select.cgroups = strings(filled_list(node, "cgroups", report, cgroup)?);
    }
    if let Some(all) = fields.get("all") {
        if boolean(all, "all", report)? {
            select.all = true;
        } else {
            report.error(all.at, "`all: false` selects nothing").help("leave it out");
        }
        if select.all && fields.pairs().len() > 1 {
            report
                .error(all.at, "`all: true` beside other selectors: it selects every workload already")
                .help("keep `all` or the others");
        }
    }
    Some(Located { value: select, at: node.at })
}

fn strings(values: Vec<Located<String>>) -> BTreeSet<String> {
    values.into_iter().map(|value| value.value).collect()
}

/// Is this a DNS label, the form of names in Kubernetes and in this project?
pub(crate) fn is_name(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 63
        && name.bytes().all(|byte| inside(byte) || byte == b'-')
        && name.bytes().next().is_some_and(inside)
        && name.bytes().last().is_some_and(inside)
}

fn namespace(node: &Node, report: &mut Report) -> Option<String> {
    let name = text(node, "namespaces", report)?;
    if !is_name(name.value) {
        let message = format!("`namespaces`: {} is not the name of a namespace", shorten(name.value));
        report.error(node.at, message).help("1 to 63 of a-z, 0-9 and -; patterns are not accepted");
        return None;
    }
    Some(name.value.to_owned())
}

fn labels(node: &Node, report: &mut Report) -> Option<BTreeMap<String, String>> {
    let fields = Fields::any(node, "`labels`", report)?;
    if fields.pairs().is_empty() {
        report.error(node.at, "`labels` is empty").help("write a label, or leave the key out");
    }
    let mut labels = BTreeMap::new();
    for pair in fields.pairs() {
        let (prefix, name) = pair.key.rsplit_once('/').unwrap_or(("label", &pair.key));
        let prefixed = !prefix.is_empty() && prefix.len() <= 253 && prefix.split('.').all(is_name);
        if !prefixed || name.is_empty() || !is_label_part(name) {
            report
                .error(pair.key_at, format!("`labels`: {} is not the key of a label", shorten(&pair.key)))
                .help("write it as Kubernetes does: name, or example.com/name");
        }
        let Some(value) = text(&pair.value, "labels", report) else { continue };
        if !is_label_part(value.value) {
            report
                .error(value.at, format!("`labels`: {} is not the value of a label", shorten(value.value)))
                .help("at most 63 of a-z, A-Z, 0-9, -, _ and .; patterns are not accepted");
        }
        labels.insert(pair.key.clone(), value.value.to_owned());
    }
    Some(labels)
}

fn is_label_part(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && edge(text.bytes().next())
        && edge(text.bytes().last())
}

/// A glob below the cgroup2 mount, without the slash in front.
fn cgroup(node: &Node, report: &mut Report) -> Option<String> {
    let glob = text(node, "cgroups", report)?;
    let inside = glob.value.strip_prefix('/').unwrap_or(glob.value);
    let inside = inside.strip_suffix('/').unwrap_or(inside);
    let help = if inside.is_empty() {
        "the root cgroup cannot be selected; name a cgroup below it"
    } else if inside.starts_with("sys/fs/cgroup") {
        "write the path below the cgroup2 mount, such as /system.slice/train-*.service"
    } else if inside.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "write the path without empty parts, `.` and `..`"
    } else if Pattern::new(inside).is_err() {
        "* ? and [a-z] match inside one part of the path, ** any number of parts; close every bracket"
    } else {
        return Some(inside.to_owned());
    };
    let message = format!("`cgroups`: {} is not a glob of cgroups", shorten(glob.value));
    report.error(node.at, message).help(help);
    None
}
