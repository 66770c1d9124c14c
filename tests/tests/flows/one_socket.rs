//! Several processes send from one UDP socket at once: what one of them may do is no help to another.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use anyhow::Result;
use egress_warden_tests::Host;
use egress_warden_tests::job::Allowlists;

use super::world;

/// Two processes write to both allowed places in turn, many datagrams a call. The third one tries the address of the one
/// with the port of the other, through the same socket: connected, so that only egress judges what it sends.
const SENDS: &str = r#"
PLACES = [("10.77.2.2", 1000), ("10.77.3.2", 2000)]
shared = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
shared.connect(("10.77.2.2", 2000))
number, length = shared.fileno(), len(MARK)
names = [struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
         for host, port in PLACES]
payload = ctypes.create_string_buffer(MARK, length)
vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(payload), length))
names = [ctypes.create_string_buffer(name, 16) for name in names]
messages = b"".join(struct.pack("=QI4xQQQQi4xI4x", ctypes.addressof(name), 16, ctypes.addressof(vector), 1, 0, 0, 0, 0)
                    for name in names)
messages = ctypes.create_string_buffer(messages * 32)
processors = sorted(os.sched_getaffinity(0))
read, write = os.pipe()
say("ready")
wait()
end = time.monotonic() + 2
def run(processor):
    os.sched_setaffinity(0, [processor])
    # Where it shares a processor with the one who tries, that one goes first.
    os.nice(19 if processor == processors[0] else 0)
    sent = 0
    while time.monotonic() < end:
        sent += libc.sendmmsg(number, messages, 64, 0)
    os.write(write, struct.pack("q", sent))
    os._exit(0)
for processor in (processors[0], processors[-1]):
    if os.fork() == 0:
        run(processor)
os.sched_setaffinity(0, [processors[0]])
attempts = passed = 0
while time.monotonic() < end:
    for _ in range(100):
        passed += libc.send(number, MARK, length, 0) != -1
    attempts += 100
say(min(struct.unpack("q", os.read(read, 8))[0] for _ in range(2)) > 1000)
say(attempts)
say(passed)
"#;

/// How many datagrams wait there. Each is one that arrived.
fn received(socket: &UdpSocket) -> Result<usize> {
    socket.set_nonblocking(true)?;
    let mut count = 0;
    loop {
        match socket.recv(&mut [0; 100]) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(count),
            Err(error) => return Err(error.into()),
        }
    }
}

#[test]
fn what_is_remembered_of_two_destinations_does_not_mix() -> Result<()> {
    let world = world()?;
    let (job, caller, outside) = (world.host("job"), world.host("caller"), world.host("outside"));
    let bind = |host: &Host, place: SocketAddr| host.enter(|| UdpSocket::bind(place));
    let (first, second) = (bind(caller, caller.at(1000))?, bind(outside, outside.at(2000))?);
    let forbidden = bind(caller, caller.at(2000))?;
    let lists = Allowlists::new(
        &["cidrs: [10.77.2.2/32], ports: [1000/udp]", "cidrs: [10.77.3.2/32], ports: [2000/udp]"],
        &[],
    )?;
    let mut program = lists.start(job, &[], SENDS)?;
    program.expect("ready")?;
    program.tell("go")?;
    program.expect("True")?;
    let refused: u64 = program.line()?.parse()?;
    // What a send that did not fail sent has left.
    program.expect("0")?;
    let report = program.finish()?;
    println!("{refused} attempts, none got out");
    assert!(refused > 1000, "only {refused} attempts");
    assert_eq!(report.refused()?, [("port_not_allowed".to_owned(), refused)].into());
    // The controls: both allowed places got theirs, and the forbidden one would have heard.
    assert!(received(&first)? > 0 && received(&second)? > 0);
    outside.enter(|| UdpSocket::bind("0.0.0.0:0"))?.send_to(b"control", caller.at(2000))?;
    let mut buffer = [0; 100];
    let (length, _) = forbidden.recv_from(&mut buffer)?;
    assert_eq!(&buffer[..length], b"control");
    assert_eq!(received(&forbidden)?, 0);
    Ok(())
}
