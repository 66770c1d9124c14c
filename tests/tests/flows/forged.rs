//! An inbound flow that the job forges for itself earns nothing.

use std::net::UdpSocket;

use anyhow::Result;
use egress_warden_tests::job::{Allowlists, outsider};
use egress_warden_tests::probe::Attempt;
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::DEADLINE;

use super::{is_to, settle, wire, world};

/// Raw packets "from outside" to its own servers, over loopback; then the servers' answers.
const OVER_LOOPBACK: &str = r#"
listener = listen("0.0.0.0", 80)
server = udp("0.0.0.0", 70)
server.settimeout(0.3)
raw = raw4()
say("ready")
wait()
for own in ["10.77.1.2", "127.0.0.1"]:
    syn = segment("10.77.3.2", own, 4000, 80, 2)
    ack = segment("10.77.3.2", own, 4000, 80, 16, 1001, 1)
    for packet in [ipv4("10.77.3.2", own, 6, syn), ipv4("10.77.3.2", own, 6, ack),
                   ipv4("10.77.3.2", own, 17, datagram(4000, 70))]:
        say(how(lambda: raw.sendto(packet, (own, 0))))
listener.settimeout(0.3)
say(how(listener.accept), how(lambda: server.recv(100)), how(lambda: server.sendto(MARK, ("10.77.3.2", 4000))))
# The control: with its own address as the source, the same packet arrives.
say(how(lambda: raw.sendto(ipv4("10.77.1.2", "10.77.1.2", 17, datagram(4000, 70)), ("10.77.1.2", 0))))
say(server.recv(100) == MARK)
"#;

#[test]
fn a_raw_socket_over_loopback() -> Result<()> {
    let world = world()?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let wire = wire(&world)?;
    let lists = Allowlists::new(&[], &["raw: [icmp]"])?;
    let mut program = lists.start(job, &["--keep-caps", "NET_RAW,NET_BIND_SERVICE"], OVER_LOOPBACK)?;
    program.expect("ready")?;
    // The listener does answer who really comes from outside.
    let reached = outside.enter(|| std::net::TcpStream::connect_timeout(&job.at(80), DEADLINE))?;
    let port = reached.local_addr()?.port();
    program.tell("go")?;
    for _ in 0..6 {
        program.expect("EPERM")?;
    }
    // The caller from outside is what it accepts, and nobody else.
    program.expect("ok ETIMEDOUT EPERM")?;
    program.expect("ok")?;
    program.expect("True")?;
    let report = program.finish()?;
    // Each packet of a raw socket is an attempt, the ACK behind the SYN as well.
    report.assert_refused(&[("source_spoofed", 6), ("not_allowlisted", 1)]);
    settle(&wire, &world)?;
    let to_forged = wire.count(|frame| is_to(frame, outside) && frame.destination_port != Some(port));
    assert_eq!(to_forged, 0, "nothing left for whom the packets claimed to be from");
    Ok(())
}

/// Somebody else in the namespace, who is under no policy, sends the forged packets: only the arrival can refuse them.
const RECEIVES: &str = r#"
listener = listen("0.0.0.0", 80)
server = udp("0.0.0.0", 70)
say("ready")
wait()
server.settimeout(0.5)
listener.settimeout(0.5)
say(how(listener.accept), how(lambda: server.recv(100)), how(lambda: server.sendto(MARK, ("10.77.3.2", 4000))))
"#;

const SENDS: &str = r#"
for own in ["10.77.1.2", "127.0.0.1"]:
    raw4().sendto(ipv4("10.77.3.2", own, 6, segment("10.77.3.2", own, 4000, 80, 2)), (own, 0))
    raw4().sendto(ipv4("10.77.3.2", own, 17, datagram(4000, 70)), (own, 0))
say("sent")
"#;

#[test]
fn forged_packets_of_a_neighbour_on_loopback_are_dropped_on_arrival() -> Result<()> {
    let world = world()?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let wire = wire(&world)?;
    let lists = Allowlists::new(&[], &[])?;
    let mut program = lists.start(job, &[], RECEIVES)?;
    program.expect("ready")?;
    let mut neighbour = outsider(job, SENDS)?;
    neighbour.expect("sent")?;
    neighbour.finish()?;
    assert_eq!(program.ask("go")?, "ETIMEDOUT ETIMEDOUT EPERM");
    let report = program.finish()?;
    report.assert_refused(&[("not_allowlisted", 1)]);
    assert_eq!(report.note("claimed to come from outside"), 4, "{}", report.errors);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, outside)), 0);
    Ok(())
}

/// The same with an IPv4 option that says nothing: what cannot be read further here is read by the kernel.
const SENDS_WITH_OPTIONS: &str = r#"
nothing = dict(ihl=6, options=bytes([1, 1, 1, 0]))
for own in ["10.77.1.2", "127.0.0.1"]:
    raw4().sendto(ipv4("10.77.3.2", own, 6, segment("10.77.3.2", own, 4000, 80, 2), **nothing), (own, 0))
    raw4().sendto(ipv4("10.77.3.2", own, 17, datagram(4000, 70), **nothing), (own, 0))
# The control: with a source on loopback the kernel does take such a datagram.
raw4().sendto(ipv4("127.0.0.1", "127.0.0.1", 17, datagram(4001, 70), **nothing), ("127.0.0.1", 0))
say("sent")
"#;

#[test]
fn what_cannot_be_read_further_is_forged_all_the_same() -> Result<()> {
    let world = world()?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let wire = wire(&world)?;
    let lists = Allowlists::new(&[], &[])?;
    let mut program = lists.start(job, &[], RECEIVES)?;
    program.expect("ready")?;
    let mut neighbour = outsider(job, SENDS_WITH_OPTIONS)?;
    neighbour.expect("sent")?;
    neighbour.finish()?;
    assert_eq!(program.ask("go")?, "ETIMEDOUT ok EPERM");
    let report = program.finish()?;
    report.assert_refused(&[("not_allowlisted", 1)]);
    assert_eq!(report.note("claimed to come from outside"), 4, "{}", report.errors);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, outside)), 0);
    Ok(())
}

/// Makes two namespaces below a user namespace, has them joined, and calls from one to the other.
const NESTED: &str = r#"
assert libc.unshare(0x10000000 | 0x40000000) == 0
near = os.open("/proc/self/ns/net", os.O_RDONLY)
parent, child = socket.socketpair()
if os.fork() == 0:
    assert libc.unshare(0x40000000) == 0
    builder = socket.socket(socket.AF_UNIX)
    builder.connect("@builder")
    socket.send_fds(builder, [b"x"], [near, os.open("/proc/self/ns/net", os.O_RDONLY)])
    assert builder.recv(9) == b"built"
    child.send(b"built")
    assert child.recv(9) == b"ready"
    def call(kind):
        made = socket.socket(socket.AF_INET, kind)
        made.settimeout(1)
        made.bind(("@far", 4000))
        made.connect(("10.9.0.1", 80))
        made.send(b"call")
        assert made.recv(9) == b"hello"
    child.send(" ".join([how(lambda: call(socket.SOCK_STREAM)), how(lambda: call(socket.SOCK_DGRAM))]).encode())
    os._exit(0)
assert parent.recv(9) == b"built"
listener, server = listen("0.0.0.0", 80), udp("0.0.0.0", 80)
parent.send(b"ready")
def answer():
    made, _ = listener.accept()
    made.sendall(b"hello")
listener.settimeout(1.5)
say(how(answer), how(lambda: server.sendto(b"hello", server.recvfrom(100)[1])))
say(parent.recv(99).decode())
"#;

/// Root outside gives the two namespaces a wire: the jail's own root could do it as well, but not with `ip`, which has
/// no capabilities there. The near end has the number of the job's real uplink.
const BUILDER: &str = r#"
waiting = socket.socket(socket.AF_UNIX)
waiting.bind("@builder")
waiting.listen()
say("ready")
made, _ = waiting.accept()
near, far = socket.recv_fds(made, 9, 2)[1]
def run(namespace, *command):
    subprocess.run(["nsenter", "--net=/proc/self/fd/%d" % namespace, *command], check=True, pass_fds=[near, far])
def ip(namespace, *lines):
    for line in lines:
        run(namespace, "ip", *line.split())
# The kernel's own multicast reports there count as the job's, who made the namespaces.
for namespace in [near, far]:
    run(namespace, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
ip(near, "link add eth0 index @index type veth peer name far0 netns /proc/self/fd/%d" % far)
ip(near, "addr add 10.9.0.1/24 dev eth0", "link set eth0 up", "route add default dev eth0")
ip(far, "addr add @far/32 dev far0", "link set far0 up", "route add default dev far0")
made.send(b"built")
made.recv(1)
"#;

#[test]
fn a_nested_namespace_with_a_private_wire_learns_nothing() -> Result<()> {
    let world = world()?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let wire = wire(&world)?;
    let lists = Allowlists::new(&["cidrs: [10.77.2.2/32, 10.9.0.1/32]"], &[])?;
    let link = String::from_utf8(job.run(["ip", "-oneline", "link", "show", "eth0"])?.stdout)?;
    let index = link.split(':').next().unwrap_or_default();
    // The control: from an allowed address the same calls are answered.
    for (number, address, inside, far) in [
        (1, world.host("caller").v4, "ok ok", "ok ok"),
        (2, outside.v4, "ETIMEDOUT EPERM", "ETIMEDOUT ETIMEDOUT"),
    ] {
        let socket = lists.scratch(&format!("builder{number}"));
        let filled = |text: &str| {
            text.replace("@builder", &socket.display().to_string())
                .replace("@far", &address.to_string())
                .replace("@index", index)
        };
        let mut builder = outsider(job, &filled(BUILDER))?;
        builder.expect("ready")?;
        let mut program = lists.start(job, &[], &filled(NESTED))?;
        program.expect(inside)?;
        program.expect(far)?;
        let report = program.finish()?;
        let refused = u64::from(address == outside.v4);
        assert_eq!(
            report.refused()?.get("not_allowlisted").copied().unwrap_or(0),
            refused,
            "{}",
            report.errors
        );
        assert_eq!(report.note("answers to callers from outside were refused") > 0, refused == 1);
    }
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, outside)), 0);
    Ok(())
}

/// An interface made after the start is no uplink: who injects frames there is not "outside".
const OWN_INTERFACE: &str = r#"
import fcntl
def ip(line):
    subprocess.run(["ip"] + line.split(), check=True)
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))
ip("addr add 10.8.0.1/24 dev tun0")
ip("link set tun0 up")
open("/proc/sys/net/ipv4/conf/all/rp_filter").read()
listener = listen("0.0.0.0", 80)
server = udp("0.0.0.0", 70)
say("ready")
wait()
os.write(tun, ipv4("10.77.3.2", "10.8.0.1", 6, segment("10.77.3.2", "10.8.0.1", 4000, 80, 2)))
os.write(tun, ipv4("10.77.3.2", "10.8.0.1", 17, datagram(4000, 70)))
data, peer = server.recvfrom(100)
say(data == MARK, *peer, how(lambda: server.sendto(MARK, peer)))
listener.settimeout(0.5)
say(how(listener.accept))
"#;

#[test]
fn an_interface_made_inside_is_no_uplink() -> Result<()> {
    let world = world()?;
    let (job, caller, outside) = (world.host("job"), world.host("caller"), world.host("outside"));
    let wire = wire(&world)?;
    let lists = Allowlists::new(&[], &[])?;
    let mut program =
        lists.start(job, &["--keep-caps", "NET_ADMIN,NET_RAW,NET_BIND_SERVICE"], OWN_INTERFACE)?;
    program.expect("ready")?;
    program.tell("go")?;
    program.expect("True 10.77.3.2 4000 EPERM")?;
    program.expect("ETIMEDOUT")?;
    let report = program.finish()?;
    report.assert_refused(&[("not_allowlisted", 1)]);
    // Of the two, the SYN: an answer to it would be judged as the listener's, who is answerable to real callers.
    assert_eq!(report.note("claimed to come from outside"), 1, "{}", report.errors);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, outside)), 0);
    // The control: a sink that the same wire would have shown.
    let _sink = Server::udp_echo(caller, caller.at(70))?;
    assert!(job.enter(|| Attempt::Udp.make(caller.at(70), DEADLINE)).is_ok());
    assert!(wire.count(|frame| is_to(frame, caller)) > 0);
    Ok(())
}

#[test]
fn the_same_packets_from_the_real_uplink_are_answered() -> Result<()> {
    let world = world()?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let lists = Allowlists::new(&[], &[])?;
    let mut program = lists.start(job, &[], RECEIVES)?;
    program.expect("ready")?;
    let _caller = outside.enter(|| std::net::TcpStream::connect_timeout(&job.at(80), DEADLINE))?;
    let socket = outside.enter(|| UdpSocket::bind("0.0.0.0:4000"))?;
    socket.send_to(b"call", job.at(70))?;
    assert_eq!(program.ask("go")?, "ok ok ok");
    program.finish()?.assert_refused(&[]);
    Ok(())
}
