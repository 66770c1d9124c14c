//! The allowlist of a package index, by asking the index: its own host, and every host that its files come from.

mod client;
mod location;
mod page;
mod pip;
mod python;
mod survey;
mod trust;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;

use ipnet::IpNet;

use self::client::Client;
use self::location::{Host, Location};
use self::pip::Pip;
use self::survey::{Found, Projects, Survey};
use self::trust::Proxies;
use super::addresses::resolves_to;
use super::document::{Draft, Entry, Place, Unfit, read_back};
use crate::policy::own_host;
use crate::policy::resolvable::never_holds;
use crate::ruleset::suggest::Opening;

pub use self::client::FetchError;
pub use self::location::BadLocation;
pub use self::page::PageError;
pub use self::python::PythonError;
pub use self::survey::SurveyError;
pub use self::trust::{BadProxy, TrustError};

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The index; where none is given, those that pip is configured for.
    pub index_url: Option<&'a str>,
    /// The projects to ask for; where none is given, a few that the index has.
    pub projects: &'a [String],
    /// What the document is called.
    pub name: &'a str,
}

/// Why nothing is suggested.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A URL that cannot be asked.
    #[error("{named_by}: {problem}")]
    Location {
        /// Who named it.
        named_by: String,
        /// What is wrong with it.
        problem: BadLocation,
    },
    /// A project that nothing can be called.
    #[error(
        "--project {0}: a name has letters, digits, `.`, `_` and `-`, and begins and ends with a letter or digit"
    )]
    Project(String),
    /// pip cannot say.
    #[error(transparent)]
    Pip(#[from] PythonError),
    /// Nobody can say.
    #[error(
        "no index is configured, and there is no pip that could tell its default; name the index with --index-url"
    )]
    NoPip,
    /// pip asks nobody.
    #[error("pip is told to ask no index (`no-index`, by {0}); name one with --index-url")]
    NoIndex(String),
    /// Certificates.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The proxy.
    #[error(transparent)]
    Proxy(#[from] BadProxy),
    /// The index.
    #[error("{named_by}: {problem}")]
    Survey {
        /// Who named the index.
        named_by: String,
        /// What became of asking it.
        problem: SurveyError,
    },
    /// A mistake of this program.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// An index or a page of links, and who named it.
#[derive(Debug)]
struct Source {
    named_by: String,
    place: Location,
    is_index: bool,
}

/// Asks, and writes a `Destinations` document.
///
/// # Errors
/// What could not be asked, where, and what to do.
pub fn suggest(question: &Question<'_>) -> Result<String, IndexError> {
    if let Some(bad) = question.projects.iter().find(|project| !page::is_project(project)) {
        return Err(IndexError::Project(bad.clone()));
    }
    // With a URL given, pip is asked only for what helps to reach it.
    let pip = match Pip::find() {
        Err(error) if question.index_url.is_none() => return Err(error.into()),
        pip => pip.ok(),
    };
    let sources = sources(question, pip.as_ref())?;
    let setting = |key| pip.as_ref().and_then(|pip| pip.settings.one(key));
    let tls = trust::certificates(setting("cert").map(Path::new))?;
    let client = Client::new(tls, Proxies::find(setting("proxy"))?);
    let survey = survey(&client, &sources, question, pip.as_ref())?;
    let yaml = draft(&client, &survey, &sources, question.name).yaml();
    read_back(&yaml)?;
    Ok(yaml)
}

fn sources(question: &Question<'_>, pip: Option<&Pip>) -> Result<Vec<Source>, IndexError> {
    if let Some(url) = question.index_url {
        return Ok(vec![source("--index-url".to_owned(), url, true)?]);
    }
    let Some(pip) = pip else { return Err(IndexError::NoPip) };
    let said = |key: &str| format!("{key}, by {}", pip.told_by);
    let mut sources = Vec::new();
    if !pip.settings.is_on("no-index") {
        sources.push(match pip.settings.one("index-url") {
            Some(url) => source(said("index-url"), url, true)?,
            None => {
                let url = pip.default_index()?.ok_or(IndexError::NoPip)?;
                source("pip's own default".to_owned(), &url, true)?
            }
        });
        for url in pip.settings.list("extra-index-url") {
            sources.push(source(said("extra-index-url"), url, true)?);
        }
    }
    // Directories are no destinations.
    for url in pip.settings.list("find-links").into_iter().filter(|link| link.contains("://")) {
        match source(said("find-links"), url, false) {
            Err(IndexError::Location { problem: BadLocation::Scheme(_), .. }) => {}
            found => sources.push(found?),
        }
    }
    if sources.is_empty() { Err(IndexError::NoIndex(pip.told_by.clone())) } else { Ok(sources) }
}

fn source(named_by: String, url: &str, is_index: bool) -> Result<Source, IndexError> {
    match Location::parse(url) {
        Ok(place) => Ok(Source { named_by, place, is_index }),
        Err(problem) => Err(IndexError::Location { named_by, problem }),
    }
}

fn survey(
    client: &Client,
    sources: &[Source],
    question: &Question<'_>,
    pip: Option<&Pip>,
) -> Result<Survey, IndexError> {
    let mut survey = Survey::default();
    let installed = || pip.map(Pip::installed).unwrap_or_default();
    let projects = Projects { named: question.projects, installed: &installed };
    let failed = |source: &Source, problem| IndexError::Survey { named_by: source.named_by.clone(), problem };
    for source in sources {
        let asked = match source.is_index {
            true => survey.index(client, &source.place, projects),
            false => survey.links(client, &source.place),
        };
        asked.map_err(|problem| failed(source, problem))?;
    }
    survey.probe(client).map_err(|problem| failed(&sources[0], problem))?;
    Ok(survey)
}

fn draft(client: &Client, survey: &Survey, sources: &[Source], name: &str) -> Draft {
    let proxied = sources.iter().any(|source| client.is_proxied(&source.place));
    let mut about = vec!["Suggested by `egress-warden suggest index` for".to_owned()];
    about.extend(sources.iter().map(|source| format!("  {} ({})", source.place.site(), source.named_by)));
    let asked: Vec<&str> = survey.asked.iter().map(String::as_str).collect();
    about.push(format!(
        "Pages that were asked for: {}. Files of other projects may come from elsewhere: see --project.",
        asked.join(", ")
    ));
    about.extend(
        [
            "RISK: an entry by name opens the addresses that the name leads to. A public CDN serves many tenants from one",
            "address: all of them are admitted with it, for no rule by address can tell them apart. Prefer a mirror or a proxy.",
        ]
        .map(str::to_owned),
    );
    if proxied {
        about.push(
            "They were asked through a proxy. Workloads that use it need an entry for the proxy, and none of these.".to_owned(),
        );
    }
    let mut hosts: Vec<(&Host, &Found)> = survey.hosts.iter().collect();
    hosts.sort_by_key(|(_, found)| !found.pages);
    let entries = hosts.into_iter().map(|(host, found)| entry(host, found, proxied)).collect();
    let notes = survey.notes.iter().map(|note| format!("NOTE {note}")).collect();
    Draft { name: name.to_owned(), about, entries, below: notes }
}

fn entry(host: &Host, found: &Found, proxied: bool) -> Entry {
    let mut evidence = Vec::new();
    if found.pages {
        evidence.push("pages of the index".to_owned());
    }
    if !found.files_of.is_empty() {
        let projects: Vec<&str> = found.files_of.iter().map(String::as_str).collect();
        evidence.push(format!("files of {}", projects.join(", ")));
    }
    evidence.extend(found.sent_by.iter().map(|site| format!("{site} redirects here")));
    let why = if found.pages { "package index" } else { "files of the package index" };
    let (place, resolves_to) = match host {
        Host::Address(address) => (Place::Network(IpNet::from(*address)), Vec::new()),
        // Behind a proxy a name may have no meaning here.
        Host::Name(name) if proxied => (Place::Name(name.clone()), Vec::new()),
        Host::Name(name) => (Place::Name(name.clone()), beyond_default(name, &mut evidence)),
    };
    let opened = found.ports.iter().map(|port| Opening::Tcp(*port)).collect();
    Entry { place, resolves_to, opened, evidence, why: why.to_owned() }
}

/// What `resolvesTo` has to say, judged by where the name leads from here.
fn beyond_default(name: &str, evidence: &mut Vec<String>) -> Vec<IpNet> {
    let Ok(resolved) = (name, 0).to_socket_addrs() else {
        evidence.push("the name leads nowhere from here".to_owned());
        return Vec::new();
    };
    let addresses: BTreeSet<IpAddr> = resolved.map(|address| address.ip().to_canonical()).collect();
    let (own, mut others): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
        addresses.into_iter().partition(|address| own_host::holds(*address));
    if !own.is_empty() {
        evidence.push(
            "from here it leads to loopback, which no name opens: see `loopback` of the policy".to_owned(),
        );
    }
    let never: BTreeMap<&str, IpAddr> =
        others.iter().filter_map(|address| Some((never_holds(&(*address).into())?, *address))).collect();
    evidence.extend(never.iter().map(|(what, address)| {
        format!("from here it leads to {address}, one of {what}, which no name opens: allow it by `cidrs`, if it must be")
    }));
    others.retain(|address| never_holds(&(*address).into()).is_none());
    let resolves_to = resolves_to(&others);
    if !resolves_to.is_empty() {
        evidence.push(
            "CHANGE: it leads to private addresses; widen `resolvesTo` to where its answers may point"
                .to_owned(),
        );
    }
    resolves_to
}
