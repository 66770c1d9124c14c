//! Names of ICMP message types: one name for both families, where both have the message.

use egress_warden_common::reason::{IPPROTO_ICMP, IPPROTO_ICMPV6};

/// Name, type in ICMP, type in ICMPv6.
const TYPES: &[(&str, Option<u8>, Option<u8>)] = &[
    ("echo-reply", Some(0), Some(129)),
    ("destination-unreachable", Some(3), Some(1)),
    ("source-quench", Some(4), None),
    ("redirect", Some(5), Some(137)),
    ("echo-request", Some(8), Some(128)),
    ("router-advertisement", Some(9), Some(134)),
    ("router-solicitation", Some(10), Some(133)),
    ("time-exceeded", Some(11), Some(3)),
    ("parameter-problem", Some(12), Some(4)),
    ("timestamp-request", Some(13), None),
    ("timestamp-reply", Some(14), None),
    ("packet-too-big", None, Some(2)),
    ("multicast-listener-query", None, Some(130)),
    ("multicast-listener-report", None, Some(131)),
    ("multicast-listener-done", None, Some(132)),
    ("neighbour-solicitation", None, Some(135)),
    ("neighbour-advertisement", None, Some(136)),
];

/// The number of this message in ICMP or ICMPv6; `None` where it has no such message.
#[must_use]
pub fn number(protocol: u8, name: &str) -> Option<u8> {
    let (_, v4, v6) = TYPES.iter().find(|(known, _, _)| *known == name)?;
    of_protocol(protocol, *v4, *v6)
}

/// The name of this message type.
#[must_use]
pub fn name(protocol: u8, number: u16) -> Option<&'static str> {
    let named =
        TYPES.iter().find(|(_, v4, v6)| of_protocol(protocol, *v4, *v6).map(u16::from) == Some(number))?;
    Some(named.0)
}

/// Every name.
pub fn names() -> impl Iterator<Item = &'static str> {
    TYPES.iter().map(|(name, _, _)| *name)
}

fn of_protocol(protocol: u8, v4: Option<u8>, v6: Option<u8>) -> Option<u8> {
    match protocol {
        IPPROTO_ICMP => v4,
        IPPROTO_ICMPV6 => v6,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_belong_together() {
        for protocol in [IPPROTO_ICMP, IPPROTO_ICMPV6] {
            for name_of in names() {
                if let Some(number_of) = number(protocol, name_of) {
                    assert_eq!(name(protocol, u16::from(number_of)), Some(name_of));
                }
            }
        }
        assert_eq!(
            (number(IPPROTO_ICMP, "echo-request"), number(IPPROTO_ICMPV6, "echo-request")),
            (Some(8), Some(128))
        );
        assert_eq!(
            (number(IPPROTO_ICMP, "packet-too-big"), name(17, 8), name(IPPROTO_ICMP, 264)),
            (None, None, None)
        );
    }
}
