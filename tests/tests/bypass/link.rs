//! What the kernel says on a link by itself, and what can be hidden in it. Neighbours on a shared link hear it; no router
//! sends it on.

use anyhow::{Result, ensure};
use egress_warden_tests::wait::DEADLINE;

use super::ground::{Ground, OPEN, PODS, Pod, Wiring};
use super::way::Way;

/// Sends messages of neighbour discovery, each from a source to a group.
const DISCOVERY: &str = "
made = tap()
p = lambda place: socket.inet_pton(FAMILY, place)
gateway = OWN[:-1] + '1'
def message(source, to, kind, body):
    head, length = struct.pack('!BBH', kind, 0, 0), struct.pack('!II', 4 + len(body), 58)
    check = checksum(p(source) + p(to) + length + head + body)
    sent = struct.pack('!BBH', kind, 0, check) + body
    packet = struct.pack('!IHBB', 6 << 28, len(sent), 58, 255) + p(source) + p(to) + sent
    os.write(made, frame(packet, to=bytes.fromhex('3333ff000001')))
def option(kind, data):
    return bytes([kind, (len(data) + 9) // 8]) + data + bytes(-(len(data) + 2) % 8)
";

/// Advertisements of a foreign address, and data in, between and behind the options of every kind of message.
#[test]
fn data_in_neighbour_discovery() -> Result<()> {
    let messages = "
every, asked, none = 'ff02::1', 'ff02::1:ff00:1', bytes(4)
message(OWN, every, 136, none + p(REFUSED) + option(2, LINK) + MARK)
message(OWN, every, 136, none + p(OWN) + option(2, MARK))
message(OWN, every, 136, none + p(OWN) + option(2, LINK) + option(14, MARK))
message(OWN, asked, 135, none + p(gateway) + option(1, MARK))
message(OWN, asked, 135, none + p(gateway) + option(1, LINK) + MARK)
message('::', asked, 135, none + p(gateway) + option(14, MARK))
message(OWN, 'ff02::2', 133, none + option(1, MARK))
message(OWN, every, 134, bytes(12) + option(1, MARK))
message(OWN, every, 137, none + p(OWN) + p(OWN) + option(4, MARK))";
    Way {
        wiring: Wiring::Bridged,
        versions: &[6],
        program: &format!("{DISCOVERY}{messages}"),
        frames: [9, 9],
        counted: &[("not_allowlisted", 9)],
        quarantined: Some(&[("quarantined", 9)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// Of whoever has a socket each message is judged as any packet is. The kernel's own have none to show.
#[test]
fn a_neighbour_asked_for_by_hand() -> Result<()> {
    Way {
        wiring: Wiring::Bridged,
        versions: &[6],
        program: &format!(
            "{DISCOVERY}
say('mark', MARK[:16].hex())
message(OWN, 'ff02::1:ff00:1', 135, bytes(4) + MARK[:16])"
        ),
        frames: [1, 1],
        counted: &[("not_allowlisted", 1)],
        quarantined: Some(&[("quarantined", 1)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// **Open**, and said so: the address that is asked for, four bytes of one's choice. Those of its Ethernet address are zero
/// in a question, and nothing stands behind it.
#[test]
fn an_address_asked_for_by_arp() -> Result<()> {
    Way {
        wiring: Wiring::Bridged,
        versions: &[4],
        program: "
made, everybody = tap(), b'\\xff' * 6
asked = bytes.fromhex('0001080006040001') + LINK + socket.inet_aton(OWN)
secret = os.urandom(4)
say('mark', (socket.inet_aton(OWN) + bytes(6) + secret).hex())
os.write(made, frame(asked + bytes(6) + secret, b'\\x08\\x06', everybody))",
        frames: [1, 1],
        approved: [1, 1],
        from_quarantine: [1, 1],
        ..Way::DEFAULT
    }
    .try_out()
}

#[test]
fn more_than_an_address_asked_for_by_arp() -> Result<()> {
    Way {
        wiring: Wiring::Bridged,
        versions: &[4],
        program: "
made, everybody = tap(), b'\\xff' * 6
asked = bytes.fromhex('0001080006040001') + LINK + socket.inet_aton(OWN)
target = socket.inet_aton(OWN[:-1] + '1')
say('mark', MARK[:6].hex())
for message in [asked + MARK[:6] + target, asked + bytes(6) + target + MARK[:6] + bytes(12)]:
    os.write(made, frame(message, b'\\x08\\x06', everybody))",
        frames: [2, 2],
        counted: &[("protocol_not_allowed", 2)],
        ..Way::DEFAULT
    }
    .try_out()
}

/// Joining a group tells the link its address: **open** over IPv6, where a report carries 16 bytes of one's choice, and closed
/// over IPv4. How often it is told is the kernel's matter.
#[test]
fn the_address_of_a_group_that_is_joined() -> Result<()> {
    let ground = Ground::with(Wiring::Bridged, OPEN)?;
    for pod in PODS {
        for version in [4, 6] {
            let before = ground.counts(pod)?;
            let program = "
group = socket.inet_aton('239.66.67.%d' % (64 + len(MARK))) if V == 4 else b'\\xff\\x15' + MARK[-14:]
link = struct.pack('I', socket.if_nametoindex('eth0'))
made = socket.socket(FAMILY, socket.SOCK_DGRAM)
made.setsockopt(*(0, 35, group + socket.inet_aton(OWN)) if V == 4 else (41, 20, group + link))
made.close()
say(group.hex())";
            let mark = format!("{} over IPv{version}", pod.name());
            let way = Way { program, ..Way::DEFAULT };
            let said = ground.run(pod, &way.program(&ground, pod, version, &mark)?)?;
            let tells = |frame: &egress_warden_tests::Frame| {
                let bytes: String = frame.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                bytes.contains(&said)
            };
            if version == 6 || pod == Pod::Audited {
                ground.far[0].wait_for(tells, DEADLINE)?;
            }
            ground.settle()?;
            let closed = version == 4 && pod != Pod::Audited;
            ensure!(!closed || ground.arrived(tells) == [0, 0], "{pod:?}, IPv{version}");
            ensure!(ground.counts(pod)? == before, "it is nobody's attempt");
        }
    }
    Ok(())
}
