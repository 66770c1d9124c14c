//! Allowlists and probes made from a seed.
//!
//! Made to meet: all networks lie around a few places and so within each other, and probes go to the edges of what the
//! allowlists name, and one beyond.

use std::net::IpAddr;

use egress_warden_tests::prober::Kind;

use super::model::{Cidr, Destinations, Entry, Icmp, Lists, Policy, Ports, beside};
use super::oracle::{METADATA, OWN_HOST, Probe, Workload, message_types, messages};
use super::random::Random;

/// What the far side answers for; all networks and probes lie inside.
pub(crate) const FAR: [&str; 7] = [
    "198.18.0.0/15",
    "203.0.113.0/24",
    "10.128.0.0/9",
    "169.254.169.0/24",
    "100.100.100.0/24",
    "2001:db8::/32",
    "fd00:ec2::/64",
];

/// Ports that entries begin and end with.
const EDGES: [u16; 12] = [2, 22, 53, 80, 123, 443, 3128, 8080, 9000, 9050, 9100, 65_534];

/// Ports at which no service of a machine listens.
const UNUSED: [u16; 4] = [1, 2, 3, 65_535];

/// The ports that probes go to.
pub(crate) fn ports() -> Vec<u16> {
    EDGES.iter().flat_map(|port| [port - 1, *port, port + 1]).collect()
}

/// So many documents of Destinations are made at random; behind them stand those that some policy is there for.
const RANDOM: usize = 12;
/// The addresses at which credentials are handed out.
const CREDENTIALS: usize = RANDOM;
/// The own host.
const OWN: usize = RANDOM + 1;
/// The whole world, until a time that has passed.
const EXPIRED: usize = RANDOM + 2;

/// Who is there, by name, with the number of policies that select it.
pub(crate) const WORKLOADS: [(&str, usize); 13] = [
    ("closed", 1),
    ("single", 1),
    ("merged", 3),
    ("audited", 1),
    ("audited-twice", 2),
    ("mixed", 2),
    ("kept", 1),
    ("kept-by-two", 3),
    ("metadata", 1),
    ("inward", 1),
    ("neighbour", 1),
    ("router", 1),
    ("machine", 1),
];

pub(crate) struct Generator {
    random: Random,
    /// What networks lie around.
    places: Vec<IpAddr>,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Generator {
        let mut random = Random::new(seed);
        let mut places: Vec<IpAddr> =
            FAR.iter().flat_map(|base| [0, 1].map(|_| Cidr::text(base).at(number(&mut random)))).collect();
        places.extend(METADATA.iter().map(|one| Cidr::text(one).first()).filter(|one| is_far(*one)));
        Generator { random, places }
    }

    /// A whole set.
    pub(crate) fn lists(&mut self) -> Lists {
        let mut destinations: Vec<Destinations> = (0..RANDOM).map(|_| self.destinations()).collect();
        let credentials = METADATA.iter().map(|one| Cidr::text(one)).filter(|one| is_far(one.first()));
        destinations.push(Destinations(vec![self.entry(credentials.collect(), Vec::new())]));
        let own = vec![Cidr::text("127.0.0.0/8"), Cidr::text("::1/128")];
        destinations.push(Destinations(vec![self.entry(own, Vec::new())]));
        let world = vec![Cidr::text("0.0.0.0/0"), Cidr::text("::/0")];
        let expired = Entry { expired: true, ..self.entry(world, Vec::new()) };
        destinations.push(Destinations(vec![expired]));

        let mut lists = Lists { destinations, policies: Vec::new() };
        for (workload, count) in WORKLOADS {
            for index in 0..count {
                let policy = self.policy(&lists.destinations, workload, index);
                lists.policies.push(policy);
            }
        }
        lists
    }

    fn policy(&mut self, destinations: &[Destinations], workload: &'static str, index: usize) -> Policy {
        let mut allow = self.some_random();
        if matches!(workload, "inward" | "machine") {
            allow.push(OWN);
        }
        if matches!(workload, "single" | "audited" | "merged") && index == 0 {
            allow.push(EXPIRED);
        }
        let metadata = workload == "metadata";
        if metadata {
            allow.push(CREDENTIALS);
        }
        if workload == "closed" {
            allow.clear();
        }
        let keep = match (workload, index) {
            ("kept", _) | ("kept-by-two", 0 | 1) => Some(allow[..2].to_vec()),
            _ => None,
        };
        let audit = workload.starts_with("audited") || (workload == "mixed" && index == 0);
        let loopback = match workload {
            "inward" => Some("deny"),
            "merged" => self.random.of(&[None, Some("allow"), Some("deny")]),
            _ => None,
        };
        let raw = self.random.of(&[&[][..], &["icmp"], &["icmp", "icmpv6"], &["icmp", "icmpv6", "tcp"]]);
        let allowed = allow.iter().flat_map(|index| &destinations[*index].0).collect::<Vec<_>>();
        let deny = self.deny(&allowed);
        let name = format!("{workload}-{index}");
        Policy {
            name,
            selects: vec![workload],
            audit,
            allow,
            deny,
            metadata,
            loopback,
            raw: raw.to_vec(),
            keep,
        }
    }

    /// Networks that no entry lies in as a whole, because an entry that can never match is refused.
    fn deny(&mut self, allowed: &[&Entry]) -> Vec<Cidr> {
        let mut deny = Vec::new();
        for _ in 0..self.random.below(5) {
            let cidr = self.around_a_place();
            let leaves = |entry: &&Entry| {
                let widest = entry.widest();
                cidr.is_apart_from(&widest)
                    || cidr.length >= widest.length + 3 && widest.contains_all_of(&cidr)
            };
            if allowed.iter().all(leaves) && !deny.contains(&cidr) {
                deny.push(cidr);
            }
        }
        deny
    }

    fn destinations(&mut self) -> Destinations {
        let entries = (0..1 + self.random.below(3)).map(|_| {
            let mut cidrs = vec![self.widest()];
            for _ in 0..self.random.below(4) {
                let cidr = self.around_a_place();
                let is_credentials = METADATA.iter().any(|one| Cidr::text(one) == cidr);
                if !is_credentials && !cidrs.contains(&cidr) {
                    cidrs.push(cidr);
                }
            }
            let mut except = Vec::new();
            for _ in 0..self.random.below(4) {
                let within = self.random.of(&cidrs);
                let length = within.length.saturating_add(3 + self.random.below(8) as u8);
                let address = self.address_in(&within);
                let hole = Cidr::around(address, length.min(within.longest()));
                if length <= within.longest() && !except.contains(&hole) {
                    except.push(hole);
                }
            }
            self.entry(cidrs, except)
        });
        Destinations(entries.collect())
    }

    fn entry(&mut self, cidrs: Vec<Cidr>, except: Vec<Cidr>) -> Entry {
        let ports = match self.random.below(5) {
            0 => None,
            1 => Some(Vec::new()),
            _ => Some(self.port_list()),
        };
        let types: Vec<&'static str> = messages()
            .filter(|(_, v4, v6)| cidrs.iter().any(|cidr| if cidr.is_v4() { *v4 } else { *v6 }))
            .map(|(name, _, _)| name)
            .collect();
        let icmp = match self.random.below(4) {
            0 => Icmp::All,
            1 => {
                let first = self.random.below(types.len());
                Icmp::Types(types[first..(first + 2).min(types.len())].to_vec())
            }
            // Neither the one nor the other could never match.
            _ if ports.as_ref().is_some_and(Vec::is_empty) => Icmp::All,
            _ => Icmp::Absent,
        };
        Entry { cidrs, except, ports, icmp, expired: self.random.one_in(8) }
    }

    fn port_list(&mut self) -> Vec<Ports> {
        let mut list: Vec<Ports> = Vec::new();
        for _ in 0..1 + self.random.below(4) {
            let (one, other) = (self.random.of(&EDGES), self.random.of(&EDGES));
            let (first, last) =
                if self.random.one_in(2) { (one, one) } else { (one.min(other), one.max(other)) };
            let ports = Ports { protocol: self.random.of(&["tcp", "udp"]), first, last };
            if !list.contains(&ports) {
                list.push(ports);
            }
        }
        list
    }

    /// A network that leaves room for holes.
    fn widest(&mut self) -> Cidr {
        let cidr = self.around_a_place();
        Cidr::around(cidr.first(), cidr.length.min(cidr.longest() - 6))
    }

    /// A network around one of the places, inside what the far side answers for.
    fn around_a_place(&mut self) -> Cidr {
        let place = self.random.of(&self.places);
        let base = base_of(place);
        let length = base.length + self.random.below(usize::from(base.longest() - base.length) + 1) as u8;
        Cidr::around(place, length)
    }

    fn address_in(&mut self, cidr: &Cidr) -> IpAddr {
        let inside = self.places.iter().copied().filter(|place| cidr.contains(*place)).collect::<Vec<_>>();
        if inside.is_empty() || self.random.one_in(2) {
            return cidr.at(number(&mut self.random));
        }
        self.random.of(&inside)
    }

    /// Three or four of the documents that are made at random.
    fn some_random(&mut self) -> Vec<usize> {
        let mut chosen: Vec<usize> = Vec::new();
        let wanted = 3 + self.random.below(2);
        while chosen.len() < wanted {
            let one = self.random.below(RANDOM);
            if !chosen.contains(&one) {
                chosen.push(one);
            }
        }
        chosen
    }

    /// The next probe of a workload.
    pub(crate) fn probe(&mut self, lists: &Lists, workload: &Workload) -> Probe {
        let to = self.destination(lists, workload);
        let kind = match self.random.below(20) {
            0..=4 => Kind::Tcp,
            5 => Kind::Mptcp,
            6..=8 => Kind::Udp,
            9..=11 => Kind::UdpConnected,
            12 => Kind::UdpLite,
            // The machine may have no ping sockets, and no test changes that.
            13 | 14 if !workload.host_namespace => Kind::Ping,
            15 | 16 => Kind::UdpShared,
            // Connected to the own host, a socket keeps an address that leads nowhere else.
            17 if is_far(to) => Kind::UdpConnectedShared,
            _ if !is_far(to) => Kind::Udp,
            _ => Kind::Raw,
        };
        let port = match kind {
            Kind::Raw => self.random.of(&message_types(to)),
            _ if workload.host_namespace => self.random.of(&UNUSED),
            _ => self.random.of(&ports()),
        };
        Probe { kind, to, port, mapped: to.is_ipv4() && kind.has_mapped() && self.random.one_in(4) }
    }

    fn destination(&mut self, lists: &Lists, workload: &Workload) -> IpAddr {
        if workload.host_namespace {
            return self.random.of(&OWN_HOST);
        }
        loop {
            let found = match self.random.below(12) {
                0 => self.random.of(&[&OWN_HOST[..], &workload.addresses].concat()),
                1 | 2 => self.random.of(&self.places),
                3 => self.around_a_place().first(),
                _ => self.edge(lists, workload),
            };
            let own = OWN_HOST.contains(&found) || workload.addresses.contains(&found);
            if own || is_far(found) {
                return found;
            }
        }
    }

    /// An address at the edge of a network that a policy of the workload names, or inside.
    fn edge(&mut self, lists: &Lists, workload: &Workload) -> IpAddr {
        let entries = lists
            .of(workload.name)
            .flat_map(|policy| policy.allow.iter().flat_map(|index| &lists.destinations[*index].0));
        let mut named: Vec<Cidr> =
            entries.flat_map(|entry| entry.cidrs.iter().chain(&entry.except)).copied().collect();
        named.extend(lists.of(workload.name).flat_map(|policy| &policy.deny));
        if named.is_empty() {
            return self.random.of(&self.places);
        }
        let cidr = self.random.of(&named);
        match self.random.below(8) {
            0 => cidr.first(),
            1 => cidr.last(),
            2 => beside(cidr.first(), -1),
            3 => beside(cidr.last(), 1),
            _ => self.address_in(&cidr),
        }
    }
}

impl Entry {
    fn widest(&self) -> Cidr {
        self.cidrs[0]
    }
}

fn base_of(place: IpAddr) -> Cidr {
    let mut bases = FAR.iter().map(|base| Cidr::text(base));
    bases.find(|base| base.contains(place)).expect("a place on the far side")
}

fn is_far(address: IpAddr) -> bool {
    FAR.iter().any(|base| Cidr::text(base).contains(address))
}

fn number(random: &mut Random) -> u128 {
    u128::from(random.next()) << 64 | u128::from(random.next())
}
