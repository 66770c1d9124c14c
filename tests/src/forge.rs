//! Datagrams that a program makes by hand instead of having a socket make them: whole frames, or IPv4 packets with a
//! source of its own choice.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};

use crate::frame::Frame;
use crate::sys;

/// The payload of every datagram made here.
const PAYLOAD: &[u8] = b"made by hand";
const SOURCE_PORT: u16 = 4000;
const UDP: u8 = 17;
/// The router looks at the destination only.
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// How far down a program reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// A packet socket: the frame is on the wire as it is.
    Frame,
    /// A raw socket with IP_HDRINCL, which a policy has to open (`raw: [udp]`): the kernel adds the frame only.
    Packet,
}

impl Forgery {
    const NAMES: [(Forgery, &str); 2] = [(Forgery::Frame, "frame"), (Forgery::Packet, "packet")];

    /// The probe's arguments to send this.
    #[must_use]
    pub fn arguments(self, source: Ipv4Addr, to: SocketAddrV4, count: usize) -> [String; 4] {
        let name = Self::NAMES.iter().find(|(forgery, _)| *forgery == self).map_or("", |(_, name)| name);
        [name.to_owned(), source.to_string(), to.to_string(), count.to_string()]
    }

    /// Sends so many from the calling thread's network namespace, on `eth0` and by way of its one neighbour.
    ///
    /// # Errors
    /// Without root, and when the neighbour was never asked for its address.
    pub fn send(self, source: Ipv4Addr, to: SocketAddrV4, count: usize) -> Result<()> {
        let packet = datagram(source, to);
        match self {
            Forgery::Frame => {
                let mut frame = [&neighbour("eth0")?[..], &OWN_MAC, &[0x08, 0x00]].concat();
                frame.extend(packet);
                let index = sys::interface_index("eth0").context("no interface eth0")?;
                let socket = sys::packet_socket(index)?;
                (0..count).try_for_each(|_| sys::send(&socket, &frame)).context("the frame is refused")
            }
            Forgery::Packet => {
                let socket = sys::raw_socket()?;
                let sent = (0..count).try_for_each(|_| match sys::send_to(&socket, &packet, to) {
                    // Whoever refuses it here has refused it.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                    done => done,
                });
                sent.context("the packet cannot be sent")
            }
        }
    }
}

impl FromStr for Forgery {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Forgery> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text);
        found.map(|(forgery, _)| *forgery).ok_or_else(|| anyhow!("nothing to forge: {text}"))
    }
}

/// Was this one made here?
#[must_use]
pub fn is_forged(frame: &Frame) -> bool {
    frame.payload == PAYLOAD
}

fn datagram(source: Ipv4Addr, to: SocketAddrV4) -> Vec<u8> {
    let length = |of: usize| u16::try_from(of).unwrap_or(u16::MAX).to_be_bytes();
    let mut header = vec![0x45, 0];
    header.extend(length(28 + PAYLOAD.len()));
    header.extend([0, 1, 0, 0, 64, UDP, 0, 0]);
    header.extend(source.octets());
    header.extend(to.ip().octets());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    let udp = [SOURCE_PORT.to_be_bytes(), to.port().to_be_bytes(), length(8 + PAYLOAD.len()), [0, 0]];
    [&header, &udp.concat(), PAYLOAD].concat()
}

/// The checksum of a header of even length.
pub(crate) fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    // A header is far too short for a second carry.
    !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or_default()
}

/// The hardware address of the first neighbour on an interface of the calling thread's network namespace.
fn neighbour(interface: &str) -> Result<[u8; 6]> {
    let table = fs::read_to_string("/proc/thread-self/net/arp")?;
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    for row in rows {
        if let [_, _, "0x2", address, _, device] = row[..]
            && device == interface
        {
            let bytes = address.split(':').map(|byte| u8::from_str_radix(byte, 16));
            let bytes = bytes.collect::<Result<Vec<u8>, _>>().with_context(|| address.to_owned())?;
            return bytes.try_into().map_err(|_| anyhow!("{address} is no hardware address"));
        }
    }
    bail!("no neighbour on {interface} has been talked with yet")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Direction;

    #[test]
    fn a_datagram_is_read_as_it_was_made() {
        let to: SocketAddrV4 = "10.77.2.2:80".parse().unwrap();
        let packet = datagram([10, 77, 1, 9].into(), to);
        assert_eq!(checksum(&packet[..20]), 0, "with its own checksum in it");
        let frame = Frame::parse(Direction::In, &[&[0; 12], &[0x08, 0x00][..], &packet].concat());
        assert!(frame.is_udp() && frame.is_to(to.into()) && is_forged(&frame), "{frame:?}");
        assert_eq!(frame.source, Some([10, 77, 1, 9].into()));
    }

    #[test]
    fn a_forgery_survives_its_arguments() {
        for (forgery, _) in Forgery::NAMES {
            let [name, ..] = forgery.arguments([10, 77, 1, 2].into(), "10.77.2.2:80".parse().unwrap(), 1);
            assert_eq!(name.parse::<Forgery>().unwrap(), forgery);
        }
    }
}
