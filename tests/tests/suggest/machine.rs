//! A machine with settings of its own: nothing of what this one is told about indexes, proxies and certificates.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use egress_warden::allowlist;
use egress_warden_tests::agent_binary;
use tempfile::TempDir;

/// Serves one project over TLS and says its port.
const HTTPS: &str = "
import http.server, ssl, sys
class Index(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Type', 'text/html')
        self.end_headers()
        self.wfile.write(b\"<a href='/a.whl'>a</a>\")
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(('127.0.0.1', 0), Index)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('cert.pem', 'key.pem')
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
";

/// Where `suggest index` runs.
pub(crate) struct Machine {
    home: TempDir,
    environment: BTreeMap<String, String>,
}

impl Machine {
    pub(crate) fn new() -> Result<Machine> {
        let mut machine = Machine { home: tempfile::tempdir()?, environment: BTreeMap::new() };
        machine.set("HOME", &machine.home.path().display().to_string());
        // Where there is no program at all.
        machine.set("PATH", "/nowhere");
        // Not even the files of the machine.
        machine.set("PIP_CONFIG_FILE", "/dev/null");
        Ok(machine)
    }

    /// The same with this machine's programs, pip among them.
    pub(crate) fn with_pip() -> Result<Machine> {
        let mut machine = Self::new()?;
        machine.set("PATH", &std::env::var("PATH")?);
        Ok(machine)
    }

    /// A path in its home directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn unset(&mut self, name: &str) {
        self.environment.remove(name);
    }

    pub(crate) fn suggest(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(agent_binary()?);
        command.args(["suggest", "index"]).args(arguments).env_clear().envs(&self.environment);
        command.output().context("cannot start the agent")
    }

    /// An index over TLS on `localhost`, with `cert.pem` as its own authority, and its port.
    pub(crate) fn https_index(&self) -> Result<(Server, u16)> {
        let line = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
                    -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
                    -keyout key.pem -out cert.pem";
        let made =
            Command::new("openssl").args(line.split_whitespace()).current_dir(self.home.path()).output()?;
        ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let mut python = Command::new("python3");
        python.args(["-c", HTTPS]).current_dir(self.home.path()).stdout(Stdio::piped());
        let mut server = Server(python.spawn()?);
        let mut port = String::new();
        BufReader::new(server.0.stdout.take().context("no pipe")?).read_line(&mut port)?;
        Ok((server, port.trim().parse()?))
    }
}

/// A process that ends with the test.
pub(crate) struct Server(pub(crate) Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Each entry of a draft: host and ports.
pub(crate) fn hosts(draft: &str) -> Result<Vec<String>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("draft.yaml");
    fs::write(&path, draft)?;
    let set = allowlist::load(&[path]).map_err(|found| anyhow::anyhow!("{found:?}"))?;
    let line = |host: String, ports: &[egress_warden::policy::PortRange]| {
        ports.iter().fold(host, |line, range| format!("{line} {}", range.first))
    };
    let mut entries = Vec::new();
    for document in set.destinations() {
        for rule in &document.rules {
            let cidrs: Vec<String> = rule.cidrs.iter().map(ToString::to_string).collect();
            entries.push((rule.origin.line, line(cidrs.join(","), &rule.ports)));
        }
        for rule in &document.names {
            entries.push((rule.origin.line, line(rule.names.join(","), &rule.ports)));
        }
    }
    entries.sort();
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}
