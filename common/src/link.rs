//! What the kernel says on the link by itself: ARP, neighbour discovery and multicast listener reports. None of it is
//! judged by a policy, so none of it may carry more than what it is for: whoever forges one has no byte to choose.

use crate::Address;
use crate::packet::{Bytes, Packet};
use crate::reason::IPPROTO_ICMPV6;

/// Bytes of an Ethernet header.
pub const ETHERNET: u32 = 14;
/// An ARP message in its frame, which nobody pads on its way out of a veth.
const ARP_FRAME: u32 = ETHERNET + 28;

const LISTENER_REPORT: u16 = 131;
const LISTENER_DONE: u16 = 132;
const ROUTER_SOLICITATION: u16 = 133;
const NEIGHBOUR_SOLICITATION: u16 = 135;
const NEIGHBOUR_ADVERTISEMENT: u16 = 136;
const LISTENER_REPORT_2: u16 = 143;

const OWN_LINK_ADDRESS: u8 = 1;
const TARGETS_LINK_ADDRESS: u8 = 2;
const NONCE: u8 = 14;

/// An ARP message over Ethernet that tells nothing but the sender's own addresses and whom it asks for or answers. Gives the
/// IPv4 address that it claims, which may be 0.0.0.0. `bytes` begin with the message; `to` and `mac` are the frame's
/// destination and source, `frame` its length.
#[inline(always)]
pub fn arp<B: Bytes + ?Sized>(bytes: &B, to: [u8; 6], mac: [u8; 6], frame: u32) -> Option<Address> {
    let message = bytes.load::<28>(0)?;
    let is_plain = message[..6] == [0, 1, 8, 0, 6, 4] && message[6] == 0 && matches!(message[7], 1 | 2);
    if !is_plain || message[8..14] != mac || frame != ARP_FRAME {
        return None;
    }
    // Who asks does not know the other's address; who answers sends the frame there.
    let other = if message[7] == 1 { [0; 6] } else { to };
    if message[18..24] != other {
        return None;
    }
    Some(Address::v4(u32::from_be_bytes([message[14], message[15], message[16], message[17]])))
}

/// A neighbour discovery message or a multicast listener report that tells nothing but the sender's own addresses. Gives
/// the address that it claims, which may be `::`; its source is to be checked as well. `packet` was read from `bytes`,
/// which begin with the IPv6 header; `mac` is the frame's source.
#[inline(always)]
pub fn neighbour<B: Bytes + ?Sized>(bytes: &B, packet: &Packet, mac: [u8; 6]) -> Option<Address> {
    if packet.protocol != IPPROTO_ICMPV6 || packet.destination.as_v4().is_some() {
        return None;
    }
    let [version, class, label, rest, high, low, next, hops] = bytes.load::<8>(0)?;
    let length = u32::from(u16::from_be_bytes([high, low]));
    if [version, class, label, rest] != [0x60, 0, 0, 0] || bytes.length() != 40 + length {
        return None;
    }
    let multicast = packet.destination.high >> 56 == 0xff;
    match packet.port {
        LISTENER_REPORT | LISTENER_DONE | LISTENER_REPORT_2 => {
            // Hop limit 1: no router sends it on. In front of it stands a router alert, and nothing else.
            let alert = bytes.load::<8>(40)?;
            let honest = next == 0 && hops == 1 && multicast && alert == [58, 0, 5, 2, 0, 0, 1, 0];
            // Of the second version, groups without sources: 20 bytes each.
            let [_, code, _, _, a, b, c, d] = bytes.load::<8>(48)?;
            let plain = if packet.port == LISTENER_REPORT_2 {
                [code, a, b] == [0; 3] && length == 16 + 20 * u32::from(u16::from_be_bytes([c, d]))
            } else {
                [code, a, b, c, d] == [0; 5] && length == 32
            };
            if honest && plain { Some(packet.source) } else { None }
        }
        _ if next != IPPROTO_ICMPV6 || hops != 255 || !is_plain(bytes, packet.port) => None,
        ROUTER_SOLICITATION => {
            let plain =
                multicast && (length == 8 || (length == 16 && option(bytes, 48, OWN_LINK_ADDRESS, mac)));
            if plain { Some(packet.source) } else { None }
        }
        NEIGHBOUR_SOLICITATION => {
            let target = Address::from_bytes(bytes.load::<16>(48)?);
            let unspecified = packet.source.is_unspecified();
            let plain = length == 24
                || (length == 32
                    && (option(bytes, 64, OWN_LINK_ADDRESS, mac)
                        || (unspecified && multicast && option_kind(bytes, 64) == Some([NONCE, 1]))));
            if plain && (multicast || target == packet.destination) { Some(packet.source) } else { None }
        }
        NEIGHBOUR_ADVERTISEMENT => {
            let plain = length == 24 || (length == 32 && option(bytes, 64, TARGETS_LINK_ADDRESS, mac));
            if plain { Some(Address::from_bytes(bytes.load::<16>(48)?)) } else { None }
        }
        _ => None,
    }
}

/// Is there nothing where nothing has to be? An advertisement has three flags there.
#[inline(always)]
fn is_plain<B: Bytes + ?Sized>(bytes: &B, kind: u16) -> bool {
    let flags = if kind == NEIGHBOUR_ADVERTISEMENT { 0xe0 } else { 0 };
    match bytes.load::<8>(40) {
        Some([_, code, _, _, a, b, c, d]) => [code, a & !flags, b, c, d] == [0; 5],
        None => false,
    }
}

#[inline(always)]
fn option<B: Bytes + ?Sized>(bytes: &B, offset: u32, kind: u8, mac: [u8; 6]) -> bool {
    match bytes.load::<8>(offset) {
        Some(option) => option[0] == kind && option[1] == 1 && option[2..] == mac,
        None => false,
    }
}

#[inline(always)]
fn option_kind<B: Bytes + ?Sized>(bytes: &B, offset: u32) -> Option<[u8; 2]> {
    bytes.load::<2>(offset)
}
