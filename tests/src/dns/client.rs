//! Real programs that resolve a name and connect to it, and how that went.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Family;
use super::builds::Build;
use crate::probe::binary;

const PYTHON: &str = include_str!("../../clients/lookup.py");

/// A program, or the library in it, that resolves names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A C program with glibc.
    Glibc,
    /// The same with musl.
    Musl,
    /// A Go program with Go's own resolver.
    Go,
    /// Python's `socket`, which is glibc's resolver and Python's way to connect.
    Python,
    /// `curl`, which resolves in a thread and connects to several addresses at once.
    Curl,
    /// As Java does it, imitated: A and AAAA from one socket at once and with one id.
    Java,
    /// `getent ahosts`; connects nowhere.
    Getent,
    /// `dig`; connects nowhere.
    Dig,
}

impl Client {
    /// Those that connect to what they found.
    pub const CONNECTING: [Client; 6] =
        [Client::Glibc, Client::Musl, Client::Go, Client::Python, Client::Curl, Client::Java];
    /// Every one.
    pub const ALL: [Client; 8] = [
        Client::Glibc,
        Client::Musl,
        Client::Go,
        Client::Python,
        Client::Curl,
        Client::Java,
        Client::Getent,
        Client::Dig,
    ];

    /// Whether it appends the search list, and tries the name itself after that.
    #[must_use]
    pub fn searches(self) -> bool {
        !matches!(self, Client::Java | Client::Dig)
    }

    /// Its command line. Only those that read no `resolv.conf` look at `resolver`.
    ///
    /// # Errors
    /// When it cannot be compiled.
    pub fn command_line(self, resolver: IpAddr, target: &Target) -> Result<Vec<OsString>> {
        let Target { name, port, family } = target;
        let (name, port) = (name.clone(), port.to_string());
        let lookup = |program: Vec<OsString>| {
            let arguments = [name.clone(), port.clone(), family_word(*family).to_owned()];
            program.into_iter().chain(arguments.map(OsString::from)).collect()
        };
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        Ok(match self {
            Client::Glibc => lookup(vec![Build::Glibc.program()?.into()]),
            Client::Musl => lookup(vec![Build::Musl.program()?.into()]),
            Client::Go => lookup(vec![Build::Go.program()?.into()]),
            Client::Python => lookup(words(&["python3", "-c", PYTHON])),
            Client::Java => lookup(vec![
                binary("egress-warden-names")?.into(),
                "java".into(),
                SocketAddr::new(resolver, 53).to_string().into(),
            ]),
            Client::Curl => {
                let version = family.map_or("-g", |family| if family == Family::V4 { "-4" } else { "-6" });
                let url = format!("http://{name}:{port}/");
                words(&["curl", "-q", "-s", "-o", "/dev/null", "-m", "20", "-w", "%{json}", version, &url])
            }
            Client::Getent => {
                let database = family
                    .map_or("ahosts", |family| if family == Family::V4 { "ahostsv4" } else { "ahostsv6" });
                words(&["getent", database, &name])
            }
            Client::Dig => {
                let kind = if *family == Some(Family::V6) { "AAAA" } else { "A" };
                let server = format!("@{resolver}");
                words(&["dig", "+tries=1", "+time=3", "+noall", "+answer", "+comments", &server, &name, kind])
            }
        })
    }

    /// What its output tells. `took` is how long it ran: some do not tell the time themselves.
    ///
    /// # Errors
    /// When it printed something else than it does.
    pub fn read(self, output: &Output, took: Duration) -> Result<Lookup> {
        let text = String::from_utf8_lossy(&output.stdout);
        let read = match self {
            Client::Getent => Ok(read_getent(&text, output.status.code(), took)),
            Client::Dig => read_dig(&text, took),
            Client::Curl => read_curl(&text),
            _ => read_json(&text),
        };
        read.with_context(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("{self:?} ended with {} and printed `{}`; {}", output.status, text.trim(), errors.trim())
        })
    }
}

/// What to resolve, and where to connect.
#[derive(Clone, Debug)]
pub struct Target {
    /// The name, as it is asked for.
    pub name: String,
    /// The TCP port.
    pub port: u16,
    /// The kind of address, or both.
    pub family: Option<Family>,
}

impl Target {
    /// This name and port.
    #[must_use]
    pub fn new(name: &str, port: u16, family: Option<Family>) -> Target {
        Target { name: name.to_owned(), port, family }
    }
}

/// How a lookup, and the connect after it, went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// What was found, sorted. curl tells only of the one that it connected to.
    pub addresses: Vec<IpAddr>,
    /// The library's own word for why nothing was found.
    pub error: Option<String>,
    /// How long resolving took.
    pub resolving: Duration,
    /// `ok`, or the error of the last address that was tried; none without addresses, or from who does not connect.
    pub connect: Option<String>,
}

impl Lookup {
    /// Whether it connected.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.connect.as_deref() == Some("ok")
    }
}

fn family_word(family: Option<Family>) -> &'static str {
    match family {
        Some(Family::V4) => "4",
        Some(Family::V6) => "6",
        None => "any",
    }
}

fn read_json(text: &str) -> Result<Lookup> {
    let told: Value = serde_json::from_str(text)?;
    let word = |key: &str| told[key].as_str().map(str::to_owned);
    let mut addresses = Vec::new();
    for address in told["addresses"].as_array().context("no addresses")? {
        addresses.push(address.as_str().context("an address is a string")?.parse()?);
    }
    addresses.sort_unstable();
    let micros = told["resolve_us"].as_u64().context("no time")?;
    let resolving = Duration::from_micros(micros);
    Ok(Lookup { addresses, error: word("error"), resolving, connect: word("connect") })
}

fn read_curl(text: &str) -> Result<Lookup> {
    let told: Value = serde_json::from_str(text)?;
    let code = told["exitcode"].as_u64().context("no exit code")?;
    let error = told["errormsg"].as_str().unwrap_or_default().to_owned();
    let remote = told["remote_ip"].as_str().unwrap_or_default();
    // It tells when the lookup ended only if it ended well.
    let seconds =
        told[if code == 6 { "time_total" } else { "time_namelookup" }].as_f64().context("no time")?;
    let (error, connect) = match code {
        0 => (None, Some("ok".to_owned())),
        6 => (Some(error), None),
        _ => (None, Some(error)),
    };
    let addresses = remote.parse().into_iter().collect();
    Ok(Lookup { addresses, error, resolving: Duration::from_secs_f64(seconds), connect })
}

fn read_getent(text: &str, code: Option<i32>, resolving: Duration) -> Lookup {
    let first = |line: &str| line.split_whitespace().next()?.parse().ok();
    let mut addresses: Vec<IpAddr> = text.lines().filter_map(first).collect();
    // One line for each kind of socket.
    addresses.sort_unstable();
    addresses.dedup();
    let error = (code != Some(0)).then(|| format!("exit code {}", code.unwrap_or(-1)));
    Lookup { addresses, error, resolving, connect: None }
}

fn read_dig(text: &str, resolving: Duration) -> Result<Lookup> {
    let status = text.lines().find_map(|line| line.split_once("status: ")?.1.split(',').next());
    let error = match status {
        Some("NOERROR") => None,
        Some(status) => Some(status.to_owned()),
        None if text.contains("no servers could be reached") || text.contains("communications error") => {
            Some("no answer".to_owned())
        }
        None => bail!("no status"),
    };
    let mut addresses: Vec<IpAddr> = text
        .lines()
        .filter(|line| !line.starts_with(';'))
        .filter_map(|line| line.split_whitespace().last()?.parse().ok())
        .collect();
    addresses.sort_unstable();
    Ok(Lookup { addresses, error, resolving, connect: None })
}

/// A command by its words.
pub(super) fn command(words: &[OsString], start: impl FnOnce(&OsString) -> Command) -> Result<Command> {
    let (program, arguments) = words.split_first().context("an empty command line")?;
    let mut command = start(program);
    command.args(arguments);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(7);

    #[test]
    fn dig_tells_of_a_chain_and_of_an_error() {
        let text = ";; Got answer:\n;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 7\n\n;; ANSWER SECTION:\n\
                    a.test.\t300\tIN\tCNAME\tb.test.\nb.test.\t300\tIN\tA\t11.77.1.3\n";
        let lookup = read_dig(text, TOOK).unwrap();
        assert_eq!((lookup.addresses, lookup.error), (vec!["11.77.1.3".parse().unwrap()], None));
        let refused = read_dig(";; ->>HEADER<<- opcode: QUERY, status: NXDOMAIN, id: 7\n", TOOK).unwrap();
        assert_eq!(refused.error.as_deref(), Some("NXDOMAIN"));
        assert!(read_dig("", TOOK).is_err());
    }

    #[test]
    fn getent_tells_an_address_once() {
        let text = "11.77.1.1   STREAM files.index.test\n11.77.1.1   DGRAM  \n11.77.1.1   RAW    \n";
        assert_eq!(read_getent(text, Some(0), TOOK).addresses, ["11.77.1.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(read_getent("", Some(2), TOOK).error.as_deref(), Some("exit code 2"));
    }

    #[test]
    fn a_lookup_is_read_as_the_clients_write_it() {
        let text =
            r#"{"resolve_us":900,"error":null,"addresses":["2a77::1:1"],"connect":"EPERM","connect_us":7}"#;
        let lookup = read_json(text).unwrap();
        assert_eq!(lookup.connect.as_deref(), Some("EPERM"));
        assert!(!lookup.connected() && lookup.resolving == Duration::from_micros(900));
    }
}
