//! Packets and frames that no honest socket sends.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::place::{ALLOWED, ALLOWED_V6, FAR_MAC, FORGED, POD, POD_MAC, POD_V6, PORT, REFUSED};

const UDP: u8 = 17;
const SOURCE_PORT: u16 = 4000;
/// Don't look, pass on: an option of no effect.
const NO_OPERATION: u8 = 1;
/// In units of 8 bytes.
const FRAGMENT_OFFSET: u16 = 185;

pub(super) const IPV4: u16 = 0x0800;
/// Set aside for experiments on one's own network.
pub(super) const EXPERIMENTAL: u16 = 0x88b5;

/// A UDP packet to the allowed place.
pub(super) fn plain(payload: &[u8]) -> Vec<u8> {
    ipv4(POD, ALLOWED, 0, &[], &udp(PORT, payload))
}

/// One to the place that is not.
pub(super) fn refused(payload: &[u8], port: u16) -> Vec<u8> {
    ipv4(POD, REFUSED, 0, &[], &udp(port, payload))
}

/// One from an address that is nobody's.
pub(super) fn forged(payload: &[u8]) -> Vec<u8> {
    ipv4(FORGED, ALLOWED, 0, &[], &udp(PORT, payload))
}

/// One with IPv4 options.
pub(super) fn with_options(payload: &[u8]) -> Vec<u8> {
    ipv4(POD, ALLOWED, 0, &[NO_OPERATION; 4], &udp(PORT, payload))
}

/// A later fragment, of which nobody saw the first.
pub(super) fn later_fragment(payload: &[u8]) -> Vec<u8> {
    ipv4(POD, ALLOWED, FRAGMENT_OFFSET, &[], payload)
}

/// A UDP packet to the allowed place over IPv6.
pub(super) fn plain_v6(payload: &[u8]) -> Vec<u8> {
    ipv6(UDP, &udp(PORT, payload))
}

/// One with a routing header that has been followed to its end.
pub(super) fn with_routing_header(payload: &[u8]) -> Vec<u8> {
    const ROUTING: u8 = 43;
    // Type 253 is set aside for experiments.
    let mut rest = vec![UDP, 0, 253, 0, 0, 0, 0, 0];
    rest.extend(udp(PORT, payload));
    ipv6(ROUTING, &rest)
}

/// An Ethernet frame to the far end.
pub(super) fn frame(ethertype: u16, content: &[u8]) -> Vec<u8> {
    [&FAR_MAC[..], &POD_MAC, &ethertype.to_be_bytes(), content].concat()
}

/// The same in a VLAN.
pub(super) fn tagged(content: &[u8]) -> Vec<u8> {
    const VLAN: u16 = 0x8100;
    const NUMBER: u16 = 5;
    frame(VLAN, &[&NUMBER.to_be_bytes()[..], &IPV4.to_be_bytes(), content].concat())
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = short(8 + payload.len());
    let mut packet = Vec::new();
    // Without a checksum, which IPv6 does not take; but nobody is to read it.
    for field in [SOURCE_PORT, port, length, 0] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend(payload);
    packet
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, fragment: u16, options: &[u8], content: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let version_and_length = 0x40 | u8::try_from(header / 4).unwrap_or(0);
    let mut packet = vec![version_and_length, 0];
    for field in [short(header + content.len()), 1, fragment] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend([64, UDP, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(options);
    let checksum = checksum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(content);
    packet
}

fn ipv6(next: u8, content: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(short(content.len()).to_be_bytes());
    packet.extend([next, 64]);
    let (source, destination): (Ipv6Addr, Ipv6Addr) = (POD_V6, ALLOWED_V6);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(content);
    packet
}

fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// All of these packets are short.
fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_to_nothing() {
        for packet in [plain(b"x"), with_options(b"x"), later_fragment(b"x")] {
            let header = usize::from(packet[0] & 0xf) * 4;
            assert_eq!(checksum(&packet[..header]), 0);
        }
    }
}
