//! The file of `--config`, read as strictly as an allowlist and with the same messages: every error at once, each with its
//! place, every key once, unknown ones refused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{LoadBalancer, Log, LogFormat, LogLevel};
use crate::allowlist::Diagnostic;
use crate::allowlist::diagnostic::Report;
use crate::allowlist::fields::{Fields, filled_list};
use crate::allowlist::scalar::{duration, found, one_of, raw_text, text};
use crate::allowlist::source::{Sources, Span};
use crate::allowlist::tree::{self, Node, Value};

const KEYS: [&str; 11] = [
    "allowlists",
    "metrics",
    "state_dir",
    "control_socket",
    "cgroup_root",
    "sources",
    "guard",
    "audit_log",
    "load_balancer",
    "selftest",
    "log",
];

/// Keys whose meaning is settled and which this version cannot do. To ignore one would be to run unguarded.
const LATER: [&str; 1] = ["guard"];

/// Instead of a length of time.
const NEVER: &str = "off";

/// Where workloads are heard of.
const SOURCES: [&str; 4] = ["cgroups", "cri", "nri", "kube"];
const SOURCE_HERE: &str = "cgroups";

/// What the file says; `None` where it says nothing.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) allowlists: Vec<PathBuf>,
    pub(super) metrics_listen: Option<SocketAddr>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) control_socket: Option<PathBuf>,
    pub(super) cgroup_root: Option<PathBuf>,
    pub(super) audit_log: Option<PathBuf>,
    pub(super) load_balancer: LoadBalancer,
    /// `Some(None)` where it says never.
    pub(super) selftest_every: Option<Option<Duration>>,
    pub(super) log: Log,
}

/// Reads the file, or tells everything that is wrong with it.
pub(super) fn read(path: &Path) -> Result<File, Vec<Diagnostic>> {
    let (mut sources, mut report) = (Sources::default(), Report::default());
    let file = sources.read(path, None, &mut report).map(|file| {
        let documents = tree::parse(file, sources.text(file), &mut report);
        let base = path.parent().unwrap_or(Path::new(""));
        root(file, &documents.roots, &mut Reader { base, report: &mut report })
    });
    match file {
        Some(file) if report.errors() == 0 => Ok(file),
        _ => Err(report.into_diagnostics(&sources)),
    }
}

fn root(file: u32, roots: &[Node], reader: &mut Reader<'_>) -> File {
    match roots {
        // Comments alone are a configuration in which everything is left at its default.
        [] => File::default(),
        [root] if is_nothing(root) => File::default(),
        [root] => reader.file(root).unwrap_or_default(),
        [_, second, ..] => {
            let at = Span { file, ..second.at };
            reader
                .report
                .error(at, "a second document")
                .help("the configuration is one document: remove `---`");
            File::default()
        }
    }
}

fn is_nothing(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar { text, plain: true } if text.is_empty())
}

struct Reader<'r> {
    /// The directory of the file: what relative paths are relative to.
    base: &'r Path,
    report: &'r mut Report,
}

impl Reader<'_> {
    fn file(&mut self, root: &Node) -> Option<File> {
        let fields = Fields::read(root, "the configuration", &KEYS, self.report)?;
        for pair in LATER.iter().filter_map(|key| fields.pair(key)) {
            self.report
                .error(pair.key_at, format!("`{}` is not in this version", pair.key))
                .help("remove it: the agent would not do what it says");
        }
        if let Some(node) = fields.get("sources") {
            self.sources(node);
        }
        Some(File {
            allowlists: fields
                .get("allowlists")
                .map(|node| self.paths(node, "allowlists"))
                .unwrap_or_default(),
            metrics_listen: fields.get("metrics").and_then(|node| self.metrics(node)),
            state_dir: self.optional_path(&fields, "state_dir"),
            control_socket: self.optional_path(&fields, "control_socket"),
            cgroup_root: self.optional_path(&fields, "cgroup_root"),
            audit_log: self.optional_path(&fields, "audit_log"),
            load_balancer: fields
                .get("load_balancer")
                .map(|node| self.load_balancer(node))
                .unwrap_or_default(),
            selftest_every: fields.get("selftest").and_then(|node| self.selftest(node)),
            log: fields.get("log").map(|node| self.log(node)).unwrap_or_default(),
        })
    }

    fn optional_path(&mut self, fields: &Fields<'_>, key: &str) -> Option<PathBuf> {
        let node = fields.get(key)?;
        path(node, key, self.base, self.report)
    }

    fn paths(&mut self, node: &Node, key: &str) -> Vec<PathBuf> {
        let base = self.base;
        let paths = filled_list(node, key, self.report, |item, report| path(item, key, base, report));
        paths.unwrap_or_default().into_iter().map(|path| path.value).collect()
    }

    fn load_balancer(&mut self, node: &Node) -> LoadBalancer {
        const WORDS: [(&str, LoadBalancer); 2] =
            [("ignore", LoadBalancer::Ignore), ("follow", LoadBalancer::Follow)];
        one_of(node, "load_balancer", &WORDS, self.report).unwrap_or_default()
    }

    fn metrics(&mut self, node: &Node) -> Option<SocketAddr> {
        let listen = Fields::read(node, "`metrics`", &["listen"], self.report)?.get("listen")?;
        let expected = "an address and a port, such as 127.0.0.1:9464 or \"[::1]:9464\"";
        let written = raw_text(listen, "metrics.listen", expected, self.report)?;
        let parsed = written.parse();
        if parsed.is_err() {
            let finding = self
                .report
                .error(listen.at, format!("`metrics.listen`: expected {expected}, found {}", found(listen)));
            match written.trim_start_matches(':').parse::<u16>() {
                Ok(port) => {
                    finding.help(format!("127.0.0.1:{port} for this machine only, 0.0.0.0:{port} for all"));
                }
                Err(_) => finding.help("host names are not resolved; 0.0.0.0 listens on every IPv4 address"),
            }
        }
        parsed.ok()
    }

    fn selftest(&mut self, node: &Node) -> Option<Option<Duration>> {
        let every = Fields::read(node, "`selftest`", &["every"], self.report)?.get("every")?;
        if matches!(&every.value, Value::Scalar { text, .. } if text == NEVER) {
            return Some(None);
        }
        let nanoseconds = duration(every, "selftest.every", ("1m", "168h"), self.report)?;
        Some(Some(Duration::from_nanos(nanoseconds)))
    }

    fn sources(&mut self, node: &Node) {
        let words = SOURCES.map(|name| (name, name));
        filled_list(node, "sources", self.report, |item, report| {
            let name = one_of(item, "sources", &words, report)?;
            if name != SOURCE_HERE {
                report
                    .error(item.at, format!("`sources`: {name} is not in this version"))
                    .help(format!("write sources: [{SOURCE_HERE}], or leave the key out"));
            }
            Some(name)
        });
    }

    fn log(&mut self, node: &Node) -> Log {
        const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        const LEVELS: [(&str, LogLevel); 4] = [
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
        ];
        let mut log = Log::default();
        let Some(fields) = Fields::read(node, "`log`", &["format", "level"], self.report) else { return log };
        if let Some(node) = fields.get("format") {
            log.format = one_of(node, "log.format", &FORMATS, self.report).unwrap_or_default();
        }
        if let Some(node) = fields.get("level") {
            log.level = one_of(node, "log.level", &LEVELS, self.report).unwrap_or_default();
        }
        log
    }
}

fn path(node: &Node, key: &str, base: &Path, report: &mut Report) -> Option<PathBuf> {
    let written = text(node, key, report)?.value;
    if written.is_empty() {
        report
            .error(node.at, format!("`{key}`: the path is empty"))
            .help("write a path, or leave the key out");
        return None;
    }
    Some(base.join(written))
}
