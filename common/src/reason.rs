//! Why the kernel decided as it did: a closed list, one name each, the same in kernel, metrics, records and docs.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $value:literal, $name:literal;)+) => {
        /// Why a packet or a call was let through or refused.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $doc])+ $variant = $value,)+ }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name used in metrics, records and documentation.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+),)+ }
            }

            /// The reason with this number, as the kernel wrote it into a record.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($value => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// An entry of the allowlist covers it.
    Allowed = 0, "allowed";
    /// It stays on the loopback interface.
    Loopback = 1, "loopback";
    /// It answers a flow that began outside.
    Reply = 2, "reply";
    /// No entry covers the destination.
    NotAllowlisted = 3, "not_allowlisted";
    /// The destination is allowed, on other ports.
    PortNotAllowed = 4, "port_not_allowed";
    /// The destination is allowed, with other protocols.
    ProtocolNotAllowed = 5, "protocol_not_allowed";
    /// The policy's deny list, or a built-in refusal such as instance metadata, covers the destination.
    Denied = 6, "denied";
    /// The entry that allows it has expired, or has a deadline while the clock is not synchronised.
    Expired = 7, "expired";
    /// The workload is in quarantine.
    Quarantined = 8, "quarantined";
    /// No policy is known for the workload.
    Unclassified = 9, "unclassified";
    /// The ruleset could not be read.
    NoRuleset = 10, "no_ruleset";
    /// The policy does not let the workload use the loopback interface.
    LoopbackDenied = 11, "loopback_denied";
    /// The packet's source is not an address of the workload, or its destination is one.
    SourceSpoofed = 12, "source_spoofed";
    /// The packet carries IPv4 options, which can hide where it goes.
    IpOptions = 13, "ip_options";
    /// The packet carries an IPv6 routing header, which hides where it goes.
    RoutingHeader = 14, "routing_header";
    /// The packet is a later fragment, whose ports cannot be seen.
    Fragment = 15, "fragment";
    /// The packet's headers cannot be followed to the end.
    Malformed = 16, "malformed";
    /// A socket of a type or protocol whose packets could not be judged, or a raw one that the policy does not open.
    SocketType = 17, "socket_type";
    /// No entry covers the name that was asked for.
    DnsName = 18, "dns_name";
    /// The name is allowed, but not the type of query.
    DnsType = 19, "dns_type";
    /// A query to an address that is no resolver of the policy.
    DnsServer = 20, "dns_server";
    /// DNS over TCP, whose names cannot be judged.
    DnsTcp = 21, "dns_tcp";
    /// What goes to a resolver is no query that can be judged: not one question, a name too long, or anything more.
    DnsMalformed = 22, "dns_malformed";
    /// An allowed name under a suffix that a resolver library tries by itself; it tries the name alone as well.
    DnsSearch = 23, "dns_search";
}

/// Number of reasons: the size of the counters' first dimension, with room to grow within one ABI version.
pub const REASON_SLOTS: usize = 32;

impl Reason {
    /// Does it let the packet through?
    #[inline(always)]
    #[must_use]
    pub const fn allows(self) -> bool {
        (self as u8) < (Self::NotAllowlisted as u8)
    }
}

/// Protocols as metrics and records name them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP, with MPTCP.
    Tcp = 0,
    /// UDP.
    Udp = 1,
    /// ICMP and ICMPv6.
    Icmp = 2,
    /// Every other IP protocol.
    Other = 3,
}

/// IP protocol number of ICMP.
pub const IPPROTO_ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const IPPROTO_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const IPPROTO_UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const IPPROTO_ICMPV6: u8 = 58;

impl Protocol {
    /// Every protocol, in the order of its number.
    pub const ALL: &'static [Self] = &[Self::Tcp, Self::Udp, Self::Icmp, Self::Other];

    /// From the IP protocol number.
    #[inline(always)]
    #[must_use]
    pub const fn from_ip(number: u8) -> Self {
        match number {
            IPPROTO_TCP => Self::Tcp,
            IPPROTO_UDP => Self::Udp,
            IPPROTO_ICMP | IPPROTO_ICMPV6 => Self::Icmp,
            _ => Self::Other,
        }
    }

    /// The name used in metrics and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Other => "other",
        }
    }
}
