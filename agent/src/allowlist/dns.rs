//! `dns` of a policy.

use ipnet::IpNet;

use super::diagnostic::Report;
use super::domain;
use super::fields::{Fields, filled_list};
use super::network::cidr;
use super::scalar::{decimal, duration, raw_text, shorten};
use super::source::{Located, Span};
use super::suggest::nearest;
use super::tree::{Node, Pair};
use crate::policy;

/// Query types by name; those without one are written TYPE and their number.
const TYPES: [(&str, u16); 20] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("LOC", 29),
    ("SRV", 33),
    ("NAPTR", 35),
    ("DNAME", 39),
    ("DS", 43),
    ("RRSIG", 46),
    ("NSEC", 47),
    ("DNSKEY", 48),
    ("TLSA", 52),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("CAA", 257),
];

/// A validated `dns`.
#[derive(Debug)]
pub(crate) struct Dns {
    /// Where the key stands.
    pub(crate) at: Span,
    pub(crate) policy: policy::Dns,
    /// `resolvers` with their places.
    pub(crate) resolvers: Vec<Located<IpNet>>,
    /// `search` with their places.
    pub(crate) search: Vec<Located<String>>,
}

/// Reads the key.
pub(crate) fn read(pair: &Pair, report: &mut Report) -> Option<Dns> {
    let fields = Fields::read(&pair.value, "`dns`", &["resolvers", "search", "types", "ttl"], report)?;
    let resolvers = fields.get("resolvers").and_then(|node| {
        filled_list(node, "resolvers", report, |item, report| cidr(item, "resolvers", report))
    });
    let search = fields.get("search").and_then(|node| {
        filled_list(node, "search", report, |item, report| domain::name(item, "search", false, report))
    });
    let types = fields.get("types").and_then(|node| filled_list(node, "types", report, query_type));
    let default = policy::Dns::default();
    let policy = policy::Dns {
        judged: true,
        resolvers: resolvers.as_ref().map(|nets| nets.iter().map(|net| net.value).collect()),
        search: search.iter().flatten().map(|name| name.value.clone()).collect(),
        types: types.map_or(default.types, values),
        ttl: fields.get("ttl").and_then(|node| ttl(node, default.ttl, report)).unwrap_or(default.ttl),
    };
    Some(Dns {
        at: pair.key_at,
        policy,
        resolvers: resolvers.unwrap_or_default(),
        search: search.unwrap_or_default(),
    })
}

/// A query type as it is written.
#[must_use]
pub fn type_name(number: u16) -> String {
    let named = TYPES.iter().find(|(_, known)| *known == number);
    named.map_or_else(|| format!("TYPE{number}"), |(name, _)| (*name).to_owned())
}

/// The values alone.
pub(super) fn values<T, C: FromIterator<T>>(located: Vec<Located<T>>) -> C {
    located.into_iter().map(|one| one.value).collect()
}

fn query_type(node: &Node, report: &mut Report) -> Option<u16> {
    let text = raw_text(node, "types", "the name of a query type, such as AAAA", report)?;
    let number = text.strip_prefix("TYPE").and_then(|digits| decimal(digits).ok());
    // 249 to 255 are questions about a whole zone or a whole name; ANY is one of them.
    let numbered = number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| (1..=248).contains(number) || *number >= 256);
    let named = TYPES.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    if let Some(number) = named.or(numbered) {
        return Some(number);
    }
    let finding = report.error(node.at, format!("`types`: unknown query type {}", shorten(text)));
    match nearest(text, TYPES.map(|(name, _)| name)) {
        _ if text.eq_ignore_ascii_case("any") => finding.help("write out the types that are needed"),
        Some(name) => finding.help(format!("did you mean {name}?")),
        None => {
            finding.help("write its name in capitals, such as AAAA, or TYPE and its number, such as TYPE65");
        }
    }
    None
}

fn ttl(node: &Node, default: (u32, u32), report: &mut Report) -> Option<(u32, u32)> {
    let fields = Fields::read(node, "`ttl`", &["min", "max"], report)?;
    let errors = report.errors();
    let mut bound = |key| fields.get(key).and_then(|node| seconds(node, key, report));
    let (min, max) = (bound("min"), bound("max"));
    let written = (min.unwrap_or(default.0), max.unwrap_or(default.1));
    if report.errors() == errors && written.0 > written.1 {
        let message = "`ttl`: `min` is longer than `max`";
        report.error(node.at, message).help("where one is not written, min is 30s and max is 1h");
    }
    if min.is_none() && max.is_none() && report.errors() == errors {
        report.error(node.at, "`ttl` needs `min`, `max` or both");
    }
    Some(written)
}

/// What DNS itself counts in.
fn seconds(node: &Node, key: &str, report: &mut Report) -> Option<u32> {
    let nanoseconds = duration(node, key, ("1s", "168h"), report)?;
    if !nanoseconds.is_multiple_of(1_000_000_000) {
        report.error(node.at, format!("`{key}`: answers live for whole seconds")).help("leave out the ms");
        return None;
    }
    u32::try_from(nanoseconds / 1_000_000_000).ok()
}
