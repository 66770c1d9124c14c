//! Messages that are not what they should be.

use crate::generate::{A, AAAA, CNAME, HTTPS, OPT, SVCB};
use crate::random::Random;

/// Bytes that mean something where names and lengths stand.
const TELLING: &[u8] = &[0, 1, 2, 4, 5, 11, 12, 16, 28, 41, 63, 64, 65, 0x7f, 0x80, 0xbf, 0xc0, 0xc1, 0xff];

/// Changes a message in a few places.
pub(crate) fn spoil(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(12) {
            0 => bytes[at] = random.byte(),
            1 | 2 => bytes[at] = random.of(TELLING),
            3 => bytes[at] ^= 1 << random.below(8),
            4 => bytes[at] = bytes[at].wrapping_add(random.of(&[1, 2, 0xfe, 0xff])),
            5 => bend(random, bytes),
            6 => bytes.truncate(at),
            7 => bytes.extend(random.bytes(1 + at % 4)),
            8 => drop(bytes.drain(at..(at + 1 + random.below(12)).min(bytes.len()))),
            9 => repeat(random, bytes, at),
            10 if bytes.len() > 12 => bytes[random.of(&[4, 5, 6, 7, 8, 9, 10, 11])] ^= random.of(&[1, 2, 3]),
            _ if bytes.len() > 2 => bytes[2] ^= random.of(&[0x02, 0x02, 0x80, 0x08]),
            _ => {}
        }
    }
}

/// Has a pointer point elsewhere.
fn bend(random: &mut Random, bytes: &mut [u8]) {
    let places: Vec<usize> = (12..bytes.len().saturating_sub(1)).filter(|at| bytes[*at] == 0xc0).collect();
    if !places.is_empty() {
        let at = random.of(&places);
        let any = random.below(bytes.len()) as u8;
        bytes[at + 1] = random.of(&[at as u8, (at + 1) as u8, 12, 11, any]);
    }
}

/// Puts some of the bytes in again, somewhere.
fn repeat(random: &mut Random, bytes: &mut Vec<u8>, at: usize) {
    let some = bytes[at..(at + 1 + random.below(40)).min(bytes.len())].to_vec();
    let to = random.below(bytes.len() + 1);
    bytes.splice(to..to, some);
}

/// A message whose header is one, with pieces of messages behind it.
pub(crate) fn soup(random: &mut Random) -> Vec<u8> {
    let mut bytes = random.bytes(2);
    bytes.extend(random.of(&[0x8180_u16, 0x8380, 0x0100]).to_be_bytes());
    for most in [2, 6, 2, 3] {
        let count = if most == 2 { 1 } else { random.below(most) as u16 };
        bytes.extend(count.to_be_bytes());
    }
    for _ in 0..random.below(24) {
        piece(random, &mut bytes);
    }
    bytes
}

fn piece(random: &mut Random, bytes: &mut Vec<u8>) {
    match random.below(8) {
        0 => bytes.push(0),
        1 | 2 => {
            let label = random.of(&[&b"a"[..], b"ab", b"A", b"x.y"]);
            bytes.push(label.len() as u8);
            bytes.extend(label);
        }
        3 | 4 => {
            let any = random.below(bytes.len()) as u8;
            bytes.extend([0xc0, random.of(&[12, 12, 14, any])]);
        }
        5 => bytes.extend([0, 1, 0, 1]),
        6 => {
            let size = random.of(&[4_u16, 4, 16, 2]);
            bytes.extend(random.of(&[A, AAAA, CNAME, OPT, SVCB, HTTPS]).to_be_bytes());
            bytes.extend([0, 1, 0, 0, 0, 60]);
            bytes.extend(size.to_be_bytes());
            bytes.extend(random.bytes(size.into()));
        }
        _ => {
            let length = random.below(6);
            bytes.extend(random.bytes(length));
        }
    }
}
