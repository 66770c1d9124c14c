//! The verdict on a socket that is being made: only those pass whose packets can be judged.
//!
//! What is not named here is refused, so that a protocol that a later kernel brings is refused as well.

use crate::reason::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Reason};
use crate::ruleset::{Ruleset, Words};

/// Socket type: a stream.
pub const SOCK_STREAM: u32 = 1;
/// Socket type: datagrams.
pub const SOCK_DGRAM: u32 = 2;
/// Socket type: packets with a protocol of one's choice.
pub const SOCK_RAW: u32 = 3;

/// Address family of IPv4.
pub const AF_INET: u32 = 2;
/// Address family of IPv6.
pub const AF_INET6: u32 = 10;

const TCP: u32 = IPPROTO_TCP as u32;
const UDP: u32 = IPPROTO_UDP as u32;
const ICMP: u32 = IPPROTO_ICMP as u32;
const ICMPV6: u32 = IPPROTO_ICMPV6 as u32;
/// TCP over several paths. Its packets are those of TCP.
pub const IPPROTO_MPTCP: u32 = 262;
/// No protocol: a raw socket made with it sends any.
pub const IPPROTO_RAW: u32 = 255;

/// A socket that is being made, in the kernel's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewSocket {
    /// [`AF_INET`] or [`AF_INET6`].
    pub family: u32,
    /// [`SOCK_STREAM`] and its kind.
    pub kind: u32,
    /// The IP protocol, with those beyond 255 that exist for sockets only.
    pub protocol: u32,
}

impl NewSocket {
    /// The protocol as packets carry it; [`IPPROTO_RAW`] for those that no packet carries.
    #[inline(always)]
    #[must_use]
    pub const fn ip_protocol(&self) -> u8 {
        if self.protocol > IPPROTO_RAW { IPPROTO_RAW as u8 } else { self.protocol as u8 }
    }

    #[inline(always)]
    fn is_ping(&self) -> bool {
        matches!((self.family, self.protocol), (AF_INET, ICMP) | (AF_INET6, ICMPV6))
    }
}

/// Decides whether a socket may be made. Where its packets may go is judged when there are packets.
#[inline(always)]
pub fn judge_socket<W: Words + ?Sized>(ruleset: &Ruleset<'_, W>, made: &NewSocket) -> Reason {
    if ruleset.flags().is_none() {
        return Reason::NoRuleset;
    }
    let judged = match made.kind {
        SOCK_STREAM => matches!(made.protocol, TCP | IPPROTO_MPTCP),
        SOCK_DGRAM => made.protocol == UDP || made.is_ping(),
        SOCK_RAW => made.protocol < IPPROTO_RAW && ruleset.opens_raw(made.protocol as u8),
        _ => false,
    };
    if judged { Reason::Allowed } else { Reason::SocketType }
}
