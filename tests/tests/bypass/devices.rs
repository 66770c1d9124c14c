//! Interfaces that root makes inside and by which frames go to `eth0`, or past it.
//!
//! The kernel at hand has macvlan, bridge, veth, ifb, tun and VXLAN; what other kinds put around a packet is tried by
//! frames in [`super::kinds`].

use anyhow::Result;

use super::way::Way;

/// Another address on the link, the same of IP, the same wire.
#[test]
fn a_macvlan_on_the_interface() -> Result<()> {
    Way {
        program: "
made = tap(wire=False)
for kind in ['macvlan mode bridge', 'macvlan mode private', 'macvtap mode vepa']:
    shell(f'ip link add link eth0 name second type {kind}', 'ip link set dev second up')
    redirect('egress', 'second')
    for place in [ALLOWED, REFUSED]:
        os.write(made, GATEWAY + mac('second') + ETHERTYPE + udp_packet(OWN, place))
    shell('ip link del dev second')",
        frames: [3, 3],
        approved: [3, 0],
        counted: &[("not_allowlisted", 3)],
        quarantined: Some(&[("quarantined", 6)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// Frames of another namespace, or of a device, that a bridge inside sends on by `eth0`.
#[test]
fn a_bridge_inside() -> Result<()> {
    Way {
        program: "
made = tap(wire=False)
shell('ip link add name bridge0 type bridge', 'ip link set dev bridge0 up', f'ip link set dev tap{V} master bridge0',
      'ip link set dev eth0 master bridge0')
for source in [LINK, bytes.fromhex('020000000077')]:
    for place in [ALLOWED, REFUSED]:
        os.write(made, GATEWAY + source + ETHERTYPE + udp_packet(OWN, place))
shell('ip link del dev bridge0')",
        frames: [2, 2],
        approved: [2, 0],
        counted: &[("not_allowlisted", 2)],
        quarantined: Some(&[("quarantined", 4)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// What leaves a socket approved, and is then led to where there is no wire; and then one that is not. An ifb gives back what
/// it is given.
#[test]
fn packets_led_elsewhere() -> Result<()> {
    Way {
        program: "
made = socket.socket(FAMILY, socket.SOCK_DGRAM)
shell('ip link add name sink type ifb', 'ip link set dev sink up', 'ip link add name one type veth peer name two',
      'ip link set dev one up', 'ip link set dev two up', 'tc qdisc add dev eth0 clsact',
      # Nothing waits until the neighbour is found, which is led elsewhere as well.
      f'ip neigh replace {OWN[:-1]}1 lladdr ' + GATEWAY.hex(':') + ' dev eth0')
for target in ['egress redirect dev lo', 'ingress redirect dev lo', 'egress redirect dev sink', 'egress redirect dev one']:
    shell(f'tc filter add dev eth0 egress protocol all prio 1 u32 match u32 0 0 action mirred {target}')
    say(how(lambda: made.sendto(MARK, (ALLOWED, 80))))
    shell('tc filter del dev eth0 egress prio 1')
shell('tc qdisc del dev eth0 clsact', 'ip link del dev one', 'ip link del dev sink')
say(how(lambda: made.sendto(MARK, (ALLOWED, 80))))",
        says: Some("ok\nok\nok\nok\nok"),
        frames: [2, 0],
        approved: [2, 0],
        quarantined: Some(&[("quarantined", 5)]),
        ..Way::DEFAULT
    }
    .try_out()
}
