//! The packet walker on packets that are built here, whole, cut and changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_warden_common::limits::MAX_EXTENSION_HEADERS;
use egress_warden_common::packet::{Packet, TCP_ACK, TCP_SYN, outline, parse};
use egress_warden_common::{Address, Reason};
use proptest::prelude::*;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const GRE: u8 = 47;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// An extension header: its number, and for options the number of 8-byte units after the first.
type Extension = (u8, u8);

#[derive(Clone, Debug)]
struct Built {
    bytes: Vec<u8>,
    /// Bytes that the walker has to see.
    needed: usize,
    expected: Packet,
}

fn transport(protocol: u8, source_port: u16, port: u16, flags: u8) -> (Vec<u8>, usize, Packet) {
    let nowhere = Address::v4(0);
    let mut packet = Packet {
        source: nowhere,
        destination: nowhere,
        protocol,
        tcp_flags: 0,
        fragment: 0,
        reserved: 0,
        source_port: 0,
        port: 0,
    };
    let mut bytes = vec![0xee; 24];
    let needed = match protocol {
        TCP | UDP => {
            bytes[..2].copy_from_slice(&source_port.to_be_bytes());
            bytes[2..4].copy_from_slice(&port.to_be_bytes());
            (packet.source_port, packet.port) = (source_port, port);
            if protocol == TCP {
                bytes[13] = flags;
                packet.tcp_flags = flags;
                14
            } else {
                4
            }
        }
        ICMP | ICMPV6 => {
            bytes[0] = port as u8;
            packet.port = port & 0xff;
            1
        }
        _ => 0,
    };
    (bytes, needed, packet)
}

fn v4(source: Ipv4Addr, destination: Ipv4Addr, (payload, needed, packet): (Vec<u8>, usize, Packet)) -> Built {
    let mut bytes = vec![0; 20];
    bytes[0] = 0x45;
    bytes[9] = packet.protocol;
    bytes[12..16].copy_from_slice(&source.octets());
    bytes[16..20].copy_from_slice(&destination.octets());
    bytes.extend(payload);
    let source = Address::from(IpAddr::from(source));
    let destination = Address::from(IpAddr::from(destination));
    Built { bytes, needed: 20 + needed, expected: Packet { source, destination, ..packet } }
}

fn v6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    extensions: &[Extension],
    (payload, needed, packet): (Vec<u8>, usize, Packet),
) -> Built {
    let numbers = extensions.iter().map(|(number, _)| *number).chain([packet.protocol]);
    let mut following = numbers.skip(1);
    let mut bytes = vec![0; 40];
    bytes[0] = 0x60;
    bytes[6] = extensions.first().map_or(packet.protocol, |(number, _)| *number);
    bytes[8..24].copy_from_slice(&source.octets());
    bytes[24..40].copy_from_slice(&destination.octets());
    for (number, units) in extensions {
        let start = bytes.len();
        let length = if *number == FRAGMENT { 8 } else { (usize::from(*units) + 1) * 8 };
        bytes.resize(start + length, 0);
        bytes[start] = following.next().unwrap();
        if *number == FRAGMENT {
            // The first of several: offset 0, more to come.
            bytes[start + 3] = 1;
        } else {
            bytes[start + 1] = *units;
        }
    }
    let needed = bytes.len() + needed;
    bytes.extend(payload);
    let source = Address::from(IpAddr::from(source));
    let destination = Address::from(IpAddr::from(destination));
    Built { bytes, needed, expected: Packet { source, destination, ..packet } }
}

fn a_transport() -> impl Strategy<Value = (Vec<u8>, usize, Packet)> {
    let protocol = prop_oneof![Just(TCP), Just(UDP), Just(ICMP), Just(ICMPV6), Just(GRE)];
    (protocol, any::<u16>(), any::<u16>(), any::<u8>())
        .prop_map(|(protocol, source_port, port, flags)| transport(protocol, source_port, port, flags))
}

fn an_extension() -> impl Strategy<Value = Extension> {
    let number = prop_oneof![Just(HOP_BY_HOP), Just(DESTINATION_OPTIONS), Just(FRAGMENT)];
    (number, prop_oneof![4 => 0u8..3, 1 => Just(u8::MAX)])
}

fn a_v6_address() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(Ipv6Addr::from_bits).prop_filter("mapped", |v6| v6.to_ipv4_mapped().is_none())
}

fn a_packet() -> impl Strategy<Value = Built> {
    let fourth = (any::<Ipv4Addr>(), any::<Ipv4Addr>(), a_transport())
        .prop_map(|(source, destination, transport)| v4(source, destination, transport));
    let extensions = prop::collection::vec(an_extension(), 0..=MAX_EXTENSION_HEADERS);
    let sixth = (a_v6_address(), a_v6_address(), extensions, a_transport()).prop_map(
        |(source, destination, extensions, transport)| v6(source, destination, &extensions, transport),
    );
    prop_oneof![fourth, sixth]
}

#[test]
fn a_refused_packet_still_tells_where_it_wanted_to_go() {
    // Four no-operations as IPv4 options in front of TCP.
    let mut packet = vec![0x46, 0, 0, 44, 0, 0, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 2, 10, 0, 0, 9, 1, 1, 1, 1];
    packet.extend([0; 20]);
    assert_eq!(parse(packet.as_slice()), Err(Reason::IpOptions));
    let told = outline(packet.as_slice()).unwrap();
    assert_eq!((told.source, told.destination), (Address::v4(0x0a00_0002), Address::v4(0x0a00_0009)));
    assert_eq!((told.protocol, told.port), (TCP, 0));
    assert_eq!(outline(&packet[..19]), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_built_is_read(packet in a_packet()) {
        prop_assert_eq!(parse(packet.bytes.as_slice()), Ok(packet.expected));
        let flags = packet.expected.tcp_flags & (TCP_SYN | TCP_ACK);
        let tcp = packet.expected.protocol == TCP;
        prop_assert_eq!(packet.expected.begins_tcp(), tcp && flags == TCP_SYN);
    }

    #[test]
    fn a_packet_that_ends_early_is_malformed(packet in a_packet(), cut in any::<prop::sample::Index>()) {
        let end = cut.index(packet.needed);
        // Where there is no transport header to read, the last extension header need not be whole.
        let last_header_is_hollow = packet.expected.protocol == GRE;
        let read = parse(&packet.bytes[..end]);
        prop_assert!(read == Err(Reason::Malformed) || last_header_is_hollow && read == Ok(packet.expected));
        prop_assert_eq!(parse(&packet.bytes[..packet.needed]), Ok(packet.expected));
    }

    #[test]
    fn a_changed_packet_is_read_or_refused_with_a_reason_of_the_walker(
        packet in a_packet(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = packet.bytes;
        for (at, value) in changes {
            let index = at.index(bytes.len());
            bytes[index] = value;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        match parse(bytes.as_slice()) {
            // Whatever is believed of the destination stands in the outermost header.
            Ok(read) if bytes[0] >> 4 == 4 => {
                let octets: [u8; 4] = bytes[16..20].try_into().unwrap();
                prop_assert_eq!(read.destination.as_v4(), Some(u32::from_be_bytes(octets)));
            }
            Ok(read) => prop_assert_eq!(&read.destination.to_bytes()[..], &bytes[24..40]),
            Err(reason) => prop_assert!(matches!(
                reason,
                Reason::IpOptions | Reason::RoutingHeader | Reason::Fragment | Reason::Malformed
            )),
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
        let _ = parse(bytes.as_slice());
    }

    #[test]
    fn a_later_fragment_is_refused(packet in a_packet(), offset in 1u16..0x2000, more in any::<bool>()) {
        let mut bytes = packet.bytes;
        if bytes[0] == 0x45 {
            let field = offset | if more { 0x2000 } else { 0 };
            bytes[6..8].copy_from_slice(&field.to_be_bytes());
        } else {
            let field = offset << 3 | u16::from(more);
            let [high, low] = field.to_be_bytes();
            bytes.splice(40..40, [bytes[6], 0, high, low, 0, 0, 0, 0]);
            bytes[6] = FRAGMENT;
        }
        prop_assert_eq!(parse(bytes.as_slice()), Err(Reason::Fragment));
    }
}

const HERE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const THERE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

fn v6_over(extensions: &[Extension]) -> Result<Packet, Reason> {
    parse(v6(HERE, THERE, extensions, transport(TCP, 1, 443, TCP_SYN)).bytes.as_slice())
}

#[test]
fn options_of_ipv4_are_refused_and_a_short_header_is_malformed() {
    let mut packet = v4(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, transport(TCP, 1, 443, TCP_SYN)).bytes;
    for (words, reason) in
        [(0, Reason::Malformed), (4, Reason::Malformed), (6, Reason::IpOptions), (15, Reason::IpOptions)]
    {
        packet[0] = 0x40 | words;
        assert_eq!(parse(packet.as_slice()), Err(reason), "{words}");
    }
}

#[test]
fn a_routing_header_is_refused_wherever_it_stands() {
    assert_eq!(v6_over(&[(ROUTING, 0)]), Err(Reason::RoutingHeader));
    assert_eq!(
        v6_over(&[(HOP_BY_HOP, 1), (DESTINATION_OPTIONS, 0), (ROUTING, 2)]),
        Err(Reason::RoutingHeader)
    );
    assert_eq!(v6_over(&[(FRAGMENT, 0), (ROUTING, 2)]), Err(Reason::RoutingHeader));
}

#[test]
fn a_chain_of_headers_has_a_limit() {
    let chain = [(DESTINATION_OPTIONS, 0); MAX_EXTENSION_HEADERS + 1];
    assert!(v6_over(&chain[1..]).is_ok());
    assert_eq!(v6_over(&chain), Err(Reason::Malformed));
}

#[test]
fn mapped_addresses_and_other_versions_are_malformed() {
    let mapped = Ipv4Addr::new(10, 0, 0, 5).to_ipv6_mapped();
    for (source, destination) in [(mapped, THERE), (HERE, mapped)] {
        let packet = v6(source, destination, &[], transport(TCP, 1, 443, TCP_SYN)).bytes;
        assert_eq!(parse(packet.as_slice()), Err(Reason::Malformed));
    }
    for version in [0, 1, 5, 7, 15] {
        let mut packet = v6(HERE, THERE, &[], transport(TCP, 1, 443, TCP_SYN)).bytes;
        packet[0] = version << 4 | 5;
        assert_eq!(parse(packet.as_slice()), Err(Reason::Malformed), "{version}");
    }
}

#[test]
fn ports_behind_another_extension_than_options_are_not_guessed() {
    for number in [50, 51, 59, 135] {
        let packet = v6(HERE, THERE, &[], transport(number, 1, 443, 0)).bytes;
        let read = parse(packet.as_slice()).unwrap();
        assert_eq!((read.protocol, read.port), (number, 0));
    }
}
