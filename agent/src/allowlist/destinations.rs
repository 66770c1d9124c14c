//! A Destinations document, validated by itself.

use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;

use super::Context;
use super::cidr_file;
use super::diagnostic::Report;
use super::domain;
use super::fields::{Fields, filled_list};
use super::network::{AddressSet, cidr};
use super::ports::{self, Families};
use super::scalar::{list, point_in_time, text};
use super::source::{Located, Span};
use super::tree::Node;
use crate::policy::{PortRange, resolvable};

const TARGETS: [&str; 3] = ["cidrs", "cidrsFrom", "domains"];
const TARGETS_LATER: [&str; 2] = ["pods", "services"];
const KEYS: [&str; 10] =
    ["cidrs", "cidrsFrom", "domains", "pods", "services", "except", "resolvesTo", "ports", "icmp", "expires"];
const WHY: &str = "why";

/// A validated document.
#[derive(Debug)]
pub(crate) struct Destinations {
    pub(crate) name: Located<String>,
    /// Where the document begins.
    pub(crate) at: Span,
    pub(crate) entries: Vec<Entry>,
}

/// A validated entry of `spec.to`.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) at: Span,
    pub(crate) target: Target,
    pub(crate) ports: Vec<PortRange>,
    /// Where `ports` stands; `None` where every port is open because nothing was written.
    pub(crate) ports_at: Option<Span>,
    pub(crate) expires: Option<u64>,
    pub(crate) why: String,
}

/// Where an entry leads.
#[derive(Debug)]
pub(crate) enum Target {
    Addresses(Addresses),
    Domains { names: Vec<Located<String>>, resolves_to: Option<Vec<Located<IpNet>>> },
}

/// `cidrs` or the content of `cidrsFrom`, and `except`.
#[derive(Debug)]
pub(crate) struct Addresses {
    pub(crate) cidrs: Vec<Located<IpNet>>,
    pub(crate) except: Vec<IpNet>,
    /// What remains of the one without the other.
    pub(crate) set: AddressSet,
}

/// Reads `spec` of a Destinations document.
pub(crate) fn read(
    name: Located<String>,
    at: Span,
    spec: &Node,
    context: &mut Context,
) -> Option<Destinations> {
    let fields = Fields::read(spec, "the spec of Destinations", &["to"], &mut context.report)?;
    let to = fields.require("to", &mut context.report)?;
    let nodes = list(to, "to", &mut context.report)?;
    if nodes.is_empty() {
        context
            .report
            .error(to.at, "`to`: without an entry these Destinations can never match")
            .help("write an entry, or remove the document and what names it");
    }
    let entries = nodes.iter().filter_map(|node| entry(node, context)).collect();
    Some(Destinations { name, at, entries })
}

fn entry(node: &Node, context: &mut Context) -> Option<Entry> {
    let known: Vec<&str> = KEYS.into_iter().chain([WHY]).collect();
    let fields = Fields::read(node, "an entry of `to`", &known, &mut context.report)?;
    let why = why(&fields, &mut context.report);
    let expires = fields.get("expires").and_then(|node| expires(node, &mut context.report));
    let errors = context.report.errors();
    let target = target(&fields, context);
    let sound = context.report.errors() == errors;
    let families = match &target {
        Some(Target::Addresses(addresses)) if sound => Families {
            v4: addresses.cidrs.iter().any(|cidr| matches!(cidr.value, IpNet::V4(_))),
            v6: addresses.cidrs.iter().any(|cidr| matches!(cidr.value, IpNet::V6(_))),
        },
        // What the addresses would be is not known: nothing is said against a type of either family.
        _ => Families { v4: true, v6: true },
    };
    let ports =
        ports::allowed(node.at, fields.get("ports"), fields.get("icmp"), families, &mut context.report);
    let ports_at = fields.get("ports").map(|node| node.at);
    Some(Entry { at: node.at, target: target?, ports, ports_at, expires, why: why? })
}

fn why(fields: &Fields<'_>, report: &mut Report) -> Option<String> {
    let Some(node) = fields.get(WHY) else {
        report
            .error(fields.at(), "missing key `why` in an entry of `to`")
            .help("say for reviewers what the entry is for: why: object store of the team");
        return None;
    };
    let why = text(node, WHY, report)?;
    if why.value.trim().is_empty() {
        report.error(node.at, "`why` is blank").help("say for reviewers what the entry is for");
        return None;
    }
    Some(why.value.trim().to_owned())
}

fn expires(node: &Node, report: &mut Report) -> Option<u64> {
    let expires = point_in_time(node, "expires", report)?;
    // A warning only: a set that was good must not become bad, and its reload fail, because time passes.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if expires <= now {
        report
            .warning(node.at, "`expires`: already expired; the entry is closed")
            .help("remove it, or move the time");
    }
    Some(expires)
}

fn target(fields: &Fields<'_>, context: &mut Context) -> Option<Target> {
    let written: Vec<_> = TARGETS.iter().filter_map(|key| fields.pair(key)).collect();
    let later: Vec<_> = TARGETS_LATER.iter().filter_map(|key| fields.pair(key)).collect();
    for pair in &later {
        context
            .report
            .error(pair.key_at, format!("`{}` comes later", pair.key))
            .help("for now name the addresses with `cidrs`");
    }
    let Some((&first, others)) = written.split_first() else {
        if later.is_empty() {
            let message = "an entry of `to` needs one of `cidrs`, `cidrsFrom`, `domains`";
            context.report.error(fields.at(), message);
        }
        return None;
    };
    for other in others {
        let message = format!("`{}` beside `{}`: an entry has exactly one of the two", other.key, first.key);
        context.report.error(other.key_at, message).help("write a second entry");
    }
    misplaced(fields, first.key == "domains", &mut context.report);
    if first.key == "domains" {
        return domains(fields, &first.value, &mut context.report);
    }
    let errors = context.report.errors();
    let cidrs = if first.key == "cidrs" {
        filled_list(&first.value, "cidrs", &mut context.report, |item, report| cidr(item, "cidrs", report))?
    } else {
        cidr_file::read(&first.value, context)
    };
    let sound = context.report.errors() == errors;
    Some(Target::Addresses(addresses(fields, cidrs, sound, &first.key, &mut context.report)))
}

fn misplaced(fields: &Fields<'_>, domains: bool, report: &mut Report) {
    let (key, message) = if domains {
        ("except", "`except` belongs to `cidrs` and `cidrsFrom`, not to `domains`")
    } else {
        ("resolvesTo", "`resolvesTo` belongs to `domains`")
    };
    if let Some(pair) = fields.pair(key) {
        report.error(pair.key_at, message).help("move it to the entry it is meant for, or remove it");
    }
}

fn domains(fields: &Fields<'_>, node: &Node, report: &mut Report) -> Option<Target> {
    let names =
        filled_list(node, "domains", report, |item, report| domain::name(item, "domains", true, report))?;
    let resolves_to = fields.get("resolvesTo").and_then(|node| {
        filled_list(node, "resolvesTo", report, |item, report| cidr(item, "resolvesTo", report))
    });
    for net in resolves_to.iter().flatten() {
        if let Some(what) = resolvable::never_holds(&net.value) {
            let message =
                format!("`resolvesTo`: {} can never match: {what}, which no answer opens", net.value);
            report.error(net.at, message).help("remove it; an address is opened by an entry with `cidrs`");
        }
    }
    Some(Target::Domains { names, resolves_to })
}

fn addresses(
    fields: &Fields<'_>,
    cidrs: Vec<Located<IpNet>>,
    sound: bool,
    key: &str,
    report: &mut Report,
) -> Addresses {
    let whole = AddressSet::of(cidrs.iter().map(|cidr| &cidr.value));
    let errors = report.errors();
    let except = fields
        .get("except")
        .and_then(|node| filled_list(node, "except", report, |item, report| cidr(item, "except", report)))
        .unwrap_or_default();
    // Beside a CIDR that could not be read, an exception may well be inside it.
    for hole in except.iter().filter(|hole| sound && !whole.contains(&hole.value)) {
        report
            .error(hole.at, format!("`except`: {} is not inside `{key}` of this entry", hole.value))
            .help("remove it; to refuse addresses everywhere use `deny` of the policy");
    }
    let except: Vec<IpNet> = except.into_iter().map(|hole| hole.value).collect();
    let set = whole.minus(&AddressSet::of(&except));
    if set.is_empty() && !whole.is_empty() && sound && report.errors() == errors {
        let at = fields.pair("except").map_or(fields.at(), |pair| pair.key_at);
        report.error(at, format!("`except` leaves nothing of `{key}`: this entry can never match"));
    }
    Addresses { cidrs, except, set }
}
