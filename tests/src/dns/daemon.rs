//! The resolvers: unbound, which answers from the zone as a recursive resolver does, and dnsmasq, which forwards to it
//! and answers some names by itself.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hickory_proto::rr::RecordType;

use super::{EDNS_LIMIT, message, zone};
use crate::wait::{DEADLINE, until};
use crate::{Namespace, TestCgroup};

/// A resolver that runs in the foreground, as a child of this process.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts unbound. `directory` is for its files.
    pub(super) fn unbound(
        namespace: &Namespace,
        cgroup: &TestCgroup,
        directory: &Path,
        at: &[IpAddr],
    ) -> Result<Daemon> {
        let (zone, configuration) = (directory.join("zone"), directory.join("unbound.conf"));
        fs::write(&zone, zone::text())?;
        fs::write(&configuration, unbound_configuration(&zone, at))?;
        let mut command = namespace.command("unbound");
        command.arg("-d").arg("-c").arg(configuration);
        Self::start(namespace, cgroup, command, &directory.join("unbound.log"), at)
    }

    /// Starts dnsmasq, which asks `upstream` for what it does not know.
    pub(super) fn dnsmasq(
        namespace: &Namespace,
        cgroup: &TestCgroup,
        directory: &Path,
        at: &[IpAddr],
        upstream: IpAddr,
    ) -> Result<Daemon> {
        let mut command = namespace.command("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
        command.args(["--user=root", "--group=root", "--pid-file=", "--bind-interfaces", "--log-facility=-"]);
        command.args(at.iter().map(|address| format!("--listen-address={address}")));
        command.arg(format!("--server={upstream}")).arg(format!("--edns-packet-max={EDNS_LIMIT}"));
        // The load test asks from every processor as fast as it can.
        command.args(["--dns-forward-max=10000", "--cache-size=1000"]);
        command.arg("--synth-domain=load4.test,11.128.0.0,11.131.255.255,r*");
        command.arg("--synth-domain=load6.test,2a77:8::/64,r*");
        Self::start(namespace, cgroup, command, &directory.join("dnsmasq.log"), at)
    }

    fn start(
        namespace: &Namespace,
        cgroup: &TestCgroup,
        mut command: Command,
        log: &Path,
        at: &[IpAddr],
    ) -> Result<Daemon> {
        let output = File::create(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut daemon = Daemon { child: cgroup.spawn(command)? };
        for address in at {
            daemon
                .wait_answers(namespace, SocketAddr::new(*address, 53))
                .with_context(|| fs::read_to_string(log).unwrap_or_default())?;
        }
        Ok(daemon)
    }

    fn wait_answers(&mut self, namespace: &Namespace, server: SocketAddr) -> Result<()> {
        until(&format!("an answer of {server}"), DEADLINE, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(Err(anyhow!("it ended with {status}")));
            }
            let asked = message::ask(namespace, server, "files.index.test.", RecordType::A, RETRY);
            asked.ok().filter(|answer| !answer.answers.is_empty()).map(|_| Ok(()))
        })?
    }
}

/// A question to a resolver that does not listen yet is lost.
const RETRY: Duration = Duration::from_millis(50);

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail where it ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// All it knows is the zone: it has nobody to ask. `test` is a name that it would refuse by itself.
fn unbound_configuration(zone: &Path, at: &[IpAddr]) -> String {
    let interfaces: String = at.iter().map(|address| format!("  interface: {address}\n")).collect();
    let zone = zone.display();
    format!(
        "server:\n  username: \"\"\n  chroot: \"\"\n  directory: \"\"\n  pidfile: \"\"\n  logfile: \"\"\n  \
         use-syslog: no\n  do-daemonize: no\n  num-threads: 1\n  module-config: \"iterator\"\n{interfaces}  \
         access-control: 0.0.0.0/0 allow\n  access-control: ::/0 allow\n  edns-buffer-size: {EDNS_LIMIT}\n  \
         max-udp-size: {EDNS_LIMIT}\n  local-zone: \".\" static\n  local-zone: \"test.\" transparent\n\
         auth-zone:\n  name: \"test.\"\n  zonefile: \"{zone}\"\n  for-upstream: yes\n  for-downstream: no\n  \
         fallback-enabled: no\nremote-control:\n  control-enable: no\n"
    )
}
