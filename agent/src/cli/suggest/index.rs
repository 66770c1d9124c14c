//! `egress-warden suggest index`.

use crate::suggest::index::{self, IndexError, Question};

/// What `suggest index` is asked.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Prints a Destinations document for the package index that pip on this machine is configured for (index-url, \
extra-index-url, find-links; where nothing is configured, pip's own default), or for --index-url: the index's host, and \
every host that its files are served from. They are found by asking: the listing, pages of a few projects, and one file \
of each host to see where it is redirected to. At most 60 requests and 60 seconds; of each answer only a part is read.

pip is asked as `python3 -m pip config list`; where there is none, its files and PIP_* variables are read. Its `cert` and \
`proxy` are used, else REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_FILE, and HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and \
NO_PROXY. Names and passwords in URLs are used and never printed; nor are paths, which may hold tokens.

Behind an address that a public CDN shares, other tenants of that CDN are admitted too: see docs/allowlists.md.

Exit codes: 0 printed; 1 an error.

Examples:
  egress-warden suggest index > lists/package-index.yaml
  egress-warden suggest index --index-url https://index.corp.example/simple/ --project our-library")]
pub(super) struct IndexArgs {
    /// The index to ask, instead of what pip is configured for
    #[arg(long, value_name = "URL")]
    index_url: Option<String>,
    /// A project to ask for, instead of a few that the index lists or pip has installed. Can be repeated
    #[arg(long, value_name = "NAME")]
    project: Vec<String>,
    /// What the document is called
    #[arg(long, default_value = "package-index", value_parser = super::document_name)]
    name: String,
}

pub(super) fn suggest(args: &IndexArgs) -> Result<String, IndexError> {
    let IndexArgs { index_url, project, name } = args;
    index::suggest(&Question { index_url: index_url.as_deref(), projects: project, name })
}
