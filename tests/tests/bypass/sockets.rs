//! Sockets that came from elsewhere or whose cgroup is gone, and sockets that write their own headers.

use anyhow::Result;

use super::ground::Wiring;
use super::way::Way;

/// In audit a packet is counted where its socket is judged, and not once more on the wire.
const ONCE: Option<&[(&str, u64)]> = Some(&[("not_allowlisted", 1)]);

/// A datagram to either far host; only the one that is not allowed is refused.
const BOTH: &str = "
for place in [ALLOWED, REFUSED]:
    say(how(lambda: made.sendto(MARK, (place, 80))))";

/// Refuses one of two datagrams.
fn one_of_two(program: &str, outside: bool, audited: Option<&[(&str, u64)]>) -> Result<()> {
    Way {
        program: &format!("{program}\n{BOTH}"),
        outside,
        frames: [1, 1],
        approved: [1, 0],
        counted: &[("not_allowlisted", 1)],
        audited,
        quarantined: Some(&[("quarantined", 2)]),
        ..Way::DEFAULT
    }
    .try_out()
}

const JOIN: &str = "open(CGROUP + '/cgroup.procs', 'w').write('0')";

#[test]
fn a_process_that_moved_in_with_its_sockets() -> Result<()> {
    one_of_two(&format!("made = socket.socket(FAMILY, socket.SOCK_DGRAM)\n{JOIN}"), true, None)
}

#[test]
fn a_socket_made_elsewhere_and_passed_in() -> Result<()> {
    let program = format!(
        "
near, far = socket.socketpair()
if os.fork() == 0:
    passed = socket.socket(FAMILY, socket.SOCK_DGRAM)
    socket.send_fds(far, [b'here'], [passed.fileno()])
    os._exit(0)
{JOIN}
made = socket.socket(fileno=socket.recv_fds(near, 9, 1)[1][0])
os.wait()"
    );
    one_of_two(&program, true, None)
}

#[test]
fn a_process_that_moved_out() -> Result<()> {
    let program = "
made = socket.socket(FAMILY, socket.SOCK_DGRAM)
open(os.path.dirname(CGROUP) + '/cgroup.procs', 'w').write('0')";
    one_of_two(program, false, ONCE)
}

#[test]
fn a_socket_made_after_moving_out() -> Result<()> {
    let program = "
open(os.path.dirname(CGROUP) + '/cgroup.procs', 'w').write('0')
made = socket.socket(FAMILY, socket.SOCK_DGRAM)";
    one_of_two(program, false, None)
}

#[test]
fn a_socket_whose_cgroup_is_gone() -> Result<()> {
    let program = "
below = f'{CGROUP}/below{V}'
os.mkdir(below)
open(below + '/cgroup.procs', 'w').write('0')
made = socket.socket(FAMILY, socket.SOCK_DGRAM)
open(CGROUP + '/cgroup.procs', 'w').write('0')
os.rmdir(below)";
    one_of_two(program, false, ONCE)
}

/// `clone3(CLONE_INTO_CGROUP)`.
#[test]
fn a_child_born_in_another_cgroup() -> Result<()> {
    let program = "
above = os.open(os.path.dirname(CGROUP), os.O_RDONLY | os.O_DIRECTORY)
arguments = struct.pack('11Q', 0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, above)
child = libc.syscall(435, ctypes.c_char_p(arguments), len(arguments))
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert open('/proc/thread-self/cgroup').read().splitlines()[-1] != ''
made = socket.socket(FAMILY, socket.SOCK_DGRAM)";
    one_of_two(program, false, None)
}

#[test]
fn a_source_written_by_hand() -> Result<()> {
    Way {
        program: "hand_made((udp_packet('10.77.9.9' if V == 4 else 'fd77:9::9', ALLOWED), ALLOWED))",
        frames: [1, 0],
        counted: &[("source_spoofed", 1)],
        quarantined: Some(&[("quarantined", 1)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// The address that is given to `sendto` chooses the road, the header says whither.
#[test]
fn a_header_that_names_another_place_than_the_road() -> Result<()> {
    Way {
        program: "hand_made((udp_packet(OWN, REFUSED), ALLOWED))",
        frames: [0, 1],
        counted: &[("not_allowlisted", 1)],
        quarantined: Some(&[("quarantined", 1)]),
        audited: ONCE,
        ..Way::DEFAULT
    }
    .try_out()
}

/// **Open**, and said so: whoever shares the link can be handed a packet that is addressed to an allowed place.
#[test]
fn an_on_link_neighbour_is_handed_what_is_addressed_elsewhere() -> Result<()> {
    Way {
        wiring: Wiring::Bridged,
        program: "
shell(f'ip -{V} route replace {REFUSED} dev eth0')
hand_made((udp_packet(OWN, ALLOWED), REFUSED))",
        frames: [0, 1],
        approved: [0, 1],
        quarantined: Some(&[("quarantined", 1)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// Data in the very first segment.
#[test]
fn fast_open() -> Result<()> {
    Way {
        program: "
made = socket.socket(FAMILY, socket.SOCK_STREAM)
made.setsockopt(socket.IPPROTO_TCP, 34, 1)
made.settimeout(1)
say(how(lambda: made.sendto(MARK, 0x20000000, (REFUSED, 80))))",
        frames: [0, 1],
        counted: &[("not_allowlisted", 1)],
        quarantined: Some(&[("quarantined", 1)]),
        audited: ONCE,
        ..Way::DEFAULT
    }
    .try_out()
}

/// The family of the destination is 0, which IPv4 takes for its own.
#[test]
fn a_destination_without_a_family() -> Result<()> {
    Way {
        versions: &[4],
        program: "
made = socket.socket(FAMILY, socket.SOCK_DGRAM)
place = struct.pack('=H', 0) + struct.pack('!H4s8x', 80, socket.inet_aton(REFUSED))
say(libc.sendto(made.fileno(), MARK, len(MARK), 0, place, len(place)))",
        frames: [0, 1],
        counted: &[("not_allowlisted", 1)],
        quarantined: Some(&[("quarantined", 1)]),
        audited: ONCE,
        ..Way::DEFAULT
    }
    .try_out()
}

/// The same send, queued in a ring that the kernel works off.
#[test]
fn a_submission_ring() -> Result<()> {
    Way {
        program: "
parameters = ctypes.create_string_buffer(120)
ring = libc.syscall(425, 4, parameters)
if ring < 0:
    raise OSError(ctypes.get_errno(), 'io_uring_setup')
fields = struct.unpack('30I', parameters.raw)
tail, array_ = fields[11], fields[16]
queue = mmap.mmap(ring, array_ + 16)
entries = mmap.mmap(ring, 4 * 64, offset=0x10000000)
made = socket.socket(FAMILY, socket.SOCK_DGRAM)
place = (struct.pack('=H', 2) + struct.pack('!H4s8x', 80, socket.inet_aton(REFUSED)) if V == 4 else
         struct.pack('=H', 10) + struct.pack('!HI16sI', 80, 0, socket.inet_pton(FAMILY, REFUSED), 0))
name, data = ctypes.create_string_buffer(place), ctypes.create_string_buffer(MARK)
vector = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(data), len(MARK)))
message = ctypes.create_string_buffer(struct.pack('QIxxxxQQQQIxxxx', ctypes.addressof(name), len(place), ctypes.addressof(vector), 1, 0, 0, 0))
entries[:64] = struct.pack('BBHiQQIIQ24x', 9, 0, 0, made.fileno(), 0, ctypes.addressof(message), 1, 0, 7)
queue[array_:array_ + 4] = struct.pack('I', 0)
queue[tail:tail + 4] = struct.pack('I', 1)
say(libc.syscall(426, ring, 1, 1, 1, None, 0))",
        frames: [0, 1],
        counted: &[("not_allowlisted", 1)],
        quarantined: Some(&[("quarantined", 1)]),
        audited: ONCE,
        ..Way::DEFAULT
    }
    .try_out()
}
