//! One address type for both families.

/// An IPv6 address, or an IPv4 address in its IPv4-mapped form (`::ffff:a.b.c.d`).
///
/// Mapping is the representation, so an IPv4-mapped IPv6 address given by an application *is* the IPv4 address that it
/// means: there is no second spelling that a rule could miss.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(C)]
pub struct Address {
    /// The upper 64 bits, in host byte order.
    pub high: u64,
    /// The lower 64 bits, in host byte order.
    pub low: u64,
}

const MAPPED: u64 = 0xffff_0000_0000;

impl Address {
    /// An IPv4 address, from its number in host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn v4(bits: u32) -> Self {
        Self { high: 0, low: MAPPED | bits as u64 }
    }

    /// An address from 16 bytes in network byte order; mapped ones become IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let bits = u128::from_be_bytes(bytes);
        Self { high: (bits >> 64) as u64, low: bits as u64 }
    }

    /// The 16 bytes in network byte order; IPv4 in its mapped form.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        (((self.high as u128) << 64) | self.low as u128).to_be_bytes()
    }

    /// The IPv4 number in host byte order, or `None` for IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn as_v4(self) -> Option<u32> {
        if self.high == 0 && self.low >> 32 == MAPPED >> 32 { Some(self.low as u32) } else { None }
    }

    /// Is it in 127.0.0.0/8, or `::1`?
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        self.high == 0 && (self.low >> 24 == (MAPPED >> 24 | 127) || self.low == 1)
    }

    /// Is it 0.0.0.0 or `::`? Connecting there reaches the own host.
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        self.high == 0 && (self.low == MAPPED || self.low == 0)
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::v4(v4.to_bits()),
            core::net::IpAddr::V6(v6) => Self::from_bytes(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.to_bytes()).to_canonical()
    }
}
