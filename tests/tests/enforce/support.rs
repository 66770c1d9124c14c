//! A small world with places of every kind, the agent in it, and what it reported.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use egress_warden_tests::{Capture, Direction, Frame, Host, Namespace, World, agent_binary};
use serde_json::Value;
use tempfile::TempDir;

/// A job, and everything that it may or may not reach. All places are addresses of one host, so that one capture sees
/// whatever comes out.
pub(crate) struct Scene {
    world: World,
    pub(crate) capture: Capture,
}

/// What the places of [`Scene`] are, beside the outside host itself. None is in a network of the job or the router.
pub(crate) const PLACES: [&str; 12] = [
    "10.88.0.9",
    "fd88::9",
    "10.88.1.1",
    "fd88:1::1",
    "10.88.1.2",
    "fd88:1::2",
    "10.88.2.1",
    "fd88:2::1",
    "10.88.2.2",
    "fd88:2::2",
    "169.254.169.254",
    "fd00:ec2::254",
];

impl Scene {
    pub(crate) fn new() -> Result<Scene> {
        let world = World::new(&["job", "outside", "other"])?;
        let outside = world.host("outside");
        for place in PLACES {
            let place: IpAddr = place.parse()?;
            let (length, gateway, family) = match place {
                IpAddr::V4(_) => ("32", outside.v4.to_string(), "-4"),
                IpAddr::V6(_) => ("128", outside.v6.to_string(), "-6"),
            };
            let cidr = format!("{place}/{length}");
            outside.run(["ip", "addr", "add", &cidr, "dev", "eth0"])?;
            world.router().run(["ip", family, "route", "add", &cidr, "via", &gateway])?;
        }
        let capture = Capture::start(outside, "eth0")?;
        Ok(Scene { world, capture })
    }

    pub(crate) fn job(&self) -> &Host {
        self.world.host("job")
    }

    pub(crate) fn outside(&self) -> &Host {
        self.world.host("outside")
    }

    /// A third host, for whoever is not in the job's own namespace.
    pub(crate) fn other(&self) -> &Host {
        self.world.host("other")
    }

    /// Waits until every frame has been seen that was sent before.
    pub(crate) fn settle(&self) -> Result<()> {
        self.capture.settle(self.job(), self.outside().at(9))
    }

    /// How many frames with this protocol reached this place. A port says nothing about ICMP.
    pub(crate) fn arrived(&self, protocol: u8, place: SocketAddr) -> usize {
        self.capture.count(|frame| {
            frame.direction == Direction::In
                && frame.protocol == Some(protocol)
                && frame.is_to_host(place.ip())
                && (!matches!(protocol, 6 | 17) || frame.is_to(place))
        })
    }

    /// The payloads of the datagrams that reached this place.
    pub(crate) fn payloads(&self, place: SocketAddr) -> Vec<String> {
        let datagrams = self
            .capture
            .frames(|frame: &Frame| frame.direction == Direction::In && frame.is_udp() && frame.is_to(place));
        datagrams.iter().map(|frame| String::from_utf8_lossy(&frame.payload).into_owned()).collect()
    }

    /// Lets every user of the job open ping sockets.
    pub(crate) fn allow_ping_sockets(&self) -> Result<()> {
        let line = "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range";
        self.job().run(["sh", "-c", line]).map(drop)
    }
}

/// A set of allowlists in a directory of its own: one Destinations `open` with these entries, one policy `test`.
pub(crate) struct Allowlists {
    directory: TempDir,
}

impl Allowlists {
    /// `policy` holds the lines of the policy's `spec` beside `select` and `allow`.
    pub(crate) fn new(entries: &str, policy: &str) -> Result<Allowlists> {
        let directory = tempfile::tempdir()?;
        let indent = |text: &str, by: &str| -> String {
            text.trim().lines().map(|line| format!("{by}{}\n", line.trim_end())).collect()
        };
        let text = format!(
            "apiVersion: egress-warden.dev/v1\nkind: Destinations\nmetadata: {{name: open}}\nspec:\n  to:\n{}---\n\
             apiVersion: egress-warden.dev/v1\nkind: EgressPolicy\nmetadata: {{name: test}}\nspec:\n  \
             select: {{all: true}}\n  allow: [open]\n{}",
            indent(entries, "    "),
            indent(policy, "  "),
        );
        fs::write(directory.path().join("test.yaml"), text)?;
        Ok(Allowlists { directory })
    }

    /// The same in enforce mode and with nothing else.
    pub(crate) fn enforce(entries: &str) -> Result<Allowlists> {
        Self::new(entries, "mode: enforce")
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where a rule stands, as records name it: the entry with this `why`.
    pub(crate) fn place_of(&self, first_line: &str) -> Result<String> {
        let path = self.path().join("test.yaml");
        let text = fs::read_to_string(&path)?;
        let found = text.lines().enumerate().find_map(|(index, line)| Some((index, line.find(first_line)?)));
        let (line, column) = found.with_context(|| format!("no entry has `{first_line}`"))?;
        Ok(format!("{}:{}:{}", path.display(), line + 1, column + 1))
    }

    /// Adds a file beside the allowlists, which entries name in `cidrsFrom`.
    pub(crate) fn add_file(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.path().join(name), text)?)
    }

    fn events(&self) -> PathBuf {
        self.path().join("events.jsonl")
    }

    /// Starts `egress-warden exec` of a command in a namespace. Its standard streams are pipes.
    pub(crate) fn start(&self, namespace: &Namespace, command: &[&str]) -> Result<Started> {
        let mut exec = namespace.command(agent_binary()?);
        exec.arg("exec").arg("--allowlists").arg(self.path()).args(["--policy", "test", "--events"]);
        exec.arg(self.events()).arg("--").args(command);
        exec.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Started(exec.spawn()?))
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, namespace: &Namespace, command: &[&str]) -> Result<Report> {
        self.finish(self.start(namespace, command)?)
    }

    /// Runs a Python program to its end, with [`PRELUDE`] before it.
    pub(crate) fn python(&self, namespace: &Namespace, program: &str) -> Result<Report> {
        let report = self.run(namespace, &["python3", "-c", &format!("{PRELUDE}\n{program}")])?;
        ensure!(report.status.success(), "the program failed: {}", report.summary);
        Ok(report)
    }

    /// Waits for the end of a started `exec`, and reads what it reported.
    pub(crate) fn finish(&self, mut exec: Started) -> Result<Report> {
        drop(exec.stdin.take());
        let stdout = reader(exec.stdout.take());
        let stderr = reader(exec.stderr.take());
        let status = exec.wait()?;
        let joined = |thread: thread::JoinHandle<String>| thread.join().map_err(|_| anyhow!("no output"));
        let (output, summary) = (joined(stdout)?, joined(stderr)?);
        let events = fs::read_to_string(self.events()).unwrap_or_default();
        let events = events.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Report { status, output, summary, events })
    }
}

/// A running `exec`. When a test fails it is killed, stopped or not, and its janitor removes the cgroup.
pub(crate) struct Started(Child);

impl Deref for Started {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Started {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Both fail where it was waited for already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        // What was read before a failure is still worth showing.
        pipe.map(|mut pipe| pipe.read_to_string(&mut text));
        text
    })
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    /// Standard error: the summary at its end.
    pub(crate) summary: String,
    pub(crate) events: Vec<Value>,
}

impl Report {
    /// The number of attempts that the summary says were, or would have been, refused: all, and by reason.
    pub(crate) fn refused(&self) -> (u64, BTreeMap<String, u64>) {
        let line = self.summary.lines().find_map(|line| {
            line.strip_prefix("  refused ").or_else(|| line.strip_prefix("  would refuse "))
        });
        let line = line.unwrap_or_else(|| panic!("a summary without that line: {}", self.summary)).trim();
        if line == "nothing" {
            return (0, BTreeMap::new());
        }
        let total: u64 = line.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
        let by_reason = match line.split_once(": ") {
            Some((_, parts)) => {
                parts.split(", ").map(|part| part.split_once(' ').expect("N reason")).collect()
            }
            None => vec![("", line.rsplit_once(", ").expect("attempts, reason").1)],
        };
        let number = |count: &str| if count.is_empty() { total } else { count.parse().expect("a number") };
        (total, by_reason.iter().map(|(count, reason)| ((*reason).to_owned(), number(count))).collect())
    }

    /// The number at the beginning of the note that contains these words; 0 without such a note.
    pub(crate) fn note(&self, words: &str) -> u64 {
        let notes = self.summary.lines().filter_map(|line| line.strip_prefix("  note         "));
        let found = notes.filter(|note| note.contains(words)).find_map(|note| note.split(' ').next());
        found.map_or(0, |number| number.parse().expect("a note begins with a number"))
    }

    /// How many records there are of each kind: reason, protocol, destination, port, rule.
    pub(crate) fn kinds(&self) -> BTreeMap<String, u64> {
        let mut kinds = BTreeMap::new();
        for event in &self.events {
            let text = |key: &str| event[key].as_str().unwrap_or("null").to_owned();
            let kind = [text("reason"), text("protocol"), text("dst"), event["port"].to_string()].join(" ");
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }

    /// The lines that [`PRELUDE`]'s `attempt` printed.
    pub(crate) fn attempts(&self) -> Vec<Attempted> {
        self.output.lines().filter_map(Attempted::parse).collect()
    }
}

/// One line of output: `attempt KIND ADDRESS PORT ERRNO MICROSECONDS`.
#[derive(Debug)]
pub(crate) struct Attempted {
    /// `KIND ADDRESS PORT`.
    pub(crate) what: String,
    pub(crate) errno: i32,
    pub(crate) elapsed: Duration,
}

impl Attempted {
    fn parse(line: &str) -> Option<Attempted> {
        let fields: Vec<&str> = line.strip_prefix("attempt ")?.split(' ').collect();
        let [kind, address, port, errno, microseconds] = fields[..] else { return None };
        Some(Attempted {
            what: [kind, address, port].join(" "),
            errno: errno.parse().ok()?,
            elapsed: Duration::from_micros(microseconds.parse().ok()?),
        })
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.errno == libc::EPERM
    }
}

/// Attempts of every kind, for programs that run under a policy.
pub(crate) const PRELUDE: &str = r#"
import os, socket, struct, sys, time
from socket import AF_INET, AF_INET6, SOCK_STREAM, SOCK_DGRAM

def family(address):
    return AF_INET6 if ":" in address else AF_INET

def tcp(address, port):
    with socket.socket(family(address), SOCK_STREAM) as s:
        s.settimeout(5)
        s.connect((address, port))

def connect_only(address, port):
    with socket.socket(family(address), SOCK_DGRAM) as s:
        s.connect((address, port))

def udp(address, port, payload=b"x"):
    with socket.socket(family(address), SOCK_DGRAM) as s:
        s.sendto(payload, (address, port))

def udp_connected(address, port, payload=b"x"):
    with socket.socket(family(address), SOCK_DGRAM) as s:
        s.connect((address, port))
        s.send(payload)

def ping(address, _):
    six = ":" in address
    with socket.socket(family(address), SOCK_DGRAM, 58 if six else 1) as s:
        s.sendto(struct.pack("!BBHHH", 128 if six else 8, 0, 0, 0, 1) + b"ping", (address, 0))

def errno_of(body, *arguments):
    try:
        body(*arguments)
    except socket.timeout:
        return 110
    except OSError as error:
        return error.errno
    return 0

def attempt(kind, address, port):
    start = time.monotonic()
    errno = errno_of(globals()[kind], address, port)
    print("attempt", kind, address, port, errno, int((time.monotonic() - start) * 1e6), flush=True)
"#;
