//! Reading a frame: just enough of Ethernet, IP, TCP and UDP to tell whose it is.
//!
//! A reader of its own on purpose, and not the one in `egress-warden-common`: what a test sees on the wire must not
//! depend on the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Which way a frame went, as the interface with the capture sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came in.
    In,
    /// This namespace sent it.
    Out,
}

/// One frame. Fields are those of the outermost header and absent where the frame has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which way it went.
    pub direction: Direction,
    /// The EtherType.
    pub ethertype: u16,
    /// Source address.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: Option<IpAddr>,
    /// The transport protocol's number. IPv6 extension headers are not walked: it is the first next-header.
    pub protocol: Option<u8>,
    /// Source port of TCP and UDP.
    pub source_port: Option<u16>,
    /// Destination port of TCP and UDP.
    pub destination_port: Option<u16>,
    /// The flags byte of TCP.
    pub tcp_flags: Option<u8>,
    /// What follows the transport header, or the IP header where the protocol is another.
    pub payload: Vec<u8>,
    /// The whole frame.
    pub bytes: Vec<u8>,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;

impl Frame {
    /// Reads a frame. What is cut off or unknown is absent, never an error: it still counts as a frame.
    #[must_use]
    pub fn parse(direction: Direction, bytes: &[u8]) -> Frame {
        let ethertype = bytes.get(12..14).map_or(0, be16);
        let mut frame = Frame {
            direction,
            ethertype,
            source: None,
            destination: None,
            protocol: None,
            source_port: None,
            destination_port: None,
            tcp_flags: None,
            payload: Vec::new(),
            bytes: bytes.to_owned(),
        };
        let packet = bytes.get(14..).unwrap_or_default();
        let transport = match ethertype {
            IPV4 => frame.read_ipv4(packet),
            IPV6 => frame.read_ipv6(packet),
            _ => None,
        };
        if let Some(transport) = transport {
            frame.read_transport(transport);
        }
        frame
    }

    fn read_ipv4<'a>(&mut self, packet: &'a [u8]) -> Option<&'a [u8]> {
        let header = packet.get(..20)?;
        let address = |at: usize| -> [u8; 4] { header[at..at + 4].try_into().expect("four bytes") };
        self.source = Some(IpAddr::V4(Ipv4Addr::from(address(12))));
        self.destination = Some(IpAddr::V4(Ipv4Addr::from(address(16))));
        self.protocol = Some(header[9]);
        let is_later_fragment = be16(&header[6..8]) & 0x1fff != 0;
        // The frame may be padded to Ethernet's least length; the packet says where it ends.
        let end = usize::from(be16(&header[2..4])).min(packet.len());
        let start = usize::from(header[0] & 0x0f) * 4;
        if is_later_fragment { None } else { packet.get(start..end) }
    }

    fn read_ipv6<'a>(&mut self, packet: &'a [u8]) -> Option<&'a [u8]> {
        let header = packet.get(..40)?;
        let address = |at: usize| -> [u8; 16] { header[at..at + 16].try_into().expect("sixteen bytes") };
        self.source = Some(IpAddr::V6(Ipv6Addr::from(address(8))));
        self.destination = Some(IpAddr::V6(Ipv6Addr::from(address(24))));
        self.protocol = Some(header[6]);
        let end = (40 + usize::from(be16(&header[4..6]))).min(packet.len());
        packet.get(40..end)
    }

    fn read_transport(&mut self, transport: &[u8]) {
        let mut header_length = 0;
        if matches!(self.protocol, Some(TCP | UDP)) {
            self.source_port = transport.get(0..2).map(be16);
            self.destination_port = transport.get(2..4).map(be16);
            header_length = 8;
        }
        if self.protocol == Some(TCP) {
            self.tcp_flags = transport.get(13).copied();
            header_length = transport.get(12).map_or(usize::MAX, |offset| usize::from(offset >> 4) * 4);
        }
        self.payload = transport.get(header_length..).unwrap_or_default().to_owned();
    }

    /// Whether it is addressed to this place.
    #[must_use]
    pub fn is_to(&self, place: SocketAddr) -> bool {
        self.destination == Some(place.ip()) && self.destination_port == Some(place.port())
    }

    /// Whether it is addressed to this host.
    #[must_use]
    pub fn is_to_host(&self, host: IpAddr) -> bool {
        self.destination == Some(host)
    }

    /// Whether it is TCP.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.protocol == Some(TCP)
    }

    /// Whether it is UDP.
    #[must_use]
    pub fn is_udp(&self) -> bool {
        self.protocol == Some(UDP)
    }
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP datagram 10.77.1.2:4660 to 10.77.2.2:53 with the payload `hi`, padded to Ethernet's least length.
    fn datagram() -> Vec<u8> {
        let mut bytes = vec![0; 12];
        bytes.extend([0x08, 0x00]);
        bytes.extend([0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 1, 2, 10, 77, 2, 2]);
        bytes.extend([0x12, 0x34, 0, 53, 0, 10, 0, 0, b'h', b'i']);
        bytes.resize(60, 0);
        bytes
    }

    #[test]
    fn a_padded_datagram() {
        let frame = Frame::parse(Direction::In, &datagram());
        assert!(frame.is_udp() && frame.is_to("10.77.2.2:53".parse().unwrap()), "{frame:?}");
        assert_eq!(frame.source, Some("10.77.1.2".parse().unwrap()));
        assert_eq!(frame.source_port, Some(0x1234));
        assert_eq!(frame.payload, b"hi");
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut bytes = datagram();
        bytes[14 + 7] = 1;
        let frame = Frame::parse(Direction::In, &bytes);
        assert_eq!((frame.protocol, frame.destination_port), (Some(17), None));
    }

    #[test]
    fn every_cut_is_survived() {
        let bytes = datagram();
        for length in 0..bytes.len() {
            let frame = Frame::parse(Direction::Out, &bytes[..length]);
            assert_eq!(frame.bytes.len(), length);
        }
    }
}
