//! Destinations that are written in an unusual way, or are more than one host.

use anyhow::Result;

use super::ground::Wiring;
use super::way::Way;

/// Data in a SYN, a connected datagram socket and one that is not, all of IPv6.
#[test]
fn an_address_of_ipv4_in_one_of_ipv6() -> Result<()> {
    Way {
        versions: &[4],
        program: "
def made(kind):
    return socket.socket(socket.AF_INET6, kind)
def segment_(place):
    fast = made(socket.SOCK_STREAM)
    fast.setsockopt(socket.IPPROTO_TCP, 34, 1)
    fast.sendto(MARK, 0x20000000 | socket.MSG_DONTWAIT, place)
def connected(place):
    bound = made(socket.SOCK_DGRAM)
    bound.connect(place)
    bound.send(MARK)
for place in [ALLOWED, REFUSED]:
    place = ('::ffff:' + place, 80)
    sent = [lambda: segment_(place), lambda: connected(place), lambda: made(socket.SOCK_DGRAM).sendto(MARK, place)]
    say(*[how(one) for one in sent])
say(how(lambda: made(socket.SOCK_STREAM).connect(place)))",
        says: Some("ok ok ok\nEPERM EPERM EPERM\nEPERM"),
        frames: [3, 3],
        approved: [3, 0],
        counted: &[("not_allowlisted", 4)],
        quarantined: Some(&[("quarantined", 7)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// On a shared link they reach every neighbour. 0.0.0.0 is the sender itself.
#[test]
fn broadcast_multicast_and_neighbours() -> Result<()> {
    Way {
        wiring: Wiring::Bridged,
        program: "
made = socket.socket(FAMILY, socket.SOCK_DGRAM)
made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
link = socket.if_nametoindex('eth0')
if V == 4:
    made.setsockopt(socket.IPPROTO_IP, 32, socket.inet_aton(OWN))
    places = ['255.255.255.255', OWN.rsplit('.', 1)[0] + '.255', '224.0.0.1', '239.1.2.3', '0.0.0.0', OWN + '2']
    shell('ip route replace 255.255.255.255/32 dev eth0')
else:
    made.setsockopt(41, 17, link)
    places = ['ff02::1', 'ff02::fb', 'ff05::2', 'ff0e::1234', '::', 'fe80::1']
def address(place):
    if V == 4:
        return place, 80
    return place, 80, 0, link if place.startswith(('ff02', 'fe80')) else 0
say(*[how(lambda: made.sendto(MARK, address(place))) for place in places])",
        // Nobody has the last address, so nobody is sent anything.
        frames: [4, 4],
        counted: &[("not_allowlisted", 5)],
        quarantined: Some(&[("quarantined", 5)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// The port of a service as the source opens nothing, and makes nothing an answer.
#[test]
fn a_source_port_of_a_service() -> Result<()> {
    Way {
        program: "
made = socket.socket(FAMILY, socket.SOCK_DGRAM)
made.bind(('', 53))
for port in [80, 53, 4242]:
    say(*[how(lambda: made.sendto(MARK, (place, port))) for place in [ALLOWED, REFUSED]])",
        says: Some("ok EPERM\nEPERM EPERM\nEPERM EPERM"),
        frames: [3, 3],
        approved: [1, 0],
        counted: &[("not_allowlisted", 3), ("port_not_allowed", 2)],
        quarantined: Some(&[("quarantined", 6)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// Without a copy through user space, and without one at all.
#[test]
fn data_that_is_not_copied() -> Result<()> {
    Way {
        program: "
def to(place):
    made = socket.socket(FAMILY, socket.SOCK_DGRAM)
    made.connect((place, 80))
    return made
def from_a_file(place):
    file = os.memfd_create('payload')
    os.pwrite(file, MARK, 0)
    made = to(place)
    os.sendfile(made.fileno(), file, 0, len(MARK))
def from_a_pipe(place):
    reader, writer = os.pipe()
    os.write(writer, MARK)
    made = to(place)
    os.splice(reader, made.fileno(), len(MARK))
def from_the_page(place):
    made = to(place)
    made.setsockopt(socket.SOL_SOCKET, 60, 1)
    made.send(MARK, 0x4000000)
for place in [ALLOWED, REFUSED]:
    say(*[how(lambda: way(place)) for way in [from_a_file, from_a_pipe, from_the_page]])",
        says: Some("ok ok ok\nEPERM EPERM EPERM"),
        frames: [3, 3],
        approved: [3, 0],
        counted: &[("not_allowlisted", 3)],
        quarantined: Some(&[("quarantined", 6)]),
        ..Way::DEFAULT
    }
    .try_out()
}
