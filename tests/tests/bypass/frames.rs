//! Whole frames: made by hand and put on the wire past the IP stack.

use anyhow::Result;

use super::ground::Wiring;
use super::way::Way;

/// Each sends one frame to either far host.
fn packet_socket(send: &str) -> Result<()> {
    Way {
        program: &format!("{send}\nfor place in [ALLOWED, REFUSED]:\n    send(udp_packet(OWN, place))\n"),
        frames: [1, 1],
        counted: &[("socket_type", 2)],
        ..Way::DEFAULT
    }
    .try_out()
}

#[test]
fn a_packet_socket() -> Result<()> {
    packet_socket(
        "
made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
made.bind(('eth0', 0))
send = lambda packet: made.send(frame(packet))",
    )
}

#[test]
fn a_packet_socket_past_the_queueing_discipline() -> Result<()> {
    packet_socket(
        "
made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
made.bind(('eth0', 0))
made.setsockopt(263, 20, 1)
send = lambda packet: made.send(frame(packet))",
    )
}

#[test]
fn a_packet_socket_of_datagrams() -> Result<()> {
    packet_socket(
        "
made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
send = lambda packet: made.sendto(packet, ('eth0', int.from_bytes(ETHERTYPE, 'big'), 0, 0, GATEWAY))",
    )
}

/// The kind that there was before AF_PACKET: (AF_INET, SOCK_PACKET).
#[test]
fn a_packet_socket_of_the_oldest_kind() -> Result<()> {
    packet_socket(
        "
made = socket.socket(socket.AF_INET, 10, socket.htons(3))
def send(packet):
    sent, to = frame(packet), struct.pack('=H14s', 2, b'eth0')
    if libc.sendto(made.fileno(), sent, len(sent), 0, to, len(to)) < 0:
        raise OSError(ctypes.get_errno(), 'sendto')",
    )
}

#[test]
fn a_packet_socket_with_a_ring() -> Result<()> {
    packet_socket(
        "
made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
made.bind(('eth0', 0))
made.setsockopt(263, 13, struct.pack('IIII', 4096, 4, 2048, 8))
ring, slots = mmap.mmap(made.fileno(), 4 * 4096), iter(range(8))
def send(packet):
    # A header of TPACKET_V1, with the frame behind it, and then the word that hands the slot over.
    at, bytes_ = next(slots) * 2048, frame(packet)
    ring[at + 8:at + 12] = struct.pack('I', len(bytes_))
    ring[at + 32:at + 32 + len(bytes_)] = bytes_
    ring[at:at + 8] = struct.pack('L', 1)
    made.send(b'')",
    )
}

/// An AF_XDP socket on eth0, and what queues frames in its ring.
const EXPRESS: &str = "
made = socket.socket(44, socket.SOCK_RAW, 0)
memory = mmap.mmap(-1, 16 * 4096)
at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
made.setsockopt(283, 4, struct.pack('QQIIII', at, 16 * 4096, 4096, 0, FLAGS, METADATA))
for ring in [5, 6, 3]:
    made.setsockopt(283, ring, struct.pack('I', 16))
offsets = struct.unpack('16Q', made.getsockopt(283, 1, 128))
producer, descriptors = offsets[4], offsets[6]
ring = mmap.mmap(made.fileno(), descriptors + 16 * 16, offset=0x80000000)
bind = struct.pack('=HHIII', 44, 1 << 1, socket.if_nametoindex('eth0'), 0, 0)
if libc.bind(made.fileno(), bind, len(bind)) != 0:
    raise OSError(ctypes.get_errno(), 'bind')
def send(*frames, metadata=b'', options=0):
    for slot, sent in enumerate(frames):
        begin = slot * 4096 + METADATA
        memory[slot * 4096:begin] = metadata
        memory[begin:begin + len(sent)] = sent
        ring[descriptors + 16 * slot:descriptors + 16 * slot + 16] = struct.pack('QII', begin, len(sent), options)
    ring[producer:producer + 4] = struct.pack('I', len(frames))
    say(libc.sendto(made.fileno(), None, 0, 0x40, None, 0), ctypes.get_errno())
";

#[test]
fn an_express_data_path_socket() -> Result<()> {
    let program = "send(*[frame(udp_packet(OWN, place)) for place in [ALLOWED, REFUSED]])";
    Way {
        program: &format!("FLAGS, METADATA = 0, 0\n{EXPRESS}\n{program}"),
        frames: [1, 1],
        counted: &[("socket_type", 2)],
        ..Way::DEFAULT
    }
    .try_out()
}

/// Since Linux 6.8 such a socket can ask for a checksum wherever it likes. Filled in on the way out of the node, this one
/// puts another port into a frame that was addressed to the allowed one.
#[test]
fn a_checksum_over_the_destination() -> Result<()> {
    let program = "
at = 34 if V == 4 else 54
send(frame(udp_packet(OWN, ALLOWED)), metadata=struct.pack('QHHxxxxQ', 2, at, 2, 0), options=2)";
    Way {
        program: &format!("FLAGS, METADATA = 4, 24\n{EXPRESS}\n{program}"),
        frames: [1, 0],
        counted: &[("socket_type", 1)],
        ..Way::DEFAULT
    }
    .try_out()
}

/// Where the node's end is a port of a bridge, what is refused reaches no other port.
#[test]
fn a_packet_socket_behind_a_bridge() -> Result<()> {
    Way {
        wiring: Wiring::Bridged,
        program: "
made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
made.bind(('eth0', 0))
made.send(frame(udp_packet(OWN, REFUSED), to=b'\\xff' * 6))",
        frames: [1, 1],
        counted: &[("socket_type", 1)],
        ..Way::DEFAULT
    }
    .try_out()
}

/// Frames that come out of a tap device, so that no packet socket has sent them.
fn from_a_tap(frames: &str, arriving: [usize; 2], counted: &[(&str, u64)]) -> Result<()> {
    Way {
        wiring: Wiring::Bridged,
        program: &format!(
            "made, everybody = tap(), b'\\xff' * 6\nfor sent in [{frames}]:\n    os.write(made, sent)\n"
        ),
        frames: arriving,
        counted,
        ..Way::DEFAULT
    }
    .try_out()
}

#[test]
fn frames_with_a_tag_or_of_another_kind() -> Result<()> {
    let frames = "
        frame(b'\\0\\x05' + ETHERTYPE + udp_packet(OWN, ALLOWED), b'\\x81\\0', everybody),
        frame(b'\\0\\x05\\x81\\0\\0\\x06' + ETHERTYPE + udp_packet(OWN, ALLOWED), b'\\x88\\xa8', everybody),
        frame(MARK + bytes(60), b'\\x88\\xb5', everybody),
        frame(b'\\0\\0\\x11\\xff' + udp_packet(OWN, ALLOWED), b'\\x88\\x47', everybody),
        frame(MARK + bytes(60), b'\\x88\\xcc', everybody),
        frame(MARK + bytes(60), b'\\0\\x40', everybody)";
    from_a_tap(frames, [6, 6], &[("protocol_not_allowed", 6)])
}

#[test]
fn data_in_arp() -> Result<()> {
    let frames = "
        frame(bytes.fromhex('0001080006040001') + LINK + bytes(4) + bytes(6) + bytes(4) + MARK, b'\\x08\\x06', everybody),
        frame(bytes.fromhex('0001080006040001') + MARK[:20] + MARK, b'\\x08\\x06', everybody)";
    from_a_tap(frames, [2, 2], &[("protocol_not_allowed", 2)])
}

#[test]
fn a_foreign_source_and_a_frame_that_looks_inbound() -> Result<()> {
    let frames = "
        frame(udp_packet('10.77.9.9' if V == 4 else 'fd77:9::9', ALLOWED), to=everybody),
        frame(udp_packet(ALLOWED, OWN), to=everybody),
        frame(udp_packet(OWN, OWN), to=everybody)";
    from_a_tap(frames, [3, 3], &[("source_spoofed", 3)])
}
