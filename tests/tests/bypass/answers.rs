//! What the kernel sends by itself: an attacker inside can make it answer to whom he likes, by forging who asked.

use anyhow::{Result, ensure};
use egress_warden_tests::job::outsider;

use super::agent::Job;
use super::ground::{Ground, OPEN, Pod, Wiring};
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
listener = listen(OWN, 7000, FAMILY)
def total(protocol, body):
    addresses = b''.join(socket.inet_pton(FAMILY, place) for place in [REFUSED, OWN])
    return checksum(addresses + struct.pack('!II', len(body), protocol) + body)
def asks(protocol, body, at, pseudo=True):
    check = total(protocol, body) if pseudo else checksum(body)
    body = body[:at] + struct.pack('!H', check) + body[at + 2:]
    packet = ipv4(REFUSED, OWN, protocol, body) if V == 4 else ipv6(REFUSED, OWN, protocol, body)
    os.write(made, frame(packet, to=mac(f'tap{V}')))
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

/// Whom a server cuts off hears of it, and nothing is counted: one that was accepted, and one that still waits for that.
#[test]
fn callers_that_are_cut_off() -> Result<()> {
    let ground = Ground::with(Wiring::Routed, OPEN)?;
    for pod in [Pod::Enforced, Pod::Audited] {
        for (place, family) in
            [(ground.host(pod).v4.to_string(), "AF_INET"), (ground.host(pod).v6.to_string(), "AF_INET6")]
        {
            let before = ground.counts(pod)?;
            let serves = format!(
                "
server = listen('', 7000, socket.{family})
say('ready')
made, _ = server.accept()
made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
wait()
made.close()
server.close()
say('closed')
wait()"
            );
            let mut server = Job::start(ground.host(pod), &ground.cgroup(pod), &serves)?;
            ensure!(server.line()? == "ready");
            let calls = format!(
                "
made = [tcp('{place}', 7000, socket.{family}) for _ in range(2)]
say('called')
say(*[how(lambda: one.recv(9)) for one in made])"
            );
            let mut caller = outsider(ground.world.host("allowed"), &calls)?;
            caller.expect("called")?;
            ensure!(server.ask("")? == "closed");
            caller.expect("ECONNRESET ECONNRESET")?;
            let counted = ground.counts(pod)?;
            ensure!(counted == before, "{pod:?}, {place}: counted {counted:?} after {before:?}");
        }
    }
    Ok(())
}
