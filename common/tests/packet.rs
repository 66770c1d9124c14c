//! The packet walker on packets that are built here, whole, cut and changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_warden_common::limits::MAX_EXTENSION_HEADERS;
use egress_warden_common::packet::{Bytes, Packet, TCP_ACK, TCP_RST, TCP_SYN, outline, parse};
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
    expected: Packet,
}

fn transport(protocol: u8, source_port: u16, port: u16, flags: u8) -> (Vec<u8>, Packet) {
    let nowhere = Address::v4(0);
    let mut packet = Packet {
        source: nowhere,
        destination: nowhere,
        protocol,
        tcp_flags: 0,
        fragment: 0,
        bare: 0,
        source_port: 0,
        port: 0,
    };
    let mut bytes = vec![0xee; 24];
    match protocol {
        TCP | UDP => {
            bytes[..2].copy_from_slice(&source_port.to_be_bytes());
            bytes[2..4].copy_from_slice(&port.to_be_bytes());
            (packet.source_port, packet.port) = (source_port, port);
            if protocol == TCP {
                bytes[12] = 5 << 4;
                bytes[13] = flags;
                packet.tcp_flags = flags;
            } else {
                bytes[4..6].copy_from_slice(&24u16.to_be_bytes());
            }
        }
        ICMP | ICMPV6 => {
            bytes[0] = port as u8;
            packet.port = port & 0xff;
        }
        _ => {}
    }
    (bytes, packet)
}

fn v4(source: Ipv4Addr, destination: Ipv4Addr, (payload, packet): (Vec<u8>, Packet)) -> Built {
    let mut bytes = vec![0; 20];
    bytes[0] = 0x45;
    bytes[9] = packet.protocol;
    bytes[12..16].copy_from_slice(&source.octets());
    bytes[16..20].copy_from_slice(&destination.octets());
    bytes.extend(payload);
    let length = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let source = Address::from(IpAddr::from(source));
    let destination = Address::from(IpAddr::from(destination));
    Built { bytes, expected: Packet { source, destination, ..packet } }
}

fn v6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    extensions: &[Extension],
    (payload, packet): (Vec<u8>, Packet),
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
    bytes.extend(payload);
    let length = bytes.len() as u16 - 40;
    bytes[4..6].copy_from_slice(&length.to_be_bytes());
    let source = Address::from(IpAddr::from(source));
    let destination = Address::from(IpAddr::from(destination));
    let fragment = u8::from(extensions.iter().any(|(number, _)| *number == FRAGMENT));
    Built { bytes, expected: Packet { source, destination, fragment, ..packet } }
}

fn a_transport() -> impl Strategy<Value = (Vec<u8>, Packet)> {
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
        let end = cut.index(packet.bytes.len());
        prop_assert_eq!(parse(&packet.bytes[..end]), Err(Reason::Malformed));
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
            let length = bytes.len() as u16 - 40;
            bytes[4..6].copy_from_slice(&length.to_be_bytes());
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

/// A packet in memory that stands for one of another length: what the kernel hands over at once can have 512 KiB.
struct Stretched<'a> {
    bytes: &'a [u8],
    length: u32,
}

impl Bytes for Stretched<'_> {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.bytes.load(offset)
    }

    fn length(&self) -> u32 {
        self.length
    }
}

/// A datagram or segment over both versions, with the offsets of its length field and of its transport header.
fn both(protocol: u8) -> [(Vec<u8>, usize, usize); 2] {
    let made = || transport(protocol, 1, 443, TCP_ACK);
    let fourth = v4(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), made()).bytes;
    [(fourth, 2, 20), (v6(HERE, THERE, &[], made()).bytes, 4, 40)]
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[test]
fn a_length_beyond_the_end_or_within_the_headers_is_malformed() {
    for (protocol, least) in [(TCP, 20), (UDP, 24), (ICMP, 8), (ICMPV6, 8)] {
        for (packet, field, header) in both(protocol) {
            let whole = get(&packet, field);
            for claimed in 0..=u16::MAX {
                let mut packet = packet.clone();
                put(&mut packet, field, claimed);
                // A UDP header says itself how much there is, so only the whole will do.
                let behind = i32::from(claimed) - if field == 2 { header as i32 } else { 0 };
                let fits = claimed <= whole && behind >= least;
                assert_eq!(parse(packet.as_slice()).is_ok(), fits, "{protocol} {claimed} of {whole}");
                if !fits {
                    assert_eq!(parse(packet.as_slice()), Err(Reason::Malformed));
                }
            }
        }
    }
}

#[test]
fn padding_behind_the_packet_is_not_read() {
    for protocol in [TCP, UDP, ICMP, GRE] {
        for (packet, ..) in both(protocol) {
            let padded = [packet.as_slice(), &[0xff; 46]].concat();
            assert_eq!(parse(padded.as_slice()), parse(packet.as_slice()));
            assert!(parse(padded.as_slice()).is_ok());
        }
    }
    // What would be ports stands in the padding.
    let (mut packet, field, _) = both(UDP)[0].clone();
    put(&mut packet, field, 20);
    assert_eq!(parse(packet.as_slice()), Err(Reason::Malformed));
}

#[test]
fn what_is_too_large_for_the_field_says_zero() {
    for (protocol, kept) in [(TCP, true), (UDP, true), (ICMP, true)] {
        for (mut packet, field, header) in both(protocol) {
            put(&mut packet, field, 0);
            let before = if field == 2 { 0 } else { header as u32 };
            for (length, read) in [(before + 65_535, false), (before + 65_536, kept), (1 << 19, kept)] {
                let seen = parse(&Stretched { bytes: &packet, length });
                assert_eq!(seen.is_ok(), read, "{protocol} {length}: {seen:?}");
            }
        }
    }
    // As kernels up to 6.x send it over IPv6: with the option that says how large it is.
    let (segment, ..) = both(TCP)[1].clone();
    let mut jumbo = segment[..40].to_vec();
    (jumbo[6], jumbo[4], jumbo[5]) = (HOP_BY_HOP, 0, 0);
    jumbo.extend([TCP, 0, 0xc2, 4, 0, 1, 0x11, 0x70]);
    jumbo.extend(&segment[40..]);
    assert_eq!(parse(&Stretched { bytes: &jumbo, length: 70_000 }).map(|packet| packet.port), Ok(443));
    assert_eq!(parse(&Stretched { bytes: &jumbo, length: 65_575 }), Err(Reason::Malformed));
}

#[test]
fn a_tcp_header_is_at_least_five_words_and_all_there() {
    for (packet, _, header) in both(TCP) {
        for words in 0..16u8 {
            let mut packet = packet.clone();
            packet[header + 12] = words << 4 | 0xf;
            // 24 bytes stand behind the IP header.
            let expected = (5..=6).contains(&words);
            assert_eq!(parse(packet.as_slice()).is_ok(), expected, "{words}");
        }
    }
}

#[test]
fn a_datagram_fills_its_packet() {
    for (packet, _, header) in both(UDP) {
        for claimed in 0..=u16::MAX {
            let mut packet = packet.clone();
            put(&mut packet, header + 4, claimed);
            assert_eq!(parse(packet.as_slice()).is_ok(), claimed == 24, "{claimed}");
        }
    }
    // The first fragment of a larger one.
    for claimed in [0, 8, 23, 24, 25, 9_000, u16::MAX] {
        let (mut packet, ..) = both(UDP)[0].clone();
        put(&mut packet, 6, 0x2000);
        put(&mut packet, 24, claimed);
        assert_eq!(parse(packet.as_slice()).is_ok(), claimed >= 24, "{claimed}");
        let mut packet = v6(HERE, THERE, &[(FRAGMENT, 0)], transport(UDP, 1, 443, 0)).bytes;
        put(&mut packet, 52, claimed);
        assert_eq!(parse(packet.as_slice()).is_ok(), claimed >= 24, "{claimed}");
        // Of a fragment that is the only one, nothing follows.
        packet[43] = 0;
        assert_eq!(parse(packet.as_slice()).is_ok(), claimed == 24, "{claimed}");
    }
}

#[test]
fn a_reset_is_bare_when_it_carries_nothing() {
    for (mut bytes, _, transport) in both(TCP) {
        bytes[transport + 13] = TCP_RST;
        let whole = parse(bytes.as_slice()).unwrap();
        assert!(!whole.is_bare_reset(), "it has four bytes behind its header");
        bytes[transport + 12] = 6 << 4;
        assert!(parse(bytes.as_slice()).unwrap().is_bare_reset());
        bytes.push(0);
        assert!(!parse(bytes.as_slice()).unwrap().is_bare_reset(), "a tail that no length claims");
    }
}
