//! Packets: well made, then spoilt a little, and noise.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::random::Random;

const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const GRE: u8 = 47;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const NOTHING: u8 = 59;
const OPTIONS: u8 = 60;

const EXTENSIONS: [u8; 8] = [HOP_BY_HOP, ROUTING, FRAGMENT, 50, AUTHENTICATION, NOTHING, OPTIONS, 135];
const TRANSPORTS: [u8; 6] = [TCP, UDP, ICMP, ICMPV6, GRE, NOTHING];
/// More than are walked.
const LONGEST_CHAIN: usize = 10;

/// Places inside and beside what the policies of `both` name.
const V4: [[u8; 4]; 10] = [
    [10, 0, 0, 1],
    [10, 9, 0, 1],
    [10, 10, 0, 0],
    [10, 255, 255, 255],
    [11, 0, 0, 0],
    [192, 0, 2, 7],
    [127, 0, 0, 1],
    [169, 254, 169, 254],
    [0, 0, 0, 0],
    [255, 255, 255, 255],
];
const V6: [&str; 9] =
    ["fd00::1", "fd00:9::1", "fdff::1", "fe00::", "2001:db8::7", "::1", "::", "::ffff:10.0.0.1", "ff02::1"];
const PORTS: [u16; 8] = [0, 53, 79, 80, 443, 8080, 8090, 65535];

/// Every chain of up to three extension headers, each in front of every transport.
pub(crate) fn chains() -> impl Iterator<Item = Vec<u8>> {
    let kinds = EXTENSIONS.len();
    let lists = (0..=3).flat_map(move |length: u32| {
        (0..kinds.pow(length)).map(move |number| {
            (0..length).map(|place| EXTENSIONS[number / kinds.pow(place) % kinds]).collect::<Vec<_>>()
        })
    });
    lists.flat_map(|list| {
        TRANSPORTS.map(|transport| {
            let mut random = Random::new(u64::from(transport));
            let payload = payload(&mut random, transport);
            v6(&mut random, &list, transport, payload)
        })
    })
}

/// Packets without an end.
pub(crate) struct Packets(Random);

impl Packets {
    pub(crate) const fn new(random: Random) -> Self {
        Self(random)
    }
}

impl Iterator for Packets {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let random = &mut self.0;
        Some(match random.below(8) {
            0 => noise(random),
            1..4 => made(random),
            _ => {
                let mut packet = made(random);
                for _ in 0..=random.below(3) {
                    spoil(random, &mut packet);
                }
                packet
            }
        })
    }
}

fn noise(random: &mut Random) -> Vec<u8> {
    let length = 1 + random.below(120);
    let mut packet = random.bytes(length);
    match random.below(3) {
        0 => packet[0] = 0x45,
        1 => packet[0] = 0x60 | packet[0] & 15,
        _ => {}
    }
    packet
}

fn made(random: &mut Random) -> Vec<u8> {
    let transport = if random.one_in(8) { random.byte() } else { random.of(&TRANSPORTS) };
    let payload = payload(random, transport);
    if random.one_in(2) {
        return v4(random, transport, payload);
    }
    let length = if random.one_in(2) { 0 } else { random.below(LONGEST_CHAIN) };
    // Mostly those that are walked: a chain is as long as its first other one.
    let extensions: Vec<u8> = (0..length)
        .map(|_| {
            if random.one_in(12) {
                random.of(&EXTENSIONS)
            } else {
                random.of(&[HOP_BY_HOP, OPTIONS, FRAGMENT])
            }
        })
        .collect();
    v6(random, &extensions, transport, payload)
}

fn payload(random: &mut Random, transport: u8) -> Vec<u8> {
    let length = 20 + random.below(60);
    let mut payload = random.bytes(length);
    if matches!(transport, TCP | UDP) {
        for at in [0, 2] {
            put(&mut payload, at, random.of(&PORTS));
        }
    }
    match transport {
        TCP => payload[12] = 5 << 4 | payload[12] & 15,
        UDP => put(&mut payload, 4, length as u16),
        ICMP | ICMPV6 => payload[0] = random.of(&[0, 3, 8, 128, 129, 133]),
        _ => {}
    }
    payload
}

fn v4(random: &mut Random, protocol: u8, payload: Vec<u8>) -> Vec<u8> {
    let mut packet = random.bytes(20);
    packet[0] = 0x45;
    put(&mut packet, 2, (20 + payload.len()) as u16);
    // Whole, or the first of several.
    put(&mut packet, 6, random.of(&[0, 0x4000, 0x2000]));
    packet[9] = protocol;
    for at in [12, 16] {
        if !random.one_in(4) {
            packet[at..at + 4].copy_from_slice(&Ipv4Addr::from(random.of(&V4)).octets());
        }
    }
    packet.extend(payload);
    packet
}

fn v6(random: &mut Random, extensions: &[u8], protocol: u8, payload: Vec<u8>) -> Vec<u8> {
    let mut packet = random.bytes(40);
    packet[0] = 0x60 | packet[0] & 15;
    packet[6] = extensions.first().copied().unwrap_or(protocol);
    for at in [8, 24] {
        if !random.one_in(4) {
            let place: Ipv6Addr = random.of(&V6).parse().expect("an address");
            packet[at..at + 16].copy_from_slice(&place.octets());
        }
    }
    let following = extensions.iter().skip(1).copied().chain([protocol]);
    for (kind, next) in extensions.iter().zip(following) {
        let units = if *kind == FRAGMENT { 0 } else { random.below(3) as u8 };
        let mut header = random.bytes(8 + 8 * usize::from(units));
        (header[0], header[1]) = (next, units);
        if *kind == FRAGMENT {
            // The only one, or the first of several.
            put(&mut header, 2, random.of(&[0, 1, 6]));
        }
        packet.extend(header);
    }
    packet.extend(payload);
    let length = (packet.len() - 40) as u16;
    put(&mut packet, 4, length);
    packet
}

fn spoil(random: &mut Random, packet: &mut Vec<u8>) {
    match random.below(6) {
        0 => packet.truncate(1 + random.below(packet.len())),
        1 => {
            let length = random.below(40);
            packet.extend(random.bytes(length));
        }
        // The length of the packet.
        2 if packet.len() > 6 => {
            let at = if packet[0] >> 4 == 4 { 2 } else { 4 };
            let length = random.below(packet.len() + 40) as u16;
            put(packet, at, if random.one_in(4) { 0 } else { length });
        }
        // Something near the end of the headers.
        3 => {
            let at = random.below(packet.len().min(72));
            packet[at] = random.byte();
        }
        4 => {
            let at = random.below(packet.len());
            packet[at] ^= 1 << random.below(8);
        }
        // A small step of some byte: lengths in words, offsets of fragments, the next header.
        _ => {
            let at = random.below(packet.len());
            packet[at] = packet[at].wrapping_add(random.of(&[1, 2, 8, 0xff]));
        }
    }
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
