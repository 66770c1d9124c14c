//! What was found by asking: hosts, and what each is needed for.

use std::collections::{BTreeMap, BTreeSet};

use super::client::{Client, FetchError, is_metadata};
use super::location::{Host, Location, Site};
use super::page::PageError;

/// Of a listing no more is read. That of a public index has tens of megabytes.
const LISTING_BYTES: usize = 512 << 10;
/// Of the page of one project.
const PAGE_BYTES: usize = 4 << 20;
/// Projects out of a listing that are asked for, and how many answers are enough.
const CANDIDATES: usize = 8;
const ENOUGH: usize = 3;
/// An index whose files come from more hosts than this is described by no list.
const MAX_HOSTS: usize = 32;

/// What a host is needed for.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) ports: BTreeSet<u16>,
    /// It has the pages of the index.
    pub(crate) pages: bool,
    /// Projects whose files it has.
    pub(crate) files_of: BTreeSet<String>,
    /// Sites that send on to it.
    pub(crate) sent_by: BTreeSet<Site>,
}

/// Everything that was found.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) hosts: BTreeMap<Host, Found>,
    pub(crate) asked: BTreeSet<String>,
    pub(crate) notes: BTreeSet<String>,
    /// One file of each site, to be asked for.
    samples: BTreeMap<Site, Location>,
}

/// Why an index tells nothing.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// No answer that helps.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Nothing to ask for.
    #[error(
        "{site}: {listing}, and pip has nothing installed; name a project that the index has: --project NAME"
    )]
    NoProjects {
        /// The index.
        site: String,
        /// What became of the listing.
        listing: String,
    },
    /// Pages, and no file on them.
    #[error("{site}: no file was found on the pages of {}; name a project that it has: --project NAME", .tried.join(", "))]
    NoFiles {
        /// The index.
        site: String,
        /// The projects, each with what became of its page.
        tried: Vec<String>,
    },
    /// No index, or one beyond what can be listed.
    #[error("its files come from more than {MAX_HOSTS} hosts; write that allowlist by hand")]
    TooManyHosts,
}

/// Which projects to ask for.
#[derive(Clone, Copy)]
pub(crate) struct Projects<'a> {
    /// Those that were named, and no others.
    pub(crate) named: &'a [String],
    /// Others, for an index that has no listing.
    pub(crate) installed: &'a dyn Fn() -> Vec<String>,
}

impl Survey {
    /// Asks one index.
    pub(crate) fn index(
        &mut self,
        client: &Client,
        index: &Location,
        projects: Projects<'_>,
    ) -> Result<(), SurveyError> {
        let candidates = match projects.named {
            [] => self.candidates(client, index, projects)?,
            named => named.to_vec(),
        };
        let (mut tried, mut with_files) = (Vec::new(), 0);
        for project in &candidates {
            match self.project(client, index, project)? {
                Ok(()) => with_files += 1,
                Err(outcome) => {
                    if !projects.named.is_empty() {
                        self.notes.insert(format!("{project} at {}: {outcome}", index.site()));
                    }
                    tried.push(format!("{project} ({outcome})"));
                }
            }
            if projects.named.is_empty() && with_files == ENOUGH {
                break;
            }
        }
        if with_files == 0 {
            return Err(SurveyError::NoFiles { site: index.site().to_string(), tried });
        }
        Ok(())
    }

    fn candidates(
        &mut self,
        client: &Client,
        index: &Location,
        projects: Projects<'_>,
    ) -> Result<Vec<String>, SurveyError> {
        let listing = match self.listing(client, index)? {
            Ok(names) if !names.is_empty() => return Ok(spread(&names)),
            Ok(_) => "its listing names no project".to_owned(),
            Err(outcome) => format!("its listing cannot be used: {outcome}"),
        };
        let installed = spread(&(projects.installed)());
        if installed.is_empty() {
            return Err(SurveyError::NoProjects { site: index.site().to_string(), listing });
        }
        Ok(installed)
    }

    /// The names in the listing, or why there are none.
    fn listing(
        &mut self,
        client: &Client,
        index: &Location,
    ) -> Result<Result<Vec<String>, String>, SurveyError> {
        let Ok(place) = index.page("") else { return Ok(Err("its URL cannot be asked".to_owned())) };
        let mut way = Vec::new();
        match client.page(&place, LISTING_BYTES, &mut |at| way.push(at.clone())) {
            Ok(page) => {
                self.pages(&way);
                Ok(page.projects().map_err(|error| error.to_string()))
            }
            Err(error) if error.is_answer() => Ok(Err(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// The files of one project. The inner error is what became of its page.
    fn project(
        &mut self,
        client: &Client,
        index: &Location,
        project: &str,
    ) -> Result<Result<(), String>, SurveyError> {
        let Ok(place) = index.page(project) else { return Ok(Err("no name of a project".to_owned())) };
        let mut way = Vec::new();
        let page = match client.page(&place, PAGE_BYTES, &mut |at| way.push(at.clone())) {
            Ok(page) => page,
            Err(error) if error.is_answer() => return Ok(Err(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        self.asked.insert(project.to_owned());
        let files = match page.files() {
            Ok(files) => files,
            Err(error @ (PageError::Type(_) | PageError::Json(_) | PageError::Long(_))) => {
                return Ok(Err(error.to_string()));
            }
        };
        if page.cut {
            let read = PAGE_BYTES >> 20;
            self.notes.insert(format!("{project}: its page is longer than the {read} MiB that were read"));
        }
        self.pages(&way);
        for file in &files {
            self.file(project, file)?;
        }
        Ok(if files.is_empty() { Err("no file".to_owned()) } else { Ok(()) })
    }

    /// A page that pip is configured to look for files on.
    pub(crate) fn links(&mut self, client: &Client, place: &Location) -> Result<(), SurveyError> {
        let mut way = Vec::new();
        let page = client.page(place, PAGE_BYTES, &mut |at| way.push(at.clone()))?;
        self.pages(&way);
        match page.files() {
            Ok(files) => files.iter().try_for_each(|file| self.file("find-links", file))?,
            Err(error) => drop(self.notes.insert(format!("{}: {error}", place.site()))),
        }
        Ok(())
    }

    fn file(&mut self, project: &str, file: &Location) -> Result<(), SurveyError> {
        let site = file.site();
        if is_metadata(&site.host) {
            let note =
                format!("{project} links to instance metadata at {site}: left out, look at that index");
            self.notes.insert(note);
            return Ok(());
        }
        self.host(site)?.files_of.insert(project.to_owned());
        self.samples.entry(site.clone()).or_insert_with(|| file.clone());
        Ok(())
    }

    /// Asks each site for one file: it may send on to a storage service that no page names.
    pub(crate) fn probe(&mut self, client: &Client) -> Result<(), SurveyError> {
        for (site, file) in std::mem::take(&mut self.samples) {
            let mut way = Vec::new();
            if let Err(error) = client.probe(&file, &mut |at| way.push(at.clone())) {
                self.notes.insert(format!("a file of {site} could not be fetched: {error}"));
            }
            self.sent(&way)?;
        }
        Ok(())
    }

    fn pages(&mut self, way: &[Location]) {
        // A redirect counts as far as it was followed, which is less than the number of hosts that is too many.
        for (number, at) in way.iter().enumerate() {
            if let Ok(found) = self.host(at.site()) {
                found.pages = true;
                found.sent_by.extend(number.checked_sub(1).map(|before| way[before].site().clone()));
            }
        }
    }

    fn sent(&mut self, way: &[Location]) -> Result<(), SurveyError> {
        for pair in way.windows(2) {
            self.host(pair[1].site())?.sent_by.insert(pair[0].site().clone());
        }
        Ok(())
    }

    fn host(&mut self, site: &Site) -> Result<&mut Found, SurveyError> {
        if self.hosts.len() >= MAX_HOSTS && !self.hosts.contains_key(&site.host) {
            return Err(SurveyError::TooManyHosts);
        }
        let found = self.hosts.entry(site.host.clone()).or_default();
        found.ports.insert(site.port);
        Ok(found)
    }
}

/// A few names from all over a list.
fn spread(names: &[String]) -> Vec<String> {
    let few = CANDIDATES.min(names.len());
    (0..few).map(|number| names[number * names.len() / few].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> Location {
        Location::parse(url).unwrap()
    }

    #[test]
    fn a_few_names_come_from_all_over_the_list() {
        let names: Vec<String> = (0..80).map(|number| format!("p{number}")).collect();
        assert_eq!(spread(&names), ["p0", "p10", "p20", "p30", "p40", "p50", "p60", "p70"]);
        assert_eq!(spread(&names[..2]), ["p0", "p1"]);
        assert!(spread(&[]).is_empty());
    }

    #[test]
    fn a_host_is_one_with_all_its_ports() {
        let mut survey = Survey::default();
        survey.pages(&[at("http://index.test/"), at("https://index.test/"), at("https://new.test:8443/")]);
        survey.file("a", &at("https://index.test:444/a.whl")).unwrap();
        survey.sent(&[at("https://index.test:444/a.whl"), at("https://store.test/a?sig")]).unwrap();
        let hosts: Vec<String> =
            survey.hosts.iter().map(|(host, found)| format!("{host} {:?}", found.ports)).collect();
        assert_eq!(hosts, ["index.test {80, 443, 444}", "new.test {8443}", "store.test {443}"]);
    }

    #[test]
    fn nobody_is_sent_to_instance_metadata_or_to_hosts_without_end() {
        let mut survey = Survey::default();
        survey.file("a", &at("http://169.254.169.254/a.whl")).unwrap();
        assert!(survey.hosts.is_empty() && survey.notes.len() == 1, "{survey:?}");
        let many =
            (0..=MAX_HOSTS).try_for_each(|n| survey.file("a", &at(&format!("https://h{n}.test/a.whl"))));
        assert!(matches!(many, Err(SurveyError::TooManyHosts)));
    }
}
