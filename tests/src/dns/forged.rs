//! Datagrams put on the loopback interface as whole frames, so that no socket of the sender's is asked.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::sys;

const UDP: u8 = 17;

/// Sends one on `lo` of the calling thread's network namespace.
///
/// # Errors
/// Without CAP_NET_RAW, or when the places are of two IP versions.
pub fn on_loopback(source: SocketAddr, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let index = sys::interface_index("lo")?;
    sys::send(&sys::packet_socket(index)?, &frame(source, to, payload).ok_or(io::ErrorKind::InvalidInput)?)
}

/// The frame. Loopback's hardware addresses are all zeros.
fn frame(source: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(8 + payload.len()).ok()?;
    let mut udp =
        [source.port().to_be_bytes(), to.port().to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    udp.extend(payload);
    let mut frame = vec![0; 12];
    match (source.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + length).to_be_bytes());
            header.extend([0, 1, 0, 0, 64, UDP, 0, 0]);
            header.extend([source.octets(), to.octets()].concat());
            let sum = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            frame.extend([0x08, 0x00]);
            frame.extend(header);
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            let addresses = [source.octets(), to.octets()].concat();
            let pseudo = [&addresses[..], &[0, 0], &length.to_be_bytes(), &[0, 0, 0, UDP], &udp].concat();
            let sum = checksum(&pseudo).to_be_bytes();
            udp[6..8].copy_from_slice(&sum);
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([UDP, 64]);
            frame.extend(addresses);
        }
        _ => return None,
    }
    frame.extend(udp);
    Some(frame)
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Direction, Frame};

    #[test]
    fn a_frame_is_read_as_it_was_made() {
        for (source, to) in [("10.77.2.2:53", "10.77.1.2:4000"), ("[fd77:2::2]:53", "[fd77:1::2]:4000")] {
            let (source, to): (SocketAddr, SocketAddr) = (source.parse().unwrap(), to.parse().unwrap());
            let read = Frame::parse(Direction::In, &frame(source, to, b"odd").unwrap());
            assert!(read.is_udp() && read.is_to(to), "{read:?}");
            assert_eq!((read.source, read.source_port), (Some(source.ip()), Some(53)));
            assert_eq!(read.payload, b"odd");
        }
        assert_eq!(frame("10.77.2.2:53".parse().unwrap(), "[::1]:1".parse().unwrap(), b""), None);
    }
}
