//! Packets that the pod sends on for somebody else: at its own interface they have no socket and no cgroup any more.

use anyhow::Result;

use super::way::Way;

/// A nested namespace with a wire into the pod's. Its frames are made by hand, so that no program of a cgroup sees them.
///
/// What its kernel says by itself is held back: the control sockets of a namespace belong to the cgroup of whoever made it,
/// so that its neighbour discovery is judged and counted as the workload's.
const NESTED: &str = "
near, far, length = ('192.168.77.1', '192.168.77.2', '24') if V == 4 else ('fd99::1', 'fd99::2', '64 nodad')
outer, inner = '02:00:00:00:00:01', '02:00:00:00:00:02'
def body():
    shell('nft \"table inet t { chain c { type filter hook output priority 0; policy drop; }; }\"',
          f'ip addr add {far}/{length} dev eth0', 'ip link set dev eth0 up')
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.bind(('eth0', 0))
    head = bytes.fromhex((outer + inner).replace(':', '')) + ETHERTYPE
    for place in [ALLOWED, REFUSED]:
        made.send(head + udp_packet(far, place))
    shell('ip link del dev eth0')
child, go_on = in_a_nested_namespace(body)
shell(f'ip link add name in{V} address {outer} type veth peer name eth0 address {inner} netns {child}',
      f'ip addr add {near}/{length} dev in{V}', f'ip link set dev in{V} up')
sysctl(all__forwarding=1)";

#[test]
fn from_a_nested_namespace() -> Result<()> {
    Way {
        program: &format!("{NESTED}\ngo_on()\nended(child)"),
        frames: [1, 1],
        counted: &[("source_spoofed", 2)],
        ..Way::DEFAULT
    }
    .try_out()
}

#[test]
fn from_a_nested_namespace_with_its_source_translated() -> Result<()> {
    let table =
        "table {IP} t {{ chain c {{ type nat hook postrouting priority 100; oifname eth0 masquerade; }}; }}";
    Way {
        program: &format!(
            "IP = 'ip' if V == 4 else 'ip6'\n{NESTED}\nshell(f\"nft '{table}'\")\ngo_on()\nended(child)\n\
             shell('nft flush ruleset')"
        ),
        frames: [1, 1],
        approved: [1, 0],
        counted: &[("not_allowlisted", 1)],
        quarantined: Some(&[("quarantined", 2)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// Packets out of a tun device, with the own source and with another.
#[test]
fn from_a_tun_device() -> Result<()> {
    Way {
        program: "
made = tun()
for place in [ALLOWED, REFUSED]:
    for source in [OWN, '192.168.7.7' if V == 4 else 'fd99::7']:
        os.write(made, udp_packet(source, place))",
        frames: [2, 2],
        approved: [1, 0],
        counted: &[("not_allowlisted", 1), ("source_spoofed", 2)],
        quarantined: Some(&[("quarantined", 2), ("source_spoofed", 2)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// **Open**, and said so: with CAP_NET_ADMIN a packet without a socket can ask for a checksum over its own destination. It is
/// judged by what stands there before, and the checksum is filled in when it leaves the node.
#[test]
fn a_checksum_over_the_destination_without_a_socket() -> Result<()> {
    Way {
        program: "
opened = tap(flags=0x4000)
at = 34 if V == 4 else 54
os.write(opened, struct.pack('=BBHHHH', 1, 0, 0, 0, at, 2) + frame(udp_packet(OWN, ALLOWED)))",
        frames: [1, 0],
        approved: [1, 0],
        quarantined: Some(&[("quarantined", 1)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// **Open** where the pod forwards IPv6, and said so: a frame that is put on `lo` is forwarded with the checksum that it asks
/// for. IPv4 takes no packet from `lo` that has an own source.
#[test]
fn a_checksum_over_the_destination_by_loopback() -> Result<()> {
    Way {
        versions: &[6],
        program: "
sysctl(all__forwarding=1)
made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
made.setsockopt(263, 15, 1)
made.bind(('lo', 0))
made.send(struct.pack('=BBHHHH', 1, 0, 0, 0, 54, 2) + bytes(12) + ETHERTYPE + udp_packet(OWN, ALLOWED))",
        frames: [1, 0],
        approved: [1, 0],
        quarantined: Some(&[("quarantined", 1)]),
        ..Way::DEFAULT
    }
    .try_out()
}
