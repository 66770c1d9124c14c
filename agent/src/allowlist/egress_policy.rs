//! An EgressPolicy document, validated by itself.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::diagnostic::Report;
use super::dns::{self, Dns, values};
use super::fields::{Fields, filled_list, unique_list};
use super::network::cidr;
use super::scalar::{boolean, decimal, duration, number, one_of, raw_text, shorten, text};
use super::select::{self, Select};
use super::settings::{Action, Existing, Scope, Settings};
use super::source::{Located, Span};
use super::suggest::nearest;
use super::tree::Node;
use crate::policy::{Loopback, Mode};

const KEYS: [&str; 11] = [
    "select",
    "mode",
    "allow",
    "deny",
    "metadata",
    "loopback",
    "raw",
    "existing",
    "require",
    "dns",
    "quarantine",
];

/// A validated document.
#[derive(Debug)]
pub(crate) struct EgressPolicy {
    pub(crate) name: Located<String>,
    /// Where the document begins.
    pub(crate) at: Span,
    pub(crate) select: Option<Located<Select>>,
    pub(crate) mode: Mode,
    pub(crate) allow: Vec<Located<String>>,
    pub(crate) deny: Vec<Located<IpNet>>,
    /// Where `metadata: true` stands.
    pub(crate) metadata: Option<Span>,
    pub(crate) loopback: Loopback,
    pub(crate) raw: BTreeSet<u8>,
    pub(crate) quarantine: Option<Quarantine>,
    pub(crate) dns: Option<Dns>,
    pub(crate) later: Vec<Later>,
    pub(crate) settings: Settings,
}

/// A validated quarantine rule.
#[derive(Debug)]
pub(crate) struct Quarantine {
    pub(crate) at: Span,
    pub(crate) violations: u32,
    pub(crate) within_ns: u64,
    pub(crate) action: Action,
    pub(crate) scope: Scope,
    pub(crate) release: Option<u64>,
    pub(crate) keep: Vec<Located<String>>,
}

/// Something valid that `exec` does not enforce.
#[derive(Clone, Debug)]
pub(crate) struct Later {
    pub(crate) at: Span,
    pub(crate) what: String,
    /// Does the agent?
    pub(crate) agent: bool,
}

impl Later {
    /// Something that the agent enforces.
    const fn by_agent(at: Span, what: String) -> Self {
        Self { at, what, agent: true }
    }

    /// Something that a later version enforces.
    const fn by_nobody(at: Span, what: String) -> Self {
        Self { at, what, agent: false }
    }
}

/// Reads `spec` of an EgressPolicy. A part that is wrong is reported and left out, so that the rest is looked at too.
pub(crate) fn read(
    name: Located<String>,
    at: Span,
    spec: &Node,
    report: &mut Report,
) -> Option<EgressPolicy> {
    let fields = Fields::read(spec, "the spec of EgressPolicy", &KEYS, report)?;
    let modes = [("enforce", Mode::Enforce), ("audit", Mode::Audit)];
    let mode = fields.require("mode", report).and_then(|node| one_of(node, "mode", &modes, report));
    let select = fields.require("select", report).and_then(|node| select::read(node, report));
    let allow = fields.require("allow", report).and_then(|node| names(node, "allow", report));
    let deny = fields
        .get("deny")
        .and_then(|node| filled_list(node, "deny", report, |item, report| cidr(item, "deny", report)));
    let metadata = fields.get("metadata").filter(|node| boolean(node, "metadata", report) == Some(true));
    let loopbacks = [("allow", Loopback::Allow), ("deny", Loopback::Deny)];
    let loopback = fields.get("loopback").and_then(|node| one_of(node, "loopback", &loopbacks, report));
    let raw: BTreeSet<u8> = fields
        .get("raw")
        .and_then(|node| unique_list(node, "raw", report, protocol))
        .map(values)
        .unwrap_or_default();
    let mut settings =
        Settings { raw: raw.iter().copied().map(protocol_name).collect(), ..Settings::default() };
    let dns = fields.pair("dns").and_then(|pair| dns::read(pair, report));
    let mut later = later(&fields, &mut settings, report);
    let allow = allow.unwrap_or_default();
    let quarantine = fields
        .get("quarantine")
        .and_then(|node| quarantine(node, &allow, (&mut later, &mut settings), report));
    Some(EgressPolicy {
        name,
        at,
        select,
        mode: mode.unwrap_or(Mode::Enforce),
        allow,
        deny: deny.unwrap_or_default(),
        metadata: metadata.map(|node| node.at),
        loopback: loopback.unwrap_or_default(),
        raw,
        quarantine,
        dns,
        later,
        settings,
    })
}

/// Names of Destinations; whether they exist is seen when the whole set is read.
fn names(node: &Node, key: &str, report: &mut Report) -> Option<Vec<Located<String>>> {
    unique_list(node, key, report, |item, report| text(item, key, report).map(|name| name.value.to_owned()))
}

/// The keys that `exec` does not enforce, or has no use for.
fn later(fields: &Fields<'_>, settings: &mut Settings, report: &mut Report) -> Vec<Later> {
    let mut later = Vec::new();
    let mut add = |key: &str, what: String, agent: bool| {
        later.extend(fields.pair(key).map(|pair| Later { at: pair.key_at, what, agent }));
    };
    if let Some(node) = fields.get("existing") {
        let words = [("judge", Existing::Judge), ("keep", Existing::Keep), ("cut", Existing::Cut)];
        settings.existing = one_of(node, "existing", &words, report).unwrap_or_default();
    }
    if let Some(node) = fields.get("require") {
        let words = [("backstop", "backstop")];
        let required =
            filled_list(node, "require", report, |item, report| one_of(item, "require", &words, report));
        settings.require = required.into_iter().flatten().map(|word| word.value.to_owned()).collect();
        add("require", "require".to_owned(), true);
    }
    later
}

const PROTOCOLS: [(&str, u8); 12] = [
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ospf", 89),
    ("vrrp", 112),
    ("sctp", 132),
    ("udplite", 136),
];

/// One spelling of a protocol, so that two policies can be compared.
fn protocol_name(number: u8) -> String {
    let named = PROTOCOLS.iter().find(|(_, known)| *known == number);
    named.map_or_else(|| format!("protocol {number}"), |(name, _)| (*name).to_owned())
}

/// A protocol by name or number. 255 is none: a raw socket opened with it may send any protocol.
fn protocol(node: &Node, report: &mut Report) -> Option<u8> {
    let text = raw_text(node, "raw", "the name or number of a protocol", report)?;
    let named = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    let numbered = decimal(text)
        .ok()
        .and_then(|number| u8::try_from(number).ok())
        .filter(|number| (1..=254).contains(number));
    if named.or(numbered).is_none() {
        let finding = report.error(
            node.at,
            format!(
                "`raw`: expected the name of a protocol or a number from 1 to 254, found {}",
                shorten(text)
            ),
        );
        match nearest(text, PROTOCOLS.iter().map(|(name, _)| *name)) {
            Some(name) => finding.help(format!("did you mean {name}?")),
            None if text == "255" => {
                finding.help("255 would allow every protocol; name the ones that are needed");
            }
            None => finding.help(format!("known names: {}", PROTOCOLS.map(|(name, _)| name).join(", "))),
        }
    }
    named.or(numbered)
}

fn quarantine(
    node: &Node,
    allow: &[Located<String>],
    later: (&mut Vec<Later>, &mut Settings),
    report: &mut Report,
) -> Option<Quarantine> {
    let known = ["violations", "within", "action", "keep", "scope", "release"];
    let fields = Fields::read(node, "`quarantine`", &known, report)?;
    let violations =
        fields.require("violations", report).and_then(|node| number(node, "violations", (1, 256), report));
    let within =
        fields.require("within", report).and_then(|node| duration(node, "within", ("1ms", "24h"), report));
    let keep = fields.get("keep").and_then(|node| names(node, "keep", report)).unwrap_or_default();
    for name in keep.iter().filter(|name| !allow.iter().any(|allowed| allowed.value == name.value)) {
        let message = format!("`keep`: {} is not in `allow`: quarantine only narrows", shorten(&name.value));
        let finding = report.error(name.at, message);
        match nearest(&name.value, allow.iter().map(|allowed| allowed.value.as_str())) {
            Some(near) => finding.help(format!("did you mean {near}?")),
            None => finding.help("add it to `allow`, or remove it here"),
        }
    }
    let (later, settings) = later;
    quarantine_later(&fields, later, settings, report);
    let Settings { action, scope, release, .. } = *settings;
    Some(Quarantine {
        at: node.at,
        violations: violations?,
        within_ns: within?,
        action,
        scope,
        release,
        keep,
    })
}

fn quarantine_later(
    fields: &Fields<'_>,
    later: &mut Vec<Later>,
    settings: &mut Settings,
    report: &mut Report,
) {
    if let Some(node) = fields.get("action") {
        let isolate = ("isolate", Action::Isolate);
        let words =
            [("isolate", isolate), ("freeze", ("freeze", Action::Freeze)), ("kill", ("kill", Action::Kill))];
        let (word, action) = one_of(node, "action", &words, report).unwrap_or(isolate);
        settings.action = action;
        if action != Action::Isolate {
            later.push(Later::by_agent(node.at, format!("quarantine.action: {word}")));
        }
    }
    if let Some(node) = fields.get("scope") {
        let words = [("pod", Scope::Pod), ("job", Scope::Job)];
        settings.scope = one_of(node, "scope", &words, report).unwrap_or_default();
        if settings.scope == Scope::Job {
            later.push(Later::by_nobody(node.at, "quarantine.scope: job".to_owned()));
        }
    }
    if let Some(node) = fields.get("release") {
        let written = raw_text(node, "release", "manual or a length of time such as 1h", report);
        if written.is_some_and(|text| text != "manual")
            && let Some(nanoseconds) = duration(node, "release", ("1s", "720h"), report)
        {
            settings.release = Some(nanoseconds);
            let what = format!("quarantine.release: {}", written.unwrap_or_default());
            later.push(Later::by_agent(node.at, what));
        }
    }
}
