//! Headers that name more than one destination, or hide what follows.

use anyhow::Result;

use super::way::Way;

#[test]
fn options_of_ipv4_by_a_socket() -> Result<()> {
    Way {
        versions: &[4],
        program: "
refused = socket.inet_aton(REFUSED)
kinds = {'loose': bytes([131, 7, 4]) + refused + b'\\0', 'alert': bytes([148, 4, 0, 0]), 'route': bytes([7, 11, 4]) + bytes(9)}
def sent(options):
    made = socket.socket(FAMILY, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IP, 4, options)
    made.sendto(MARK, (ALLOWED, 80))
say(*[how(lambda: sent(options)) for options in kinds.values()])",
        says: Some("EPERM EPERM EPERM"),
        // A router that is asked to route by source drops that one.
        frames: [2, 0],
        counted: &[("ip_options", 3)],
        quarantined: Some(&[("quarantined", 3)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// A segment routing header, and two kinds of options, which lead nowhere else and are walked over.
#[test]
fn extension_headers_by_a_socket() -> Result<()> {
    Way {
        versions: &[6],
        program: "
p = lambda place: socket.inet_pton(FAMILY, place)
def sent(option, value, place):
    made = socket.socket(FAMILY, socket.SOCK_DGRAM)
    made.setsockopt(41, option, value)
    made.sendto(MARK, (place, 80))
padding = bytes([0, 0, 1, 4, 0, 0, 0, 0])
say(how(lambda: sent(57, bytes([0, 4, 4, 1, 1, 0, 0, 0]) + p(REFUSED) + p(ALLOWED), ALLOWED)))
say(*[how(lambda: sent(option, padding, place)) for option in [54, 59] for place in [ALLOWED, REFUSED]])",
        says: Some("EPERM\nok EPERM ok EPERM"),
        frames: [3, 2],
        approved: [2, 0],
        counted: &[("not_allowlisted", 2), ("routing_header", 1)],
        quarantined: Some(&[("quarantined", 5)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// A route that wraps or extends each packet on its way out.
#[test]
fn segment_routing_by_a_route() -> Result<()> {
    Way {
        versions: &[6],
        program: "
made = socket.socket(FAMILY, socket.SOCK_DGRAM)
for mode in ['encap', 'inline']:
    shell(f'ip -6 route add {ALLOWED} encap seg6 mode {mode} segs {REFUSED} dev eth0 via {OWN[:-1]}1')
    say(how(lambda: made.sendto(MARK, (ALLOWED, 80))))
    shell(f'ip -6 route del {ALLOWED}')",
        frames: [0, 2],
        counted: &[("routing_header", 2)],
        quarantined: Some(&[("quarantined", 2)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// What belongs to a packet whose beginning nobody saw, from a raw socket that the policy opens.
#[test]
fn fragments_with_an_offset() -> Result<()> {
    Way {
        program: "
body = datagram(4000, 80, MARK)
def fragment(at, more):
    if V == 4:
        return ipv4(OWN, ALLOWED, 17, body, fragment=more << 13 | at)
    return ipv6(OWN, ALLOWED, 44, struct.pack('!BBHI', 17, 0, at << 3 | more, 7) + body)
hand_made(*[(fragment(at, more), ALLOWED) for at, more in [(1, 0), (1, 1), (8191, 0)]])",
        frames: [3, 0],
        counted: &[("fragment", 3)],
        ..Way::DEFAULT
    }
    .try_out()
}

/// The same where no cgroup's program looks, and a route that a source prescribes.
fn by_frames(version: u8, packet: &str, counted: &[(&str, u64)]) -> Result<()> {
    Way {
        versions: &[version],
        program: &format!("made, body = tap(), datagram(4000, 80, MARK)\nos.write(made, frame({packet}))"),
        frames: [1, 0],
        counted,
        ..Way::DEFAULT
    }
    .try_out()
}

#[test]
fn options_of_ipv4_by_frames() -> Result<()> {
    let packet = "ipv4(OWN, ALLOWED, 17, body, ihl=6, options=bytes([148, 4, 0, 0]))";
    by_frames(4, packet, &[("ip_options", 1)])
}

#[test]
fn a_routing_header_by_frames() -> Result<()> {
    let header = "bytes([17, 2, 2, 1, 0, 0, 0, 0]) + socket.inet_pton(FAMILY, REFUSED)";
    by_frames(6, &format!("ipv6(OWN, ALLOWED, 43, {header} + body)"), &[("routing_header", 1)])
}

#[test]
fn a_fragment_with_an_offset_by_frames() -> Result<()> {
    by_frames(4, "ipv4(OWN, ALLOWED, 17, body, fragment=9)", &[("fragment", 1)])?;
    let fragment = "ipv6(OWN, ALLOWED, 44, struct.pack('!BBHI', 17, 0, 9 << 3, 7) + body)";
    by_frames(6, fragment, &[("fragment", 1)])
}
