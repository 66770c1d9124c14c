//! The packet walker: from the first byte of the IP header to the outermost destination, protocol and ports.

use crate::Address;
use crate::limits::MAX_EXTENSION_HEADERS;
use crate::reason::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Reason};

/// Where bytes come from: the socket buffer in the kernel, a slice on the host.
pub trait Bytes {
    /// `N` bytes from `offset` (from the start of the IP header) on, or `None` beyond the end.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// How many bytes there are, from the start of the IP header on. A frame may have been padded, so the packet can end
    /// before.
    fn length(&self) -> u32;
}

impl Bytes for [u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = offset as usize;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
    }

    fn length(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX)
    }
}

/// TCP flag: SYN.
pub const TCP_SYN: u8 = 2;
/// TCP flag: RST.
pub const TCP_RST: u8 = 4;
/// TCP flag: ACK.
pub const TCP_ACK: u8 = 16;

/// What the verdict needs of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Packet {
    /// Source of the outermost header.
    pub source: Address,
    /// Destination of the outermost header.
    pub destination: Address,
    /// IP protocol number behind the extension headers.
    pub protocol: u8,
    /// TCP flags; 0 for other protocols.
    pub tcp_flags: u8,
    /// 1 for the first fragment of a packet that goes on, else 0.
    pub fragment: u8,
    /// 1 for a TCP segment with nothing behind its header, else 0.
    pub bare: u8,
    /// Source port; 0 where the protocol has none.
    pub source_port: u16,
    /// Destination port; the type for ICMP; 0 where the protocol has neither.
    pub port: u16,
}

impl Packet {
    /// A SYN without ACK: it begins a flow.
    #[inline(always)]
    #[must_use]
    pub const fn begins_tcp(&self) -> bool {
        self.protocol == IPPROTO_TCP && self.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    /// A RST, and nothing that it could carry.
    #[inline(always)]
    #[must_use]
    pub const fn is_bare_reset(&self) -> bool {
        self.protocol == IPPROTO_TCP && self.tcp_flags & TCP_RST != 0 && self.bare != 0
    }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Walks the headers. The error is the reason to refuse the packet.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(bytes: &B) -> Result<Packet, Reason> {
    // As much as both versions have. Each load is a call in the kernel, so there are few.
    let header = bytes.load::<20>(0).ok_or(Reason::Malformed)?;
    let network = match header[0] >> 4 {
        4 => parse_v4(bytes, &header)?,
        6 => parse_v6(bytes)?,
        _ => return Err(Reason::Malformed),
    };
    transport(bytes, &network)
}

/// What the fixed header says, for a packet that [`parse`] refused: whence, whither and which protocol, without ports.
/// `None` where even that cannot be read. Nothing is allowed by it; it makes a refusal tell more.
#[inline(always)]
pub fn outline<B: Bytes + ?Sized>(bytes: &B) -> Option<Packet> {
    let [first] = bytes.load::<1>(0)?;
    let (source, destination, protocol) = match first >> 4 {
        4 => {
            let header = bytes.load::<20>(0)?;
            (v4_address(&header, 12), v4_address(&header, 16), header[9])
        }
        6 => {
            let header = bytes.load::<40>(0)?;
            (v6_address(&header, 8), v6_address(&header, 24), header[6])
        }
        _ => return None,
    };
    Some(Packet {
        source,
        destination,
        protocol,
        tcp_flags: 0,
        fragment: 0,
        bare: 0,
        source_port: 0,
        port: 0,
    })
}

#[inline(always)]
fn v4_address(header: &[u8; 20], at: usize) -> Address {
    Address::v4(u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
}

#[inline(always)]
fn v6_address(header: &[u8; 40], at: usize) -> Address {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&header[at..at + 16]);
    Address::from_bytes(bytes)
}

/// What stands in front of the transport header.
struct Network {
    source: Address,
    destination: Address,
    protocol: u8,
    /// Offset of the transport header.
    offset: u32,
    /// Offset behind the last byte that the header claims: what a receiver reads.
    end: u32,
    /// The first of several fragments: the rest of the transport's data is not here.
    fragmented: bool,
    /// Larger than the header can say.
    oversized: bool,
}

/// Where the packet ends that claims `claimed` bytes behind its first `before`, and whether it is larger than 16 bits can
/// say. Zero means that for what is handed to the device in one piece to be segmented there ("BIG TCP"), and for
/// jumbograms.
#[inline(always)]
fn end<B: Bytes + ?Sized>(bytes: &B, before: u32, claimed: u16) -> Result<(u32, bool), Reason> {
    let length = bytes.length();
    if claimed == 0 && length > before + u32::from(u16::MAX) {
        return Ok((length, true));
    }
    let end = before + u32::from(claimed);
    if end > length { Err(Reason::Malformed) } else { Ok((end, false)) }
}

#[inline(always)]
fn parse_v4<B: Bytes + ?Sized>(bytes: &B, header: &[u8; 20]) -> Result<Network, Reason> {
    match header[0] & 15 {
        5 => {}
        0..5 => return Err(Reason::Malformed),
        _ => return Err(Reason::IpOptions),
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    if fragment & 0x1fff != 0 {
        return Err(Reason::Fragment);
    }
    let (end, oversized) = end(bytes, 0, u16::from_be_bytes([header[2], header[3]]))?;
    Ok(Network {
        source: v4_address(header, 12),
        destination: v4_address(header, 16),
        protocol: header[9],
        offset: 20,
        end,
        fragmented: fragment & 0x2000 != 0,
        oversized,
    })
}

#[inline(always)]
fn parse_v6<B: Bytes + ?Sized>(bytes: &B) -> Result<Network, Reason> {
    let header = bytes.load::<40>(0).ok_or(Reason::Malformed)?;
    let (source, destination) = (v6_address(&header, 8), v6_address(&header, 24));
    // An IPv4-mapped address never travels in an IPv6 header; whoever puts one there wants it read two ways.
    if destination.as_v4().is_some() || source.as_v4().is_some() {
        return Err(Reason::Malformed);
    }
    let (end, oversized) = end(bytes, 40, u16::from_be_bytes([header[4], header[5]]))?;
    let mut fragmented = false;
    let mut protocol = header[6];
    let mut offset = 40u32;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !matches!(protocol, HOP_BY_HOP | DESTINATION_OPTIONS | FRAGMENT) {
            break;
        }
        let extension = bytes.load::<4>(offset).ok_or(Reason::Malformed)?;
        if protocol == FRAGMENT {
            let field = u16::from_be_bytes([extension[2], extension[3]]);
            if field & 0xfff8 != 0 {
                return Err(Reason::Fragment);
            }
            fragmented |= field & 1 != 0;
            offset += 8;
        } else {
            offset += (u32::from(extension[1]) + 1) * 8;
        }
        protocol = extension[0];
    }
    match protocol {
        ROUTING => Err(Reason::RoutingHeader),
        HOP_BY_HOP | DESTINATION_OPTIONS | FRAGMENT => Err(Reason::Malformed),
        _ => Ok(Network { source, destination, protocol, offset, end, fragmented, oversized }),
    }
}

const TCP_HEADER: u32 = 20;
const UDP_HEADER: u32 = 8;
/// Of every message that is defined, in both versions.
const ICMP_HEADER: u32 = 8;

#[inline(always)]
fn transport<B: Bytes + ?Sized>(bytes: &B, network: &Network) -> Result<Packet, Reason> {
    let Network { source, destination, protocol, offset, end, .. } = *network;
    let fragment = u8::from(network.fragmented);
    let mut packet =
        Packet { source, destination, protocol, tcp_flags: 0, fragment, bare: 0, source_port: 0, port: 0 };
    // Nothing behind the end is believed: a receiver does not read it.
    let Some(rest) = end.checked_sub(offset) else { return Err(Reason::Malformed) };
    match protocol {
        IPPROTO_TCP if rest >= TCP_HEADER => {
            let header = bytes.load::<16>(offset).ok_or(Reason::Malformed)?;
            let length = u32::from(header[12] >> 4) * 4;
            if length < TCP_HEADER || length > rest {
                return Err(Reason::Malformed);
            }
            packet.source_port = u16::from_be_bytes([header[0], header[1]]);
            packet.port = u16::from_be_bytes([header[2], header[3]]);
            packet.tcp_flags = header[13];
            packet.bare = u8::from(length == rest && end == bytes.length());
        }
        IPPROTO_UDP if rest >= UDP_HEADER => {
            let header = bytes.load::<8>(offset).ok_or(Reason::Malformed)?;
            let claimed = u32::from(u16::from_be_bytes([header[4], header[5]]));
            // Of a fragmented datagram the rest follows; else it fills its packet, and hides nothing behind its end.
            if !network.oversized && (claimed < rest || (claimed > rest && !network.fragmented)) {
                return Err(Reason::Malformed);
            }
            packet.source_port = u16::from_be_bytes([header[0], header[1]]);
            packet.port = u16::from_be_bytes([header[2], header[3]]);
        }
        IPPROTO_ICMP | IPPROTO_ICMPV6 if rest >= ICMP_HEADER => {
            let [kind] = bytes.load::<1>(offset).ok_or(Reason::Malformed)?;
            packet.port = u16::from(kind);
        }
        IPPROTO_TCP | IPPROTO_UDP | IPPROTO_ICMP | IPPROTO_ICMPV6 => return Err(Reason::Malformed),
        _ => {}
    }
    Ok(packet)
}

/// The identification of a fragment, first or later: with source, destination and protocol it tells to which packet it
/// belongs. `None` where the packet is none, or hides it behind other extension headers.
#[inline(always)]
pub fn fragment_of<B: Bytes + ?Sized>(bytes: &B) -> Option<u32> {
    let [first] = bytes.load::<1>(0)?;
    if first >> 4 == 4 {
        let [a, b, flags, place] = bytes.load::<4>(4)?;
        let is_fragment = u16::from_be_bytes([flags, place]) & 0x3fff != 0;
        return if is_fragment { Some(u32::from(u16::from_be_bytes([a, b]))) } else { None };
    }
    let [next] = bytes.load::<1>(6)?;
    if next != FRAGMENT {
        return None;
    }
    Some(u32::from_be_bytes(bytes.load::<4>(44)?))
}
