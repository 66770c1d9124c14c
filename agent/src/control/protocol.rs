//! What goes over the socket: one request line, then one answer line or, for `watch`, many. Each line is JSON.
//!
//! The agent takes a request strictly: a key that it does not know could be one that matters. A client takes an answer
//! leniently, so that an agent may tell more than it did.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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

/// What the agent does: the object of `status --json`. Times are RFC 3339 in UTC, hashes 16 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Is every selected workload enforced by a policy that the agent has read?
    pub ready: bool,
    /// Why not.
    pub not_ready: Option<String>,
    /// Where the rules come from.
    pub allowlists: Allowlists,
    /// The policies in force, by name.
    pub policies: Vec<Policy>,
    /// Selected workloads, by path.
    pub workloads: Vec<Workload>,
    /// Other people's programs on the enforced cgroups and above them.
    pub others: Vec<OtherProgram>,
    /// Records of violations that were not written, or not read in time.
    pub records_lost: u64,
    /// The last self-test; `None` where none has ended yet, or the agent is of a version that has none.
    #[serde(default)]
    pub selftest: Option<Selftest>,
}

/// The last self-test of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selftest {
    /// Was no way open?
    pub passed: bool,
    /// When it ended.
    pub at: String,
    /// What it found, or why it could not run, in a sentence.
    pub result: String,
}

/// A program that is not the agent's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherProgram {
    /// Directory of the cgroup that it is attached to.
    pub path: PathBuf,
    /// The hook.
    pub hook: String,
    /// Its id.
    pub id: u32,
    /// Its name; empty where it has none.
    pub name: String,
    /// Was it attached without the multi flag, so that nothing further can be attached below?
    pub exclusive: bool,
    /// May it rewrite addresses, and do programs of the agent see what becomes of them?
    #[serde(default)]
    pub followed: bool,
}

/// Where the rules come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowlists {
    /// `files`, `last-good`, `pinned` or `none`.
    pub source: String,
    /// When loading was last tried.
    pub loaded: String,
    /// What was wrong with the files then, with the places; one finding a line.
    pub error: Option<String>,
}

/// A policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name; of a merged one, the names joined by `+`.
    pub name: String,
    /// `enforce` or `audit`.
    pub mode: String,
    /// Hash of its ruleset.
    pub ruleset: String,
    /// Workloads under it.
    pub workloads: usize,
}

/// A selected workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Its label: the pod's UID, or the path of its cgroup.
    pub workload: String,
    /// Path of its cgroup under the mount of cgroup2.
    pub path: PathBuf,
    /// Id of its cgroup.
    pub cgroup: u64,
    /// The pod, where it is one.
    pub pod: Option<Pod>,
    /// Its policy.
    pub policy: String,
    /// `enforce` or `audit`.
    pub mode: String,
    /// Hash of its ruleset.
    pub ruleset: String,
    /// `backstop`, `cgroup` or `unenforced`.
    pub tier: String,
    /// `own`, `host` or `unknown`: its network namespace.
    pub network: String,
    /// The interfaces by which it reaches the world.
    pub interfaces: Vec<Interface>,
    /// What its processes may do, where it is in the host's network namespace; `None` where nobody has looked yet, or the
    /// agent is of a version that does not.
    #[serde(default)]
    pub capabilities: Option<Capabilities>,
    /// Its RDMA devices; `None` as above.
    #[serde(default)]
    pub rdma: Option<Rdma>,
    /// Since when it is enforced.
    pub enforced_since: Option<String>,
    /// Why it is not.
    pub failure: Option<String>,
    /// Violations in all.
    pub violations: u64,
    /// The same by reason and protocol, without zeros.
    pub violations_by_reason: BTreeMap<String, BTreeMap<String, u64>>,
    /// Its quarantine.
    pub quarantine: Option<Quarantine>,
}

/// An interface of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name in the workload's network namespace.
    pub name: String,
    /// `backstop` or `cgroup`.
    pub tier: String,
    /// Why it has no backstop.
    pub why: Option<String>,
}

/// What the processes of a workload may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Capabilities that lead past the programs of its cgroup.
    pub held: Vec<Held>,
    /// Those that none has, and that a program which is started may be given.
    pub obtainable: Vec<String>,
    /// Threads that were looked at.
    pub examined: usize,
    /// Those of which nothing could be read, or which were too many.
    pub unexamined: usize,
}

/// A capability that leads past the programs of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its name, without `CAP_`.
    pub capability: String,
    /// How it does that.
    pub why: String,
    /// How many processes have it.
    pub processes: usize,
    /// One of them.
    pub pid: u32,
}

/// The RDMA devices of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rdma {
    /// Is any of the files there?
    pub in_reach: bool,
    /// `shared`, `exclusive` or `absent`: which network namespaces may use a device.
    pub sharing: String,
    /// Devices that its network namespace may use.
    pub devices: Vec<String>,
    /// Device files in its `/dev`.
    pub files: Vec<String>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
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
