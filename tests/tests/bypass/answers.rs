//! What the kernel sends by itself: an attacker inside can make it answer to whom he likes, by forging who asked.

use anyhow::Result;

use super::way::Way;

/// The pod is asked from inside, in the name of a far host: a closed port, an echo, a datagram that nobody takes, and a
/// listener that answers with cookies. None of it counts as an attempt: outsiders could make any pod do the same.
#[test]
fn answers_to_forged_callers() -> Result<()> {
    Way {
        program: "
open('/proc/sys/net/ipv4/tcp_syncookies', 'w').write('2')
made = tap(wire=False)
for name in ['all', f'tap{V}']:
    open(f'/proc/sys/net/ipv4/conf/{name}/rp_filter', 'w').write('0')
OWN_TAP = bytes.fromhex(os.popen(f'ip -o link show dev tap{V}').read().split('ether ')[1].split()[0].replace(':', ''))
listener = listen(OWN, 7000, FAMILY)
def total(protocol, body):
    addresses = b''.join(socket.inet_pton(FAMILY, place) for place in [REFUSED, OWN])
    return checksum(addresses + struct.pack('!II', len(body), protocol) + body)
def asks(protocol, body, at, pseudo=True):
    check = total(protocol, body) if pseudo else checksum(body)
    body = body[:at] + struct.pack('!H', check) + body[at + 2:]
    packet = ipv4(REFUSED, OWN, protocol, body) if V == 4 else ipv6(REFUSED, OWN, protocol, body)
    os.write(made, frame(packet, to=OWN_TAP))
syn = lambda port: struct.pack('!HHIIBBHHH', 4242, port, 1000, 0, 5 << 4, 2, 65535, 0, 0)
asks(6, syn(7001), 16)
asks(6, syn(7000), 16)
asks(17, datagram(4242, 7001, MARK), 6)
if V == 4:
    asks(1, struct.pack('!BBHHH', 8, 0, 0, 7, 7) + MARK, 2, pseudo=False)
else:
    asks(58, struct.pack('!BBHHH', 128, 0, 0, 7, 7) + MARK, 2)",
        frames: [0, 4],
        unmarked: Some(|_| true),
        ..Way::DEFAULT
    }
    .try_out()
}

/// Data in what looks like such an answer. The tap's own socket tells whose it is, so each is an attempt.
#[test]
fn data_in_answers_of_ones_own_making() -> Result<()> {
    Way {
        program: "
made = tap()
def sent(protocol, body):
    os.write(made, frame(ipv4(OWN, REFUSED, protocol, body) if V == 4 else ipv6(OWN, REFUSED, protocol, body)))
icmp, kinds = (1, [0, 3, 11, 13]) if V == 4 else (58, [129, 1, 3, 4])
for kind in kinds:
    sent(icmp, struct.pack('!BBHHH', kind, 0, 0, 7, 7) + MARK)
for flags in [4, 20, 16, 18, 1]:
    sent(6, struct.pack('!HHIIBBHHH', 80, 4242, 1, 1, 5 << 4, flags, 65535, 0, 0) + MARK)",
        frames: [0, 9],
        counted: &[("not_allowlisted", 9)],
        quarantined: Some(&[("quarantined", 9)]),
        ..Way::DEFAULT
    }
    .try_out()
}
