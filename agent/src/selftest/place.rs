//! The small network of the self-test. It exists inside two network namespaces of its own, which lead nowhere else, so its
//! addresses stand in nobody's way: they are those set aside for measurements (RFC 2544) and a local IPv6 prefix.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::kernel::links::Mac;

/// The interface of either namespace.
pub(super) const INTERFACE: &str = "eth0";
pub(super) const POD_MAC: Mac = [0x02, 0x45, 0x57, 0x53, 0x54, 0x01];
pub(super) const FAR_MAC: Mac = [0x02, 0x45, 0x57, 0x53, 0x54, 0x02];

pub(super) const POD: Ipv4Addr = Ipv4Addr::new(198, 18, 71, 1);
/// What the policy allows.
pub(super) const ALLOWED: Ipv4Addr = Ipv4Addr::new(198, 18, 71, 2);
/// What it does not. Somebody is there all the same.
pub(super) const REFUSED: Ipv4Addr = Ipv4Addr::new(198, 18, 71, 3);
/// Nobody's.
pub(super) const FORGED: Ipv4Addr = Ipv4Addr::new(198, 18, 71, 9);
pub(super) const PREFIX: u8 = 24;

pub(super) const POD_V6: Ipv6Addr = v6(1);
pub(super) const ALLOWED_V6: Ipv6Addr = v6(2);
pub(super) const REFUSED_V6: Ipv6Addr = v6(3);
pub(super) const PREFIX_V6: u8 = 64;

/// The port that is allowed.
pub(super) const PORT: u16 = 7;
/// Each way has a port of its own, by which its packets are known that carry nothing.
const FIRST_PORT: u16 = 40_000;

const fn v6(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd45, 0x5753, 0x5400, 0, 0, 0, 0, host)
}

/// What tells the frames of one attempt from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// Of this run.
    pub(super) run: u64,
    /// Which way.
    pub(super) way: u8,
}

impl Token {
    /// The payload of an attempt.
    pub(super) fn attempt(self) -> [u8; 16] {
        self.payload(*b"attempt")
    }

    /// The payload of its control.
    pub(super) fn control(self) -> [u8; 16] {
        self.payload(*b"control")
    }

    fn payload(self, kind: [u8; 7]) -> [u8; 16] {
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&self.run.to_be_bytes());
        payload[8] = self.way;
        payload[9..].copy_from_slice(&kind);
        payload
    }

    /// The port that this way goes to where it is not allowed.
    pub(super) fn port(self) -> u16 {
        FIRST_PORT + u16::from(self.way)
    }

    /// Where this way must not get to.
    pub(super) fn refused(self) -> SocketAddr {
        (REFUSED, self.port()).into()
    }

    pub(super) fn refused_v6(self) -> SocketAddr {
        (REFUSED_V6, self.port()).into()
    }

    /// Is this a frame of the attempt?
    pub(super) fn is_attempt(self, frame: &[u8]) -> bool {
        contains(frame, &self.attempt()) || tcp_port(frame) == Some(self.port())
    }

    /// Is this a frame of its control?
    pub(super) fn is_control(self, frame: &[u8]) -> bool {
        contains(frame, &self.control())
    }
}

/// Those of the far end.
pub(super) const FAR: [IpAddr; 4] =
    [IpAddr::V4(ALLOWED), IpAddr::V4(REFUSED), IpAddr::V6(ALLOWED_V6), IpAddr::V6(REFUSED_V6)];

fn contains(frame: &[u8], wanted: &[u8]) -> bool {
    frame.windows(wanted.len()).any(|part| part == wanted)
}

/// The destination port of a TCP packet without options or extension headers, which is how the kernel sends them here.
fn tcp_port(frame: &[u8]) -> Option<u16> {
    const TCP: u8 = 6;
    let at = match (frame.get(12..14)?, frame.get(20)?, frame.get(23)?) {
        ([0x08, 0x00], _, &TCP) => 36,
        ([0x86, 0xdd], &TCP, _) => 56,
        _ => return None,
    };
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_known_by_what_it_carries_or_by_its_port() {
        let token = Token { run: 0x0102_0304_0506_0708, way: 5 };
        let other = Token { way: 6, ..token };
        let mut frame = vec![0; 60];
        frame.extend(token.attempt());
        assert!(token.is_attempt(&frame) && !token.is_control(&frame) && !other.is_attempt(&frame));
        let mut segment = vec![0; 60];
        segment[12..14].copy_from_slice(&[0x08, 0x00]);
        segment[23] = 6;
        segment[36..38].copy_from_slice(&40_005_u16.to_be_bytes());
        assert!(token.is_attempt(&segment) && !other.is_attempt(&segment));
        for length in 0..frame.len() {
            assert!(!token.is_attempt(&frame[..length]));
        }
    }
}
