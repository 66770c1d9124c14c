//! A handful of hosts around one router.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;

use anyhow::{Context, Result};

use crate::netns::Namespace;

/// One host: a network namespace whose interface `eth0` leads to the router.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name, which is also the name of its wire on the router.
    pub name: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    namespace: Namespace,
}

impl Host {
    /// A place on it, over IPv4.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.v4), port)
    }

    /// A place on it, over IPv6.
    #[must_use]
    pub fn at_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.v6), port)
    }
}

impl Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

/// Hosts and their router. Every host reaches every other one over both IP versions; nothing reaches the machine's own
/// network. The n-th host is 10.77.n.2 and fd77:n::2, its gateway ends in 1.
#[derive(Debug)]
pub struct World {
    hosts: BTreeMap<String, Host>,
    router: Namespace,
}

impl World {
    /// Builds a world with these hosts. A name is at most 15 letters: it becomes an interface on the router.
    ///
    /// # Errors
    /// Without root, or without `ip`.
    pub fn new(names: &[&str]) -> Result<World> {
        let router = Namespace::new()?;
        configure(&router, &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let mut hosts = BTreeMap::new();
        for (name, number) in names.iter().zip(1_u8..) {
            let host = add_host(&router, name, number).with_context(|| format!("cannot add host {name}"))?;
            hosts.insert((*name).to_owned(), host);
        }
        Ok(World { hosts, router })
    }

    /// The host with this name.
    ///
    /// # Panics
    /// When there is none: the test has a typing error.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.get(name).unwrap_or_else(|| panic!("this world has no host {name}"))
    }

    /// Cuts a host's wire and lays a new one with the same addresses, as when a container is connected anew.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn lay_again(&self, name: &str) -> Result<()> {
        self.router.run(["ip", "link", "del", name])?;
        lay_wire(&self.router, self.host(name))
    }

    /// The router; its interfaces have the hosts' names.
    #[must_use]
    pub fn router(&self) -> &Namespace {
        &self.router
    }
}

fn add_host(router: &Namespace, name: &str, number: u8) -> Result<Host> {
    let v4 = Ipv4Addr::new(10, 77, number, 2);
    let v6 = Ipv6Addr::new(0xfd77, number.into(), 0, 0, 0, 0, 0, 2);
    let host = Host { name: name.to_owned(), v4, v6, namespace: Namespace::new()? };
    lay_wire(router, &host)?;
    Ok(host)
}

fn lay_wire(router: &Namespace, host: &Host) -> Result<()> {
    let Host { name, v4, v6, namespace } = host;
    let [first, second, third, _] = v4.octets();
    let gateway_v4 = Ipv4Addr::new(first, second, third, 1);
    let gateway_v6 = Ipv6Addr::from(v6.to_bits() - 1);
    let ip = |namespace: &Namespace, line: &str| {
        namespace.run(["ip"].into_iter().chain(line.split(' '))).map(drop)
    };

    ip(router, &format!("link add name {name} type veth peer name eth0 netns {}", namespace.path()))?;
    for (end, interface, v4, v6) in
        [(router, name.as_str(), &gateway_v4, &gateway_v6), (namespace, "eth0", v4, v6)]
    {
        // Duplicate address detection would keep the addresses unusable for a second or two.
        configure(end, &[(&format!("ipv6/conf/{interface}/accept_dad"), "0")])?;
        ip(end, &format!("addr add {v4}/24 dev {interface}"))?;
        ip(end, &format!("addr add {v6}/64 dev {interface} nodad"))?;
        ip(end, &format!("link set dev {interface} up"))?;
    }
    ip(namespace, &format!("route add default via {gateway_v4}"))?;
    ip(namespace, &format!("-6 route add default via {gateway_v6}"))
}

/// Sets sysctls of a namespace: `/proc/sys/net` is the one of whoever opens it.
fn configure(namespace: &Namespace, settings: &[(&str, &str)]) -> Result<()> {
    namespace.enter(|| {
        for (key, value) in settings {
            let path = format!("/proc/sys/net/{key}");
            fs::write(&path, value).with_context(|| format!("cannot write {path}"))?;
        }
        Ok(())
    })
}
