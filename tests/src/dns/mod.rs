//! The laboratory for names: a workload, real resolvers behind its uplink, what the names lead to, and clients.
//!
//! [`Lab`] is a world with four hosts. `job` is where the workload runs; behind the router, where a backstop can sit,
//! are `resolver` with unbound and dnsmasq, `served` with every address that a name leads to, and `neighbour`, who is
//! up to no good. All names are below `test` and lie in a zone of the laboratory's own: nothing is ever asked outside.
//!
//! [`Client`] is a real program that resolves and connects; [`Insider`] does the same step by step as a test says;
//! [`Scripted`] is a resolver that lies.

mod builds;
mod client;
mod daemon;
pub mod forged;
mod insider;
pub mod java;
pub mod message;
pub mod odd;
pub mod packages;
mod scripted;
mod surroundings;
mod web;
pub mod zone;

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use tempfile::TempDir;

pub use client::{Client, Lookup, Target};
pub use hickory_proto;
pub use insider::{Insider, serve};
pub use scripted::{Question, Reply, Scripted, send_as};
pub use surroundings::{SEARCH, Surroundings};
pub use web::{PORTS, Web};

use crate::wait::{DEADLINE, until};
use crate::{Capture, Frame, Host, Namespace, TestCgroup, World};
use daemon::Daemon;

/// How large an answer the resolvers send over UDP.
pub const EDNS_LIMIT: u16 = 4096;

const HOSTS: [&str; 4] = ["job", "resolver", "served", "neighbour"];

/// What leads to `served`: the ranges that names in the zone point to, good and bad.
const SERVED_V4: [&str; 3] = ["11.0.0.0/8", "10.99.0.0/16", "169.254.169.254/32"];
const SERVED_V6: [&str; 4] = ["2a77::/16", "fd99::/16", "fd00:ec2::254/128", "64:ff9b::/96"];

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];
}

/// Which resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolver {
    /// unbound.
    Unbound,
    /// dnsmasq, which forwards to unbound.
    Dnsmasq,
    /// Where nobody listens until a test starts a [`Scripted`] one.
    Scripted,
}

impl Resolver {
    /// The real ones.
    pub const REAL: [Resolver; 2] = [Resolver::Unbound, Resolver::Dnsmasq];

    /// Its address.
    #[must_use]
    pub fn address(self, family: Family) -> IpAddr {
        let last: u8 = match self {
            Resolver::Unbound => 2,
            Resolver::Dnsmasq => 3,
            Resolver::Scripted => 4,
        };
        match family {
            Family::V4 => Ipv4Addr::new(10, 77, 2, last).into(),
            Family::V6 => Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, last.into()).into(),
        }
    }

    /// Where it is asked.
    #[must_use]
    pub fn place(self, family: Family) -> SocketAddr {
        SocketAddr::new(self.address(family), 53)
    }
}

/// The laboratory. What runs in it ends with it.
#[derive(Debug)]
pub struct Lab {
    // In this order: the daemons before the cgroup that holds them, and both before their files.
    _daemons: [Daemon; 2],
    _cgroup: TestCgroup,
    _directory: TempDir,
    web: Web,
    world: World,
}

impl Lab {
    /// Builds it. When this returns, every server answers.
    ///
    /// # Errors
    /// Without root, or without one of the programs.
    pub fn new() -> Result<Lab> {
        let world = World::new(&HOSTS)?;
        lead_to_served(&world)?;
        for name in HOSTS {
            let host = world.host(name);
            let gateway_v4 = Ipv4Addr::from(host.v4.to_bits() - 1);
            wait_carried(host, gateway_v4, Ipv6Addr::from(host.v6.to_bits() - 1))?;
        }
        let (resolver, directory) = (world.host("resolver"), tempfile::tempdir()?);
        for own in [Resolver::Dnsmasq, Resolver::Scripted] {
            add_address(resolver, "eth0", own.address(Family::V4), 24)?;
            add_address(resolver, "eth0", own.address(Family::V6), 64)?;
        }
        let web = Web::start(world.host("served"))?;
        let cgroup = TestCgroup::named("egress-warden-resolvers")?;
        let both = |which: Resolver| Family::ALL.map(|family| which.address(family));
        let unbound = Daemon::unbound(resolver, &cgroup, directory.path(), &both(Resolver::Unbound))?;
        let upstream = Resolver::Unbound.address(Family::V4);
        let dnsmasq =
            Daemon::dnsmasq(resolver, &cgroup, directory.path(), &both(Resolver::Dnsmasq), upstream)?;
        Ok(Lab { _daemons: [unbound, dnsmasq], _cgroup: cgroup, _directory: directory, web, world })
    }

    /// The four hosts and their router.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Where the workload runs.
    #[must_use]
    pub fn job(&self) -> &Host {
        self.world.host("job")
    }

    /// What the names lead to.
    #[must_use]
    pub fn web(&self) -> &Web {
        &self.web
    }

    /// A network namespace behind the workload's own, as a workload with user namespaces of its own can make one: 10.78.0.2
    /// and fd78::2 on its `eth0`, whose other end `nest` is in the workload's namespace.
    ///
    /// # Errors
    /// When there is one already.
    pub fn nest(&self) -> Result<Namespace> {
        let (job, inner) = (self.job(), Namespace::new()?);
        ip(job, &format!("link add name nest type veth peer name eth0 netns {}", inner.path()))?;
        for (namespace, interface, last) in [(&**job, "nest", 1), (&inner, "eth0", 2)] {
            ip(namespace, &format!("addr add 10.78.0.{last}/24 dev {interface}"))?;
            ip(namespace, &format!("addr add fd78::{last}/64 dev {interface} nodad"))?;
            ip(namespace, &format!("link set dev {interface} up"))?;
        }
        ip(&inner, "route add default via 10.78.0.1")?;
        ip(&inner, "-6 route add default via fd78::1")?;
        wait_carried(&inner, Ipv4Addr::new(10, 78, 0, 1), Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 1))?;
        Ok(inner)
    }

    /// Gives the addresses of the scripted resolver to a namespace's own loopback, so that questions to it stay there.
    ///
    /// # Errors
    /// When they are there already.
    pub fn impersonate_resolver(&self, within: &Namespace) -> Result<()> {
        add_address(within, "lo", Resolver::Scripted.address(Family::V4), 32)?;
        add_address(within, "lo", Resolver::Scripted.address(Family::V6), 128)
    }

    /// Takes them away again.
    ///
    /// # Errors
    /// When they are not there.
    pub fn unmask_resolver(&self, within: &Namespace) -> Result<()> {
        ip(within, &format!("addr del {}/32 dev lo", Resolver::Scripted.address(Family::V4)))?;
        ip(within, &format!("addr del {}/128 dev lo", Resolver::Scripted.address(Family::V6)))
    }

    /// Starts a scripted resolver at the address that waits for one.
    ///
    /// # Errors
    /// When there is one already.
    pub fn script(
        &self,
        family: Family,
        script: impl FnMut(&Question) -> Vec<Reply> + Send + 'static,
    ) -> Result<Scripted> {
        Scripted::start(self.world.host("resolver"), Resolver::Scripted.place(family), script)
    }

    /// Counts what arrives at the resolvers from now on.
    ///
    /// # Errors
    /// None in practice.
    pub fn watch_resolvers(&self) -> Result<Capture> {
        Capture::start(self.world.host("resolver"), "eth0")
    }

    /// Counts what arrives at what the names lead to from now on.
    ///
    /// # Errors
    /// None in practice.
    pub fn watch_served(&self) -> Result<Capture> {
        Capture::start(self.world.host("served"), "eth0")
    }

    /// Runs a client to its end. `spawn` decides in which cgroup, or under what.
    ///
    /// # Errors
    /// When it does not run; a lookup that fails is a [`Lookup`].
    pub fn lookup_by(
        &self,
        client: Client,
        target: &Target,
        resolver: IpAddr,
        surroundings: &Surroundings,
        spawn: impl FnOnce(Command) -> Result<Child>,
    ) -> Result<Lookup> {
        let words = client.command_line(resolver, target)?;
        let start = Instant::now();
        let output = self.run_by(&words, surroundings, spawn)?;
        client.read(&output, start.elapsed())
    }

    /// Runs a client under nothing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn lookup(&self, client: Client, target: &Target, resolver: IpAddr) -> Result<Lookup> {
        let surroundings = Surroundings::new(&[resolver], &[], &[])?;
        self.lookup_by(client, target, resolver, &surroundings, |mut command| Ok(command.spawn()?))
    }

    /// Runs a command line in the workload's namespace and surroundings.
    ///
    /// # Errors
    /// When it does not start.
    pub fn run_by(
        &self,
        words: &[OsString],
        surroundings: &Surroundings,
        spawn: impl FnOnce(Command) -> Result<Child>,
    ) -> Result<Output> {
        let mut command = client::command(words, |program| self.job().command(program))?;
        surroundings.surround(&mut command)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        spawn(command)?.wait_with_output().context("it was started")
    }
}

/// Has every address of the served ranges answer.
fn lead_to_served(world: &World) -> Result<()> {
    let (router, served) = (world.router(), world.host("served"));
    let (v4, v6) = (served.v4.to_string(), served.v6.to_string());
    for (version, ranges, via) in [("-4", &SERVED_V4[..], v4), ("-6", &SERVED_V6, v6)] {
        for range in ranges {
            ip(router, &format!("{version} route add {range} via {via}"))?;
            ip(served, &format!("{version} route add local {range} dev lo"))?;
        }
    }
    // A neighbour that forges a source must be stopped by what is under test, not by the router.
    router.run(["sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done"]).map(drop)
}

/// Waits until a new wire carries packets both ways: until then the kernel drops them, and a datagram is not sent again.
fn wait_carried(from: &Namespace, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
    for address in [IpAddr::V4(v4), IpAddr::V6(v6)] {
        until(&format!("a wire to {address}"), DEADLINE, || {
            let tried = from.enter(|| TcpStream::connect_timeout(&(address, 9).into(), DEADLINE));
            tried.err().filter(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        })?;
    }
    Ok(())
}

/// Adds an address and waits until packets to it end here: for IPv6 the kernel sees to that a moment later.
fn add_address(namespace: &Namespace, interface: &str, address: IpAddr, length: u8) -> Result<()> {
    let no_detection = if address.is_ipv6() { " nodad" } else { "" };
    ip(namespace, &format!("addr add {address}/{length} dev {interface}{no_detection}"))?;
    until(&format!("{address} to be local"), DEADLINE, || {
        let found = namespace.run(["ip", "route", "get", &address.to_string()]).ok()?;
        found.stdout.starts_with(b"local ").then_some(())
    })
}

fn ip(namespace: &Namespace, line: &str) -> Result<()> {
    namespace.run(["ip"].into_iter().chain(line.split(' '))).map(drop)
}

/// Whether a frame carries a DNS question for a name, over whatever protocol. `name` is written with dots.
#[must_use]
pub fn asks_for(frame: &Frame, name: &str) -> bool {
    let mut wire = Vec::new();
    for label in name.trim_end_matches('.').split('.') {
        wire.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        wire.extend(label.bytes());
    }
    wire.push(0);
    frame.destination_port == Some(53)
        && frame.payload.windows(wire.len()).any(|part| part.eq_ignore_ascii_case(&wire))
}

/// An error as the clients write it.
fn errno_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM".to_owned(),
        Some(libc::EACCES) => "EACCES".to_owned(),
        Some(libc::ECONNREFUSED) => "ECONNREFUSED".to_owned(),
        Some(libc::ECONNRESET) => "ECONNRESET".to_owned(),
        Some(libc::EHOSTUNREACH) => "EHOSTUNREACH".to_owned(),
        Some(libc::ENETUNREACH) => "ENETUNREACH".to_owned(),
        Some(libc::EAGAIN | libc::ETIMEDOUT) => "ETIMEDOUT".to_owned(),
        // What std ends by itself has no number.
        None if error.kind() == io::ErrorKind::TimedOut => "ETIMEDOUT".to_owned(),
        _ => error.to_string(),
    }
}
