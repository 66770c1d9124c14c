//! `cidrsFrom`: a file with one CIDR a line.

use std::path::Path;

use ipnet::IpNet;

use super::Context;
use super::diagnostic::Report;
use super::network::parse_cidr;
use super::scalar::raw_text;
use super::source::{Located, Span};
use super::tree::Node;

/// Reads the file that the node names, relative to the YAML file in which the node stands.
pub(crate) fn read(node: &Node, context: &mut Context) -> Vec<Located<IpNet>> {
    let expected = "a text with the path of a file";
    let Some(written) = raw_text(node, "cidrsFrom", expected, &mut context.report) else { return Vec::new() };
    let path = context.sources.path(node.at).parent().unwrap_or(Path::new("")).join(written);
    let Some(file) = context.sources.read(&path, Some(node.at), &mut context.report) else {
        return Vec::new();
    };
    let errors = context.report.errors();
    let cidrs = lines(file, context);
    if cidrs.is_empty() && context.report.errors() == errors {
        let message = format!("`cidrsFrom`: {} has no CIDR: this entry can never match", path.display());
        context.report.error(node.at, message).help("was the file cut short? It wants one CIDR a line");
    }
    cidrs
}

fn lines(file: u32, context: &mut Context) -> Vec<Located<IpNet>> {
    let Context { sources, report } = context;
    let mut cidrs: Vec<Located<IpNet>> = Vec::new();
    for (index, line) in sources.text(file).lines().enumerate() {
        let content = line.split_once('#').map_or(line, |(before, _)| before).trim_ascii_end();
        let text = content.trim_ascii_start();
        if text.is_empty() {
            continue;
        }
        let column = (content.len() - text.len()) as u32 + 1;
        let at = Span { file, line: index as u32 + 1, column, length: text.chars().count() as u32 };
        match parse_cidr(text) {
            Ok(value) => cidrs.push(Located { value, at }),
            Err(bad) => {
                let finding = report.error(at, bad.message);
                if let Some(help) = bad.help {
                    finding.help(help);
                }
            }
        }
    }
    drop_duplicates(&mut cidrs, report);
    cidrs
}

/// Such files are generated, often joined from several; twice the same is harmless, but somebody should know.
fn drop_duplicates(cidrs: &mut Vec<Located<IpNet>>, report: &mut Report) {
    cidrs.sort_unstable_by_key(|cidr| (cidr.value, cidr.at.line));
    cidrs.dedup_by(|next, kept| {
        let same = next.value == kept.value;
        if same {
            report.warning(next.at, format!("the same CIDR as in line {}", kept.at.line));
        }
        same
    });
}
