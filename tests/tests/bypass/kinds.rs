//! Sockets of other kinds than TCP and UDP, over IP and beside it.

use anyhow::{Result, ensure};
use egress_warden_tests::job::outsider;
use egress_warden_tests::wait::DEADLINE;
use egress_warden_tests::{Direction, Frame};

use super::ground::{Ground, OPEN, Pod, Wiring};
use super::way::Way;

/// A ping socket that sends to either far host, once with `sendto` and once connected.
const PING: &str = "
open('/proc/sys/net/ipv4/ping_group_range', 'w').write('0 2147483647')
protocol, echo = (1, 8) if V == 4 else (58, 128)
request = struct.pack('!BBHHH', echo, 0, 0, 0, 7) + MARK
for place in [ALLOWED, REFUSED]:
    made = socket.socket(FAMILY, socket.SOCK_DGRAM, protocol)
    say(how(lambda: made.sendto(request, (place, 0))))
    made.connect((place, 0))
    say(how(lambda: made.send(request)))";

#[test]
fn a_ping_socket_where_nothing_opens_icmp() -> Result<()> {
    Way {
        program: PING,
        frames: [2, 2],
        counted: &[("not_allowlisted", 2), ("protocol_not_allowed", 2)],
        quarantined: Some(&[("quarantined", 4)]),
        ..Way::DEFAULT
    }
    .try_out()
}

#[test]
fn a_ping_socket_where_icmp_is_open() -> Result<()> {
    Way {
        open: "{cidrs: [10.77.4.2/32, \"fd77:4::2/128\"], icmp: all, why: test}",
        program: PING,
        frames: [2, 2],
        approved: [2, 0],
        counted: &[("not_allowlisted", 2)],
        quarantined: Some(&[("quarantined", 4)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// UDP-Lite is not made, with the error for which an application falls back. The kernel at hand has neither SCTP nor DCCP
/// nor L2TP; MPTCP is made, for its packets are those of TCP.
#[test]
fn other_protocols_by_a_socket() -> Result<()> {
    Way {
        program: "
def lite(place):
    socket.socket(FAMILY, socket.SOCK_DGRAM, 136).sendto(MARK, (place, 80))
others = [(1, 132), (5, 132), (6, 33), (2, 115), (1, 262)]
made = [how(lambda: socket.socket(FAMILY, *kind)) for kind in others]
say(*[how(lambda: lite(place)) for place in [ALLOWED, REFUSED]], *made)",
        says: Some("EPROTONOSUPPORT EPROTONOSUPPORT EPROTONOSUPPORT ESOCKTNOSUPPORT ESOCKTNOSUPPORT EPROTONOSUPPORT ok"),
        frames: [1, 1],
        counted: &[("socket_type", 2)],
        audited: Some(&[("not_allowlisted", 1), ("protocol_not_allowed", 1), ("socket_type", 2)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// UDP-Lite, SCTP, DCCP, L2TP, GRE, tunnels of IP in IP, ESP, AH, PIM and one that is nobody's.
#[test]
fn other_protocols_by_frames() -> Result<()> {
    Way {
        program: "
made = tap()
for protocol in [136, 132, 33, 115, 47, 4, 41, 50, 51, 103, 253]:
    for place in [ALLOWED, REFUSED]:
        packet = ipv4(OWN, place, protocol, MARK) if V == 4 else ipv6(OWN, place, protocol, MARK)
        os.write(made, frame(packet))",
        frames: [11, 11],
        counted: &[("not_allowlisted", 11), ("protocol_not_allowed", 11)],
        quarantined: Some(&[("quarantined", 22)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// What root in a container opens by itself: every address family that this kernel has. The programs of a cgroup are asked
/// of AF_INET and AF_INET6 only.
#[test]
fn every_address_family() -> Result<()> {
    /// Stay on the node, or are seen by the backstop; none of them carries anything away by itself.
    const HARMLESS: [&str; 7] = ["UNIX", "INET", "INET6", "NETLINK", "PACKET", "ALG", "XDP"];
    /// Carry data past IP, where somebody is at the other end: `docs/threat-model.md` names them, and so does this list, so
    /// that a family that a kernel brings along is noticed here.
    const STATED: [&str; 10] =
        ["VSOCK", "TIPC", "SMC", "RXRPC", "RDS", "PPPOX", "CAN", "BLUETOOTH", "KEY", "QIPCRTR"];
    let ground = Ground::with(Wiring::Routed, OPEN)?;
    let opened = ground.run(
        Pod::Enforced,
        "
families = {number: name[3:] for name, number in vars(socket).items() if name.startswith('AF_')}
families |= {16: 'NETLINK', 21: 'RDS', 28: 'MPLS', 30: 'TIPC', 33: 'RXRPC', 40: 'VSOCK', 43: 'SMC', 44: 'XDP', 45: 'MCTP'}
def opens(family):
    kinds = [(kind, protocol) for kind in [1, 2, 3, 4, 5, 10] for protocol in [0, 1, 2, 3, 4, 5, 7]]
    return any(how(lambda: socket.socket(family, *kind).close()) == 'ok' for kind in kinds)
say(*[families.get(family, str(family)) for family in range(1, 64) if opens(family)])",
    )?;
    ensure!(opened.contains("PACKET") && opened.contains("XDP"), "root can open what it may: {opened}");
    let unknown = |family: &&str| !HARMLESS.contains(family) && !STATED.contains(family);
    let unknown: Vec<&str> = opened.split_whitespace().filter(unknown).collect();
    ensure!(unknown.is_empty(), "nobody has said yet what these can carry where: {unknown:?}");
    Ok(())
}

/// The far end of an MPTCP connection names a further address, and the kernel connects there by itself: on behalf of no
/// process of the workload, so that it is refused without being asked whither, and counted nowhere.
#[test]
fn a_further_path_of_mptcp() -> Result<()> {
    let ground = Ground::with(Wiring::Routed, OPEN)?;
    let allowed = ground.world.host("allowed");
    allowed.run(["ip", "mptcp", "endpoint", "add", "10.77.5.2", "signal"])?;
    let mut server = outsider(
        allowed,
        "server = listen('', 80, protocol=262)\nsay('ready')\nheld = server.accept(), server.accept(), wait()",
    )?;
    server.expect("ready")?;
    let program = "
shell('ip mptcp limits set subflow 2 add_addr_accepted 2')
def counter(name):
    names, values = [line.split() for line in open('/proc/net/netstat') if line.startswith('MPTcpExt')]
    return int(dict(zip(names, values))[name])
made = tcp(ALLOWED, 80, protocol=262)
made.send(b'hello')
end = time.monotonic() + 5
while time.monotonic() < end and not counter('MPJoinSynTx') + counter('MPJoinSynTxConnectErr'):
    select.select([], [], [], 0.01)
say(counter('MPJoinSynTx'), counter('MPJoinSynTxConnectErr'))";
    let way = Way { program, ..Way::DEFAULT };
    let arrives = |frame: &Frame| frame.direction == Direction::In && frame.is_tcp();
    let before = ground.counts(Pod::Enforced)?;
    let said = ground.run(Pod::Enforced, &way.program(&ground, Pod::Enforced, 4, "")?)?;
    ensure!(said == "0 1", "paths begun and refused: {said}");
    ground.settle()?;
    ensure!(ground.arrived(arrives)[1] == 0 && ground.counts(Pod::Enforced)? == before);
    // The control: who is in no cgroup of a workload begins one, which in audit arrives.
    let said = ground.run_outside(Pod::Audited, &way.program(&ground, Pod::Audited, 4, "")?)?;
    ensure!(said == "1 0", "paths begun and refused: {said}");
    ground.far[1].wait_for(arrives, DEADLINE).map(drop)
}
