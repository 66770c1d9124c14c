//! A draft as YAML.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::allowlist::{self, AllowlistSet, Format, Text, Texts, render};
use crate::ruleset::suggest::{Opening, keys};
use crate::text::visible;

/// Destinations that nobody has reviewed yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    /// `metadata.name`.
    pub(crate) name: String,
    /// What stands above the document.
    pub(crate) about: Vec<String>,
    /// The entries, in the order of writing.
    pub(crate) entries: Vec<Entry>,
    /// What stands below them.
    pub(crate) below: Vec<String>,
}

/// One entry of `spec.to`.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    /// Where answers for the name may point, if that is not left to the default.
    pub(crate) resolves_to: Vec<IpNet>,
    pub(crate) opened: BTreeSet<Opening>,
    /// Comments, a line each.
    pub(crate) evidence: Vec<String>,
    pub(crate) why: String,
}

/// Where an entry leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// In the form in which names are compared.
    Name(String),
    Network(IpNet),
}

/// A draft that `check` would refuse. A mistake of this program, told instead of printed.
#[derive(Debug, thiserror::Error)]
#[error("the suggestion would not pass `check`; please report this:\n{0}")]
pub struct Unfit(String);

impl Draft {
    /// The document.
    pub(crate) fn yaml(&self) -> String {
        let mut out = String::new();
        comment(&mut out, "", &self.about);
        let _ = writeln!(out, "apiVersion: egress-warden.dev/v1\nkind: Destinations");
        let _ = writeln!(out, "metadata: {{name: {}}}\nspec:\n  to:", scalar(&self.name));
        for entry in &self.entries {
            entry.write(&mut out);
        }
        comment(&mut out, "  ", &self.below);
        out
    }
}

impl Entry {
    fn write(&self, out: &mut String) {
        comment(out, "    ", &self.evidence);
        let _ = match &self.place {
            Place::Name(name) => writeln!(out, "    - domains: [{}]", scalar(name)),
            Place::Network(network) => writeln!(out, "    - cidrs: {}", cidrs(std::slice::from_ref(network))),
        };
        if !self.resolves_to.is_empty() {
            let _ = writeln!(out, "      resolvesTo: {}", cidrs(&self.resolves_to));
        }
        for key in keys(&self.opened) {
            let _ = writeln!(out, "      {key}");
        }
        let _ = writeln!(out, "      why: {}", quoted(&self.why));
    }
}

fn comment(out: &mut String, indent: &str, lines: &[String]) {
    for line in lines {
        let _ = writeln!(out, "{}", format!("{indent}# {}", visible(line)).trim_end());
    }
}

/// CIDRs in one line.
pub(crate) fn cidrs(networks: &[IpNet]) -> String {
    let written = networks.iter().map(|network| match network {
        IpNet::V4(v4) => v4.to_string(),
        IpNet::V6(v6) => format!("\"{v6}\""),
    });
    format!("[{}]", written.collect::<Vec<_>>().join(", "))
}

/// A name. Quoted where a reader might take it for something else: `on`, `1e3`. The longest such word is `false`.
pub(crate) fn scalar(name: &str) -> String {
    let no_word = name.len() > 5 || name.contains(['.', '-']);
    let plain = no_word && name.starts_with(|first: char| first.is_ascii_lowercase());
    if plain { name.to_owned() } else { quoted(name) }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", visible(text).replace('\\', "\\\\").replace('"', "\\\""))
}

/// Reads a draft as `check` does.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read_back(yaml: &str) -> Result<AllowlistSet, Unfit> {
    let text = Text { path: PathBuf::from("suggestion.yaml"), text: yaml.to_owned(), listed: true };
    allowlist::read_stored(&Texts { files: vec![text] })
        .set
        .map_err(|diagnostics| Unfit(render(&diagnostics, Format::Text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(place: Place) -> Entry {
        Entry {
            place,
            resolves_to: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            opened: BTreeSet::from([Opening::Tcp(443), Opening::Udp(53), Opening::Icmp("echo-request")]),
            evidence: vec!["by \u{202e}\n- cidrs: [0.0.0.0/0]".to_owned()],
            why: "REVIEW: \"a\\b\"\n\u{1b}# x".to_owned(),
        }
    }

    fn draft(names: &[&str]) -> Draft {
        let entries = names.iter().map(|name| entry(Place::Name((*name).to_owned()))).collect();
        Draft { name: "suggested".to_owned(), entries, ..Draft::default() }
    }

    #[test]
    fn nothing_that_is_quoted_becomes_yaml() {
        let mut draft = draft(&["a.example"]);
        draft.entries[0].resolves_to.clear();
        draft.about = vec!["x\nkind: EgressPolicy".to_owned()];
        draft.below = draft.about.clone();
        let set = read_back(&draft.yaml()).expect("passes check");
        let [found] = &set.destinations()[0].names[..] else { panic!("{}", draft.yaml()) };
        assert_eq!((found.names[0].as_str(), found.ports.len()), ("a.example", 4));
        assert_eq!(found.why, "REVIEW: \"a\\b\"\\u{a}\\u{1b}# x");
        assert!(set.destinations()[0].rules.is_empty() && set.policies().is_empty());
    }

    #[test]
    fn names_that_a_reader_would_take_for_something_else_are_quoted() {
        let names = ["on", "null", "0x1f.e1", "1e3", "-", "-.a", "_srv.example", "true.example", "a"];
        for name in names {
            match read_back(&draft(&[name]).yaml()) {
                Ok(set) => assert_eq!(set.destinations()[0].names[0].names, [name]),
                Err(error) => panic!("{name}: {error}"),
            }
        }
    }

    #[test]
    fn what_would_not_pass_check_is_told() {
        let error = read_back(&draft(&["*.com"]).yaml()).expect_err("a public suffix");
        assert!(error.to_string().contains("suggestion.yaml:7:17: error: "), "{error}");
    }
}
