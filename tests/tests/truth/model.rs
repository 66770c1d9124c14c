//! Allowlists as an operator writes them, and their text. Nothing here is compiled, merged or flattened.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    address: IpAddr,
    pub(crate) length: u8,
}

impl Cidr {
    /// The network of this length around an address.
    pub(crate) fn around(address: IpAddr, length: u8) -> Cidr {
        let address = of_bits(address, bits(address) & !host_bits(address, length));
        Cidr { address, length }
    }

    pub(crate) fn text(text: &str) -> Cidr {
        let (address, length) = text.split_once('/').expect("a length");
        Cidr { address: address.parse().expect("an address"), length: length.parse().expect("a length") }
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.address.is_ipv4()
    }

    pub(crate) fn longest(&self) -> u8 {
        width(self.address)
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_v4() && Cidr::around(address, self.length) == *self
    }

    pub(crate) fn contains_all_of(&self, other: &Cidr) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    pub(crate) fn is_apart_from(&self, other: &Cidr) -> bool {
        !self.contains_all_of(other) && !other.contains_all_of(self)
    }

    pub(crate) fn first(&self) -> IpAddr {
        self.address
    }

    pub(crate) fn last(&self) -> IpAddr {
        of_bits(self.address, bits(self.address) | host_bits(self.address, self.length))
    }

    /// An address inside, by a number that may be anything.
    pub(crate) fn at(&self, number: u128) -> IpAddr {
        of_bits(self.address, bits(self.address) | (number & host_bits(self.address, self.length)))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn host_bits(address: IpAddr, length: u8) -> u128 {
    match width(address) - length {
        128 => u128::MAX,
        bits => (1 << bits) - 1,
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn of_bits(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

/// The address so many further on, around the end of its family.
pub(crate) fn beside(address: IpAddr, by: i8) -> IpAddr {
    of_bits(address, bits(address).wrapping_add_signed(by.into()))
}

/// A run of ports, `N-M` or `N-M/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) protocol: &'static str,
    pub(crate) first: u16,
    pub(crate) last: u16,
}

/// `icmp`.
#[derive(Clone, Debug)]
pub(crate) enum Icmp {
    Absent,
    All,
    Types(Vec<&'static str>),
}

/// An entry of `to`.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) cidrs: Vec<Cidr>,
    pub(crate) except: Vec<Cidr>,
    /// `None` is every port.
    pub(crate) ports: Option<Vec<Ports>>,
    pub(crate) icmp: Icmp,
    pub(crate) expired: bool,
}

/// A document of Destinations. Its name is `d` and its index.
#[derive(Clone, Debug)]
pub(crate) struct Destinations(pub(crate) Vec<Entry>);

/// A document of an EgressPolicy.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) name: String,
    /// The workloads that it selects.
    pub(crate) selects: Vec<&'static str>,
    pub(crate) audit: bool,
    pub(crate) allow: Vec<usize>,
    pub(crate) deny: Vec<Cidr>,
    pub(crate) metadata: bool,
    /// `allow` or `deny`, where it is written.
    pub(crate) loopback: Option<&'static str>,
    pub(crate) raw: Vec<&'static str>,
    /// What its quarantine rule keeps, where it has one.
    pub(crate) keep: Option<Vec<usize>>,
}

/// A whole set.
#[derive(Clone, Debug)]
pub(crate) struct Lists {
    pub(crate) destinations: Vec<Destinations>,
    pub(crate) policies: Vec<Policy>,
}

const HEAD: &str = "apiVersion: egress-warden.dev/v1\n";

impl Lists {
    /// The policies that select a workload.
    pub(crate) fn of<'a>(&'a self, workload: &'a str) -> impl Iterator<Item = &'a Policy> {
        self.policies.iter().filter(move |policy| policy.selects.contains(&workload))
    }

    /// The text of the set, for workloads below this cgroup.
    pub(crate) fn yaml(&self, parent: &str) -> String {
        let mut text = String::new();
        for (index, Destinations(entries)) in self.destinations.iter().enumerate() {
            text += &format!("{HEAD}kind: Destinations\nmetadata: {{name: d{index}}}\nspec:\n  to:\n");
            text.extend(entries.iter().map(Entry::yaml));
            text += "---\n";
        }
        text.extend(self.policies.iter().map(|policy| policy.yaml(parent)));
        text
    }
}

impl Entry {
    fn yaml(&self) -> String {
        let mut text = format!("    - why: a generated entry\n      cidrs: {}\n", quoted(&self.cidrs));
        if !self.except.is_empty() {
            text += &format!("      except: {}\n", quoted(&self.except));
        }
        if let Some(ports) = &self.ports {
            text += &format!("      ports: {}\n", quoted(ports));
        }
        text += &match &self.icmp {
            Icmp::Absent => String::new(),
            Icmp::All => "      icmp: all\n".to_owned(),
            Icmp::Types(types) => format!("      icmp: {}\n", quoted(types)),
        };
        if self.expired {
            text += "      expires: 2021-01-01T00:00:00Z\n";
        }
        text
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ports { protocol, first, last } = self;
        if first == last { write!(f, "{first}/{protocol}") } else { write!(f, "{first}-{last}/{protocol}") }
    }
}

impl Policy {
    fn yaml(&self, parent: &str) -> String {
        let globs: Vec<String> = self.selects.iter().map(|name| format!("/{parent}/{name}")).collect();
        let mode = if self.audit { "audit" } else { "enforce" };
        let mut text = format!(
            "{HEAD}kind: EgressPolicy\nmetadata: {{name: {}}}\nspec:\n  select: {{cgroups: {}}}\n  mode: {mode}\n  \
             allow: {}\n",
            self.name,
            quoted(&globs),
            named(&self.allow)
        );
        if !self.deny.is_empty() {
            text += &format!("  deny: {}\n", quoted(&self.deny));
        }
        if self.metadata {
            text += "  metadata: true\n";
        }
        if let Some(loopback) = self.loopback {
            text += &format!("  loopback: {loopback}\n");
        }
        if !self.raw.is_empty() {
            text += &format!("  raw: {}\n", quoted(&self.raw));
        }
        if let Some(keep) = &self.keep {
            // So many in so short a time do not happen here: the test itself says who is in quarantine.
            let rule = format!("violations: 256, within: 1ms, keep: {}", named(keep));
            text += &format!("  quarantine: {{{rule}}}\n");
        }
        text + "---\n"
    }
}

fn named(destinations: &[usize]) -> String {
    let names: Vec<String> = destinations.iter().map(|index| format!("d{index}")).collect();
    format!("[{}]", names.join(", "))
}

fn quoted<T: fmt::Display>(items: &[T]) -> String {
    let mut text = String::from("[");
    for (index, item) in items.iter().enumerate() {
        let _ = write!(text, "{}\"{item}\"", if index == 0 { "" } else { ", " });
    }
    text + "]"
}
