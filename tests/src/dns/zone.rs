//! The names of the laboratory: everything below `test`, which no resolver outside ever hears of.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Family;

/// Every record but those of the load test.
const RECORDS: &str = "\
$ORIGIN test.
$TTL 300
@               SOA   ns root 1 3600 600 86400 60
@               NS    ns
ns              A     10.77.2.2
files.index     A     11.77.1.1
files.index     AAAA  2a77::1:1
four.index      A     11.77.1.2
six.index       AAAA  2a77::1:2
alias.index     CNAME middle.cdn
middle.cdn      CNAME edge.cdn
edge.cdn        A     11.77.1.3
edge.cdn        AAAA  2a77::1:3
*.wild          A     11.77.1.4
*.wild          AAAA  2a77::1:4
hints.index     HTTPS 1 . alpn=h2 ipv4hint=11.77.1.5 ipv6hint=2a77::1:5
service.index   SVCB  1 hints.index port=443 ipv4hint=11.77.1.5 ipv6hint=2a77::1:5
other.index     A     11.77.1.6
other.index     AAAA  2a77::1:6
short.index 1   A     11.77.1.7
short.index 1   AAAA  2a77::1:7
private.corp    A     10.99.1.1
private.corp    AAAA  fd99::1:1
mixed.corp      A     11.77.1.8
mixed.corp      A     10.99.1.8
mixed.corp      AAAA  2a77::1:8
mixed.corp      AAAA  fd99::1:8
metadata.corp   A     169.254.169.254
metadata.corp   AAAA  fd00:ec2::254
loopback.corp   A     127.0.0.1
loopback.corp   AAAA  ::1
link.corp       A     169.254.7.7
link.corp       AAAA  fe80::7
mapped.corp     AAAA  ::ffff:11.77.1.9
translated.corp AAAA  64:ff9b::a9fe:a9fe
multicast.corp  A     224.0.0.7
multicast.corp  AAAA  ff02::7
refused         A     11.77.9.9
refused         AAAA  2a77::9:9
index.packages  A     11.77.1.21
index.packages  AAAA  2a77::1:21
files.packages  A     11.77.1.22
files.packages  AAAA  2a77::1:22
";

/// How many addresses `many.index.test` has: more than 512 bytes hold.
pub const MANY: u16 = 60;
/// How many `full.index.test` has, of either kind: the answer is close below [`super::EDNS_LIMIT`].
pub const FULL: (u16, u16) = (250, 142);
/// How many `huge.index.test` has: over [`super::EDNS_LIMIT`].
pub const HUGE: u16 = 300;

/// The address of a name that the zone gives the last number `number`: of `files.index.test` it is 1.
#[must_use]
pub fn served(family: Family, number: u16) -> IpAddr {
    crowd(family, 1, number)
}

/// The n-th of the many addresses of one name.
fn crowd(family: Family, group: u16, number: u16) -> IpAddr {
    match family {
        Family::V4 => {
            let base = Ipv4Addr::new(11, 77, 0, 0).to_bits();
            Ipv4Addr::from(base + (u32::from(group) << 8) + u32::from(number)).into()
        }
        // As the records above write them: the decimal digits, read as hexadecimal ones.
        Family::V6 => {
            let digits = u16::from_str_radix(&number.to_string(), 16).unwrap_or(u16::MAX);
            Ipv6Addr::new(0x2a77, 0, 0, 0, 0, 0, group, digits).into()
        }
    }
}

/// The zone as a file.
pub(super) fn text() -> String {
    let mut text = RECORDS.to_owned();
    for (name, group, fours, sixes) in
        [("many", 2, MANY, MANY), ("full", 3, FULL.0, FULL.1), ("huge", 4, HUGE, HUGE)]
    {
        for (family, kind, count) in [(Family::V4, "A", fours), (Family::V6, "AAAA", sixes)] {
            for number in 1..=count {
                // Writing to a string cannot fail.
                writeln!(text, "{name}.index {kind} {}", crowd(family, group, number)).ok();
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_one_that_the_zone_gives() {
        let text = text();
        for (name, number) in [("files.index", 1), ("edge.cdn", 3), ("index.packages", 21)] {
            for (family, kind) in [(Family::V4, "A"), (Family::V6, "AAAA")] {
                let address = served(family, number).to_string();
                let found = text.lines().any(|line| {
                    line.split_whitespace().collect::<Vec<_>>() == [name, kind, address.as_str()]
                });
                assert!(found, "{name} {address}");
            }
        }
    }
}
