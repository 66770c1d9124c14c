//! What passes on the link without a policy has no byte to choose but the addresses that it is about.

use std::collections::BTreeSet;
use std::ops::Range;

use egress_warden_common::link::{arp, neighbour};
use egress_warden_common::packet::parse;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OWN: [u8; 16] = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const PEER: [u8; 16] = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const GROUP: [u8; 16] = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1];

fn v6(next: u8, hops: u8, destination: [u8; 16], payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    let mut bytes = vec![0x60, 0, 0, 0, high, low, next, hops];
    bytes.extend(OWN);
    bytes.extend(destination);
    bytes.extend(payload);
    bytes
}

fn discovery(kind: u8, flags: u8, destination: [u8; 16], target: Option<[u8; 16]>, option: u8) -> Vec<u8> {
    let mut message = vec![kind, 0, 0x12, 0x34, flags, 0, 0, 0];
    message.extend(target.into_iter().flatten());
    message.extend([option, 1]);
    message.extend(MAC);
    v6(58, 255, destination, &message)
}

fn report(message: &[u8]) -> Vec<u8> {
    v6(0, 1, GROUP, &[&[58, 0, 5, 2, 0, 0, 1, 0], message].concat())
}

fn passes(bytes: &[u8]) -> bool {
    parse(bytes).is_ok_and(|packet| neighbour(bytes, &packet, MAC).is_some())
}

/// Where some other bit still passes.
fn free(honest: &[u8], passes: impl Fn(&[u8]) -> bool) -> BTreeSet<usize> {
    assert!(passes(honest));
    let changed = (0..honest.len() * 8).filter(|bit| {
        let mut bytes = honest.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        passes(&bytes)
    });
    changed.map(|bit| bit / 8).collect()
}

fn places(ranges: &[Range<usize>]) -> BTreeSet<usize> {
    ranges.iter().cloned().flatten().collect()
}

const SOURCE: Range<usize> = 8..24;
const CHECKSUM: Range<usize> = 42..44;
const TARGET: Range<usize> = 48..64;
/// Of a group nothing but its first byte says that it is one.
const ANY_GROUP: Range<usize> = 25..40;

#[test]
fn neighbour_discovery_carries_nothing_but_addresses() {
    let asks = discovery(135, 0, GROUP, Some(PEER), 1);
    assert_eq!(free(&asks, passes), places(&[SOURCE, ANY_GROUP, CHECKSUM, TARGET]));
    let probes = discovery(135, 0, PEER, Some(PEER), 1);
    // Who asks one host asks for that host. (Its first byte is two bits from that of a group, which may be asked for any.)
    assert_eq!(free(&probes, passes), places(&[SOURCE, 24..25, CHECKSUM]));
    let answers = discovery(136, 0x60, PEER, Some(OWN), 2);
    let flags = BTreeSet::from([44]);
    let addresses = places(&[SOURCE, 24..40, CHECKSUM, TARGET]);
    assert_eq!(free(&answers, passes), &addresses | &flags);
    let solicits = discovery(133, 0, GROUP, None, 1);
    assert_eq!(free(&solicits, passes), places(&[SOURCE, ANY_GROUP, CHECKSUM]));
}

#[test]
fn a_listener_report_carries_groups_and_no_more() {
    let first = report(&[&[131, 0, 0x12, 0x34, 0, 0, 0, 0][..], &GROUP].concat());
    let checksum = 50..52;
    assert_eq!(free(&first, passes), places(&[SOURCE, ANY_GROUP, checksum.clone(), 56..72]));
    let second = report(&[&[143, 0, 0x12, 0x34, 0, 0, 0, 1, 4, 0, 0, 0][..], &GROUP].concat());
    assert_eq!(free(&second, passes), places(&[SOURCE, ANY_GROUP, checksum, 56..76]));
    let with_source = report(&[&[143, 0, 0x12, 0x34, 0, 0, 0, 1, 3, 0, 0, 1][..], &GROUP, &PEER].concat());
    assert!(!passes(&with_source));
}

#[test]
fn nothing_hides_behind_the_end() {
    for mut bytes in [
        discovery(135, 0, GROUP, Some(PEER), 1),
        discovery(136, 0x60, PEER, Some(OWN), 2),
        report(&[&[131, 0, 0, 0, 0, 0, 0, 0][..], &GROUP].concat()),
    ] {
        bytes.push(0);
        assert!(!passes(&bytes), "a tail that the header does not claim");
    }
}

#[test]
fn arp_carries_nothing_but_addresses() {
    let message = |kind: u8, other: [u8; 6]| {
        let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, kind];
        bytes.extend(MAC);
        bytes.extend([10, 77, 0, 2]);
        bytes.extend(other);
        bytes.extend([10, 77, 0, 1]);
        bytes
    };
    let passes = |bytes: &[u8]| arp(bytes, OTHER, MAC, 14 + bytes.len() as u32).is_some();
    assert_eq!(free(&message(1, [0; 6]), passes), places(&[14..18, 24..28]));
    assert_eq!(free(&message(2, OTHER), passes), places(&[14..18, 24..28]));
    assert!(!passes(&message(2, [9; 6])), "an answer goes to the one that it is for");
}
