//! What goes over the socket: one request line, then one answer line or, for `watch`, many. Each line is JSON.
//!
//! The agent takes a request strictly: a key that it does not know could be one that matters. A client takes an answer
//! leniently, so that an agent may tell more than it did.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use super::status::{
    Allowlists, Capabilities, Grant, Held, Interface, OtherProgram, Pod, Policy, Rdma, Selftest, Status,
    Workload,
};

use crate::allowlist;
use crate::quarantine::history::Entry;
use crate::records::Event;
use crate::selftest::Report;

/// Version of the requests.
pub const VERSION: u32 = 1;
/// Version of what `status --json` and `quarantine list --json` print: `docs/control.md`.
pub const SCHEMA: u32 = 1;
/// A longer request is refused.
pub const LONGEST_REQUEST: usize = 16 * 1024;
/// Letters of a `why`.
pub const LONGEST_WHY: usize = 1024;
/// Letters of a `who`.
pub const LONGEST_WHO: usize = 128;

/// A request with the version of its language.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// [`VERSION`].
    pub version: u32,
    /// The request.
    pub request: Request,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What the agent does: answered with [`Answer::Status`].
    Status,
    /// Quarantines: answered with [`Answer::Quarantines`].
    QuarantineList {
        /// Also those of the past.
        #[serde(default)]
        history: bool,
    },
    /// Put a workload into quarantine: answered with [`Answer::Done`].
    QuarantineAdd {
        /// Which: label, path, or an unambiguous end of one.
        workload: String,
        /// What is done with it.
        action: Action,
        /// Who asks, in their own words.
        who: Option<String>,
        /// Why.
        why: String,
    },
    /// Let a workload out of quarantine: answered with [`Answer::Done`].
    Release {
        /// Which: label, path, or an unambiguous end of one.
        workload: String,
        /// Who asks, in their own words.
        who: Option<String>,
        /// Why.
        why: String,
    },
    /// Violations as they happen: answered with [`Answer::Watching`], then [`Answer::Violation`] and [`Answer::Missed`].
    Watch,
    /// Try the ways out: answered with [`Answer::Selftest`].
    Selftest,
    /// Take enforcement out of the kernel: answered with [`Answer::Detached`].
    Detach,
}

/// A line of the agent's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// What the agent does.
    Status(Box<Status>),
    /// Quarantines.
    Quarantines(Quarantines),
    /// It was done.
    Done {
        /// The label of the workload that it was done to.
        workload: String,
    },
    /// Enforcement was taken out of the kernel.
    Detached {
        /// For that many workloads.
        workloads: usize,
    },
    /// What a self-test found.
    Selftest(Box<Report>),
    /// From here on nothing is missed unless it is told.
    Watching,
    /// One violation.
    Violation(Box<Event>),
    /// The client did not keep up; that many violations were not sent to it. They are counted all the same.
    Missed(u64),
    /// It was not done.
    Error(String),
}

/// What is done with a workload in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Cut off from everything that the policy does not keep open
    Isolate,
    /// Cut off, and its processes stopped until the release
    Freeze,
    /// Cut off, and its processes killed
    Kill,
}

impl Action {
    /// As the policies write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Isolate => "isolate",
            Self::Freeze => "freeze",
            Self::Kill => "kill",
        }
    }
}

impl From<Action> for allowlist::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Isolate => Self::Isolate,
            Action::Freeze => Self::Freeze,
            Action::Kill => Self::Kill,
        }
    }
}

impl From<allowlist::Action> for Action {
    fn from(action: allowlist::Action) -> Self {
        match action {
            allowlist::Action::Isolate => Self::Isolate,
            allowlist::Action::Freeze => Self::Freeze,
            allowlist::Action::Kill => Self::Kill,
        }
    }
}

/// A quarantine that lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Since when.
    pub since: String,
    /// What was done.
    pub action: Action,
    /// Who did it: `kernel`, or the user who asked.
    pub who: String,
    /// Why.
    pub why: String,
    /// When it ends by itself.
    pub until: Option<String>,
}

/// The object of `quarantine list --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quarantines {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Those that last, by path.
    pub active: Vec<Quarantined>,
    /// What happened, the oldest first; null where it was not asked for.
    pub history: Option<Vec<Entry>>,
}

/// A workload in quarantine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Its label.
    pub workload: String,
    /// Path of its cgroup under the mount of cgroup2.
    pub path: PathBuf,
    /// Its policy.
    pub policy: String,
    /// The quarantine.
    #[serde(flatten)]
    pub quarantine: Quarantine,
}

/// Why a request is not taken, in a sentence.
pub fn parse(line: &[u8]) -> Result<Request, String> {
    /// Read first: what else stands in a request of another version is not ours to judge.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let told = |error: serde_json::Error| format!("the request is not understood: {error}");
    let Version { version } = serde_json::from_slice(line).map_err(told)?;
    if version != VERSION {
        return Err(format!("the request is of version {version}; this agent speaks version {VERSION}"));
    }
    let Envelope { request, .. } = serde_json::from_slice(line).map_err(told)?;
    check(&request)?;
    Ok(request)
}

fn check(request: &Request) -> Result<(), String> {
    let (Request::QuarantineAdd { who, why, .. } | Request::Release { who, why, .. }) = request else {
        return Ok(());
    };
    if why.trim().is_empty() {
        return Err("`why` is empty: say why".into());
    }
    let who = who.as_deref().unwrap_or_default();
    for (key, text, longest) in [("why", why.as_str(), LONGEST_WHY), ("who", who, LONGEST_WHO)] {
        if text.chars().count() > longest {
            return Err(format!("`{key}` is longer than {longest} letters"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_writes_is_what_the_agent_reads() {
        let add = Request::QuarantineAdd {
            workload: "/a".into(),
            action: Action::Freeze,
            who: Some("ann".into()),
            why: "odd".into(),
        };
        for request in [Request::Status, Request::QuarantineList { history: true }, add, Request::Watch] {
            let line = serde_json::to_vec(&Envelope { version: VERSION, request: request.clone() }).unwrap();
            assert_eq!(parse(&line), Ok(request));
        }
        let short = br#"{"version":1,"request":{"release":{"workload":"/a","why":"checked"}}}"#;
        assert!(matches!(parse(short), Ok(Request::Release { who: None, .. })));
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for (line, told) in [
            (r#"{"version":1,"request":"stauts"}"#, "unknown variant `stauts`"),
            (r#"{"version":1,"request":"status","more":1}"#, "unknown field `more`"),
            (r#"{"version":1,"version":1,"request":"status"}"#, "duplicate field `version`"),
            (r#"{"version":1,"request":{"release":{"workload":"a","why":"b","y":1}}}"#, "unknown field `y`"),
            (r#"{"version":1,"request":{"release":{"workload":"a"}}}"#, "missing field `why`"),
            (r#"{"version":1,"request":{"release":{"workload":"a","why":" "}}}"#, "`why` is empty"),
            (r#"{"version":2,"request":{"anything":{}}}"#, "this agent speaks version 1"),
            (r#"{"request":"status"}"#, "missing field `version`"),
            (r#"{"version":1,"request":"status"} {}"#, "trailing characters"),
            ("", "EOF"),
            ("\u{0}", "expected value"),
        ] {
            let error = parse(line.as_bytes()).unwrap_err();
            assert!(error.contains(told), "{line}: {error}");
        }
        let long = "x".repeat(LONGEST_WHY + 1);
        let line = format!(r#"{{"version":1,"request":{{"release":{{"workload":"a","why":"{long}"}}}}}}"#);
        assert!(parse(line.as_bytes()).unwrap_err().contains("longer than 1024"));
    }
}
