//! `dns` of a policy: validated here, enforced later.

use super::diagnostic::Report;
use super::domain;
use super::egress_policy::Later;
use super::fields::{Fields, filled_list};
use super::network::cidr;
use super::scalar::{decimal, duration, raw_text, shorten};
use super::settings::{Settings, TTL_DEFAULT};
use super::source::Located;
use super::suggest::nearest;
use super::tree::Node;

const TYPES: [&str; 20] = [
    "A", "AAAA", "CAA", "CNAME", "DNAME", "DNSKEY", "DS", "HTTPS", "LOC", "MX", "NAPTR", "NS", "NSEC", "PTR",
    "RRSIG", "SOA", "SRV", "SVCB", "TLSA", "TXT",
];

/// Reads the mapping into `settings`; returns each of its keys as something that is enforced later.
pub(crate) fn read(node: &Node, settings: &mut Settings, report: &mut Report) -> Vec<Later> {
    let known = ["resolvers", "search", "types", "ttl"];
    let Some(fields) = Fields::read(node, "`dns`", &known, report) else { return Vec::new() };
    if let Some(node) = fields.get("resolvers") {
        let nets = filled_list(node, "resolvers", report, |item, report| cidr(item, "resolvers", report));
        settings.resolvers = nets.map(values);
    }
    if let Some(node) = fields.get("search") {
        let names =
            filled_list(node, "search", report, |item, report| domain::name(item, "search", false, report));
        settings.search = names.map(values).unwrap_or_default();
    }
    if let Some(node) = fields.get("types") {
        settings.types = filled_list(node, "types", report, query_type).map(values).unwrap_or_default();
    }
    if let Some(node) = fields.get("ttl") {
        settings.ttl = ttl(node, report).unwrap_or(TTL_DEFAULT);
    }
    let keys = fields.pairs().iter().filter(|pair| known.contains(&pair.key.as_str()));
    keys.map(|pair| Later::by_nobody(pair.key_at, format!("dns.{}", pair.key))).collect()
}

/// The values alone.
pub(super) fn values<T, C: FromIterator<T>>(located: Vec<Located<T>>) -> C {
    located.into_iter().map(|one| one.value).collect()
}

fn query_type(node: &Node, report: &mut Report) -> Option<String> {
    let text = raw_text(node, "types", "the name of a query type, such as AAAA", report)?;
    let number = text.strip_prefix("TYPE").and_then(|digits| decimal(digits).ok());
    // 249 to 255 are questions about a whole zone or a whole name; ANY is one of them.
    let numbered =
        number.is_some_and(|number| (1..=248).contains(&number) || (256..=0xffff).contains(&number));
    if TYPES.contains(&text) || numbered {
        return Some(text.to_owned());
    }
    let finding = report.error(node.at, format!("`types`: unknown query type {}", shorten(text)));
    match nearest(text, TYPES) {
        _ if text.eq_ignore_ascii_case("any") => finding.help("write out the types that are needed"),
        Some(name) => finding.help(format!("did you mean {name}?")),
        None => {
            finding.help("write its name in capitals, such as AAAA, or TYPE and its number, such as TYPE65");
        }
    }
    None
}

fn ttl(node: &Node, report: &mut Report) -> Option<(u64, u64)> {
    let fields = Fields::read(node, "`ttl`", &["min", "max"], report)?;
    let errors = report.errors();
    let mut bound = |key| fields.get(key).and_then(|node| duration(node, key, ("1s", "168h"), report));
    let (min, max) = (bound("min"), bound("max"));
    if report.errors() == errors && min.unwrap_or(TTL_DEFAULT.0) > max.unwrap_or(TTL_DEFAULT.1) {
        let message = "`ttl`: `min` is longer than `max`";
        report.error(node.at, message).help("where one is not written, min is 30s and max is 1h");
    }
    if min.is_none() && max.is_none() && report.errors() == errors {
        report.error(node.at, "`ttl` needs `min`, `max` or both");
    }
    Some((min.unwrap_or(TTL_DEFAULT.0), max.unwrap_or(TTL_DEFAULT.1)))
}
