//! The interfaces of a workload's network namespace, and where each of them ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use super::netlink::Netlink;

/// An interface by which a network namespace reaches the world.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetworkInterface {
    /// Its index in the namespace.
    pub index: u32,
    /// Its name there.
    pub name: String,
    /// Where it ends.
    pub end: OtherEnd,
}

/// The other end of an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OtherEnd {
    /// A veth, whose other end is this interface of the agent's own namespace.
    Host(u32),
    /// A veth, whose other end is in neither of the two namespaces.
    Elsewhere,
    /// A veth, both of whose ends are in the workload's namespace: nothing leaves by it.
    Inside,
    /// It is no veth: what it is instead, as the kernel says.
    Other(String),
}

impl NetworkInterface {
    /// Can somebody outside be at its other end? Where one interface leads to the agent's namespace, those that root inside
    /// can make do not count: a veth to a namespace of its own, a tunnel, a tap.
    fn leads_out(&self, others: &[Self]) -> bool {
        let has_host = others.iter().any(|one| matches!(one.end, OtherEnd::Host(_)));
        match &self.end {
            OtherEnd::Host(_) => true,
            OtherEnd::Inside => false,
            OtherEnd::Elsewhere => !has_host,
            OtherEnd::Other(kind) => !has_host || !MADE_INSIDE.contains(&kind.as_str()),
        }
    }
}

/// Kinds that need nothing from outside.
const MADE_INSIDE: [&str; 14] = [
    "bond",
    "bridge",
    "dummy",
    "gre",
    "ifb",
    "ip6tnl",
    "ipip",
    "sit",
    "tun",
    "vcan",
    "vlan",
    "vrf",
    "vxlan",
    "wireguard",
];

/// The indexes of those by which somebody outside can call.
pub(super) fn uplinks(interfaces: &[NetworkInterface]) -> Vec<u32> {
    interfaces.iter().filter(|one| one.leads_out(interfaces)).map(|one| one.index).collect()
}

/// The interfaces but loopback of the calling thread's namespace, by index. `host` is the agent's own namespace.
pub(super) fn interfaces(host: &File) -> io::Result<Vec<NetworkInterface>> {
    let netlink = Netlink::open()?;
    let number = number_of(&netlink, host.as_raw_fd())?;
    let mut interfaces = Vec::new();
    for answer in netlink.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)? {
        if let RouteNetlinkMessage::NewLink(link) = answer {
            interfaces.extend(interface(&link, number));
        }
    }
    interfaces.sort_unstable();
    Ok(interfaces)
}

fn interface(link: &LinkMessage, host: Option<i32>) -> Option<NetworkInterface> {
    let (mut name, mut kind, mut peer, mut namespace) = (String::new(), None, None, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(found) => name.clone_from(found),
            LinkAttribute::Link(index) => peer = Some(*index),
            LinkAttribute::LinkNetNsId(number) => namespace = Some(*number),
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.clone()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let index = link.header.index;
    if index == super::namespace::LOOPBACK_INDEX {
        return None;
    }
    let end = match (kind, peer, namespace) {
        (Some(InfoKind::Veth), Some(_), None) => OtherEnd::Inside,
        (Some(InfoKind::Veth), Some(peer), Some(number)) if Some(number) == host => OtherEnd::Host(peer),
        (Some(InfoKind::Veth), ..) => OtherEnd::Elsewhere,
        (Some(kind), ..) => OtherEnd::Other(kind.to_string()),
        (None, ..) => OtherEnd::Other("device".to_owned()),
    };
    Some(NetworkInterface { index, name, end })
}

/// The number by which the calling thread's namespace knows another one; it gets one where it has none.
pub(super) fn number_for(other: &File) -> io::Result<i32> {
    let netlink = Netlink::open()?;
    if let Some(number) = number_of(&netlink, other.as_raw_fd())? {
        return Ok(number);
    }
    let wanted = vec![NsidAttribute::Fd(fd(other.as_raw_fd())), NsidAttribute::Id(-1)];
    match netlink.ask(RouteNetlinkMessage::NewNsId(nsid(wanted)), 0) {
        // Somebody else was first.
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
        _ => {}
    }
    number_of(&netlink, other.as_raw_fd())?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// `None` where the other has no number.
fn number_of(netlink: &Netlink, other: RawFd) -> io::Result<Option<i32>> {
    let request = RouteNetlinkMessage::GetNsId(nsid(vec![NsidAttribute::Fd(fd(other))]));
    let answers = netlink.ask(request, 0)?;
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewNsId(message) => message.attributes.into_iter().find_map(|attribute| {
            if let NsidAttribute::Id(number) = attribute { (number >= 0).then_some(number) } else { None }
        }),
        _ => None,
    }))
}

fn nsid(attributes: Vec<NsidAttribute>) -> NsidMessage {
    let mut message = NsidMessage::default();
    message.attributes = attributes;
    message
}

fn fd(raw: RawFd) -> u32 {
    raw.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_root_inside_can_make_leads_nowhere_where_there_is_a_way_to_the_host() {
        let made = |index: u32, end: OtherEnd| NetworkInterface { index, name: format!("i{index}"), end };
        let other = |kind: &str| OtherEnd::Other(kind.to_owned());
        let inside = [
            made(3, OtherEnd::Inside),
            made(4, OtherEnd::Elsewhere),
            made(5, other("tun")),
            made(6, other("vxlan")),
        ];
        let real = [made(2, OtherEnd::Host(9)), made(7, other("macvlan")), made(8, other("device"))];
        assert_eq!(uplinks(&[&real[..], &inside[..]].concat()), [2, 7, 8]);
        // Without one the namespace was wired in another way, which may be any of them.
        assert_eq!(uplinks(&inside), [4, 5, 6]);
    }
}
