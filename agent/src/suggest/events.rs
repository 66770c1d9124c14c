//! The records of an audit run, as the smallest allowlist that covers them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::addresses::{aggregated, common_to, resolves_to};
use super::document::{Draft, Entry, Place, Unfit, cidrs, read_back, scalar};
use super::evidence::{Evidence, counted};
use super::gather::{Gathered, Named, Tried};
use super::records;
use crate::allowlist::source::MAX_BYTES;
use crate::allowlist::{Diagnostic, Format, render};
use crate::ruleset::compile;
use crate::ruleset::suggest::{Opening, USUAL_PORT};
use crate::text::visible;

/// What is not suggested is listed up to here for each reason.
const LISTED: usize = 20;

/// CIDRs in all `resolvesTo` together, where all names share one.
const MOST_PLACES: usize = 1 << 16;

/// Why nothing is suggested.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// Lines that are no records, or files that cannot be read.
    #[error("{}", render(.0, Format::Text).trim_end())]
    Bad(Vec<Diagnostic>),
    /// No record at all.
    #[error("there is no record in {}: nothing was refused, or the run has not ended", files(.0))]
    Empty(Vec<PathBuf>),
    /// Records, and none that an entry could help.
    #[error("no record names a destination that an allowlist should open:\n{}", .0.join("\n"))]
    Nothing(Vec<String>),
    /// More than one policy holds.
    #[error("the suggestion is too large, {0}: take the records of fewer workloads, or write ranges by hand")]
    TooLarge(String),
    /// A mistake of this program.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// Reads files of records and writes a `Destinations` document and an `EgressPolicy` in audit mode that allows it.
///
/// # Errors
/// When there is nothing to suggest, or something is wrong with a file: then nothing is suggested at all.
pub fn suggest(paths: &[PathBuf], name: &str) -> Result<String, EventsError> {
    let (mut gathered, mut findings) = (Gathered::default(), Vec::new());
    for path in paths {
        if let Err(bad) = records::read(path, &mut |event| gathered.add(&event)) {
            findings.extend(bad);
        }
    }
    if !findings.is_empty() {
        return Err(EventsError::Bad(findings));
    }
    if gathered.records == 0 {
        return Err(EventsError::Empty(paths.to_vec()));
    }
    let common = common_to(gathered.names.values().map(|named| &named.addresses));
    if let Some(places) =
        common.as_ref().map(Vec::len).filter(|places| places * gathered.names.len() > MOST_PLACES)
    {
        return Err(EventsError::TooLarge(format!(
            "{} names led to {places} different places that are not global",
            gathered.names.len()
        )));
    }
    let draft = draft(&gathered, paths, name, common.as_deref());
    if draft.entries.is_empty() {
        return Err(EventsError::Nothing(left_out(&gathered)));
    }
    let yaml = draft.yaml() + &policy(&gathered, name);
    if yaml.len() as u64 > MAX_BYTES {
        return Err(EventsError::TooLarge(format!(
            "more than the {} MiB that `check` reads",
            MAX_BYTES >> 20
        )));
    }
    let set = read_back(&yaml)?;
    match set.policy(name).map(|policy| compile(&policy)) {
        Some(Err(error)) => Err(EventsError::TooLarge(error.to_string())),
        _ => Ok(yaml),
    }
}

fn files(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn draft(gathered: &Gathered, paths: &[PathBuf], name: &str, common: Option<&[IpNet]>) -> Draft {
    let about = vec![
        format!("Suggested by `egress-warden suggest from-events` from {}.", files(paths)),
        format!(
            "{} of {}{}. Records are samples: a flood leaves out some.",
            counted(gathered.records, "record"),
            counted(gathered.workloads(), "workload"),
            gathered.span.text()
        ),
        "Everything is here that was tried, wanted or not. Say in each `why` what it is for, or delete the entry.".to_owned(),
    ];
    let names = gathered.names.iter().map(|(name, named)| by_name(name, named, common));
    let entries = names.chain(by_address(&gathered.addresses)).collect();
    let mut below = left_out(gathered);
    if !below.is_empty() {
        below.insert(0, "Not suggested:".to_owned());
    }
    Draft { name: name.to_owned(), about, entries, below }
}

/// One entry for each name, with all ports that were tried under it. Where there is a `resolvesTo` for all, that is taken.
fn by_name(name: &str, named: &Named, common: Option<&[IpNet]>) -> Entry {
    let mut evidence = Vec::new();
    if named.asked.records() > 0 {
        evidence.push(named.asked.line(" of queries"));
    }
    let mut opened: BTreeSet<Opening> = named.tried.keys().copied().collect();
    evidence.extend(lines(&named.tried));
    if opened.is_empty() {
        opened.insert(Opening::Tcp(USUAL_PORT));
        evidence.push("port not seen: 443 is a guess".to_owned());
    }
    let mut resolves_to = resolves_to(&named.addresses);
    if !resolves_to.is_empty() {
        evidence
            .push("it led to addresses that answers may point to only if `resolvesTo` says so".to_owned());
    }
    if let Some(common) = common.filter(|_| !resolves_to.is_empty()) {
        evidence.push(format!(
            "CHANGE: it led to {} alone, but a policy tells only a few places apart, so this is where all such names led",
            cidrs(&resolves_to)
        ));
        common.clone_into(&mut resolves_to);
    }
    let mut all = named.asked.clone();
    named.tried.values().for_each(|one| all.merge(one));
    Entry { place: Place::Name(name.to_owned()), resolves_to, opened, evidence, why: why(&all) }
}

/// Neighbours on which the same ports were tried become one prefix, which holds nothing that was not tried.
fn by_address(addresses: &BTreeMap<IpAddr, Tried>) -> Vec<Entry> {
    let mut alike: BTreeMap<Vec<Opening>, BTreeSet<IpAddr>> = BTreeMap::new();
    for (address, tried) in addresses {
        alike.entry(tried.keys().copied().collect()).or_default().insert(*address);
    }
    let mut entries = BTreeMap::new();
    for (opened, members) in alike {
        for network in aggregated(&members) {
            let mut tried = Tried::new();
            for (opening, evidence) in
                members.range(network.network()..=network.broadcast()).flat_map(|address| &addresses[address])
            {
                tried.entry(*opening).or_default().merge(evidence);
            }
            entries.insert(network, entry(network, opened.iter().copied().collect(), &tried));
        }
    }
    entries.into_values().collect()
}

fn entry(network: IpNet, opened: BTreeSet<Opening>, tried: &Tried) -> Entry {
    let mut all = Evidence::default();
    tried.values().for_each(|one| all.merge(one));
    Entry {
        place: Place::Network(network),
        resolves_to: Vec::new(),
        opened,
        evidence: lines(tried).collect(),
        why: why(&all),
    }
}

fn lines(tried: &Tried) -> impl Iterator<Item = String> {
    tried.iter().map(|(opening, evidence)| {
        let to = match opening {
            Opening::Tcp(port) => format!(" to {port}/tcp"),
            Opening::Udp(port) => format!(" to {port}/udp"),
            Opening::Icmp(name) => format!(" of {name}"),
        };
        evidence.line(&to)
    })
}

fn why(evidence: &Evidence) -> String {
    format!("REVIEW: {}, by {}; say what it is for", counted(evidence.records(), "record"), evidence.by())
}

/// What is not suggested, with its reason.
fn left_out(gathered: &Gathered) -> Vec<String> {
    let mut lines = Vec::new();
    for (heading, tried) in &gathered.left_out {
        lines.push(format!("- {heading}"));
        let shown = tried.iter().take(LISTED);
        lines.extend(shown.map(|(what, evidence)| format!("    {}", evidence.line(&format!(" of {what}")))));
        if tried.len() > LISTED {
            lines.push(format!("    and {} more", tried.len() - LISTED));
        }
    }
    lines
}

/// A policy that selects nothing yet: which workloads it is for is not for the records to say.
fn policy(gathered: &Gathered, name: &str) -> String {
    let mut out = String::from("---\napiVersion: egress-warden.dev/v1\nkind: EgressPolicy\n");
    let name = scalar(name);
    let _ = writeln!(out, "metadata: {{name: {name}}}\nspec:");
    let _ = writeln!(out, "  # CHANGE: the workloads that it is for. The records are of");
    let _ = writeln!(out, "  # {}", visible(&gathered.named_workloads()));
    let _ = writeln!(out, "  select: {{cgroups: [\"/CHANGE-ME\"]}}");
    let _ = writeln!(out, "  # Until nothing is reported any more that should be allowed; then enforce.");
    let _ = writeln!(out, "  mode: audit");
    let _ = writeln!(
        out,
        "  # CHANGE: add what the policy of the run allowed already; records tell only of the rest."
    );
    let _ = writeln!(out, "  allow: [{name}]");
    if !gathered.resolvers.is_empty() {
        let resolvers: Vec<IpNet> = gathered.resolvers.iter().map(|address| IpNet::from(*address)).collect();
        let _ = writeln!(out, "  # The resolvers that were asked, which the policy of the run let be asked.");
        let _ = writeln!(out, "  dns: {{resolvers: {}}}", cidrs(&resolvers));
    }
    out
}

#[cfg(test)]
mod tests;
