//! Lays wires: veth pairs, what hangs on their ends, addresses. All of it acts on the calling thread's network namespace.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoMacVlan, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Netlink;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Makes a veth pair: one end here, the other as `far_name` in another namespace. Each end gets the address told.
pub fn add_veth(name: &str, mac: Mac, far: &File, far_name: &str, far_mac: Mac) -> io::Result<()> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(far_name.to_owned()),
        LinkAttribute::Address(far_mac.to_vec()),
        LinkAttribute::NetNsFd(far.as_raw_fd()),
    ];
    let mut near = LinkMessage::default();
    near.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    add(near)
}

/// Makes an interface in another namespace that is given everything which arrives on `lower`, and sends by it.
pub fn add_macvlan(lower: u32, far: &File, far_name: &str) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(far_name.to_owned()),
        LinkAttribute::Link(lower),
        LinkAttribute::NetNsFd(far.as_raw_fd()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::MacVlan),
            LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Passthrough)])),
        ]),
    ];
    add(link)
}

fn add(link: LinkMessage) -> io::Result<()> {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    Netlink::open()?.ask(RouteNetlinkMessage::NewLink(link), flags).map(drop)
}

/// Keeps an interface from giving itself an IPv6 address when it comes up. Where there is no IPv6 there is nothing to do.
pub fn without_addresses(index: u32) {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let attribute = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]);
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![attribute];
    let asked = Netlink::open().and_then(|netlink| netlink.ask(RouteNetlinkMessage::SetLink(link), 0));
    drop(asked);
}

/// Brings an interface up.
pub fn bring_up(index: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    Netlink::open()?.ask(RouteNetlinkMessage::SetLink(link), 0).map(drop)
}

/// Removes an interface; of a pair, both ends.
pub fn remove(index: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    Netlink::open()?.ask(RouteNetlinkMessage::DelLink(link), 0).map(drop)
}

/// Gives an interface an address, which can be used at once.
pub fn add_address(index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Netlink::open()?.ask(RouteNetlinkMessage::NewAddress(message), flags).map(drop)
}

/// Tells where an address is on the link, so that nobody is asked for it.
pub fn add_neighbour(index: u32, address: IpAddr, mac: Mac) -> io::Result<()> {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    let destination = match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Netlink::open()?.ask(RouteNetlinkMessage::NewNeighbour(message), flags).map(drop)
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
