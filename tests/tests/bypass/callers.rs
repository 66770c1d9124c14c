//! Callers that nobody outside has sent: whoever is answered can be told anything.

use anyhow::{Context, Result, ensure};
use egress_warden_tests::job::outsider;

use super::agent::Job;
use super::ground::{CALLS, Ground, OPEN, Pod, Wiring};
use super::way::Way;

/// A datagram to everybody comes back to its sender as if it had come by `eth0`, and IP_TRANSPARENT, for which CAP_NET_RAW is
/// enough, gives it any source. The policy opens a range in which the address of all neighbours lies, as wide ranges do.
#[test]
fn a_broadcast_that_names_another_sender() -> Result<()> {
    Way {
        versions: &[4],
        open: "{cidrs: [10.77.4.2/32, 10.77.0.0/22], ports: [80/udp, 5000/udp], why: test}",
        program: "
taker = udp('0.0.0.0', 5000)
forger = socket.socket(FAMILY, socket.SOCK_DGRAM)
forger.setsockopt(socket.IPPROTO_IP, 19, 1)
forger.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
forger.bind((REFUSED, 4242))
sent = how(lambda: forger.sendto(b'call me', (OWN.rsplit('.', 1)[0] + '.255', 5000)))
if sent == 'ok':
    taker.recv(99)
say(sent, how(lambda: taker.sendto(MARK, (REFUSED, 4242))))",
        says: Some("ok EPERM"),
        frames: [0, 1],
        counted: &[("not_allowlisted", 1), ("source_spoofed", 1)],
        quarantined: Some(&[("quarantined", 2)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// The same with a multicast group, which a policy has to name.
#[test]
fn a_multicast_that_names_another_sender() -> Result<()> {
    Way {
        versions: &[6],
        open: "{cidrs: [\"fd77:4::2/128\", \"ff05::/16\"], ports: [80/udp, 5000/udp], why: test}",
        program: "
link = socket.if_nametoindex('eth0')
taker = udp('::', 5000, FAMILY)
taker.setsockopt(41, 20, socket.inet_pton(FAMILY, 'ff05::1234') + struct.pack('I', link))
forger = socket.socket(FAMILY, socket.SOCK_DGRAM)
forger.setsockopt(41, 75, 1)
forger.setsockopt(41, 17, link)
forger.bind((REFUSED, 4242))
sent = how(lambda: forger.sendto(b'call me', ('ff05::1234', 5000)))
if sent == 'ok':
    taker.recv(99)
say(sent, how(lambda: taker.sendto(MARK, (REFUSED, 4242))))",
        says: Some("ok EPERM"),
        frames: [0, 1],
        counted: &[("not_allowlisted", 1), ("source_spoofed", 1)],
        quarantined: Some(&[("quarantined", 2)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// A datagram in the far host's name that comes by a tap device of the pod, and how its taker answers.
const CALL: &str = "
made = tap(wire=False)
INGRESS
taker = udp('', 5000, FAMILY)
addresses = b''.join(socket.inet_pton(FAMILY, place) for place in [REFUSED, OWN])
call = struct.pack('!HHHH', 4242, 5000, 12, 0) + b'call'
check = checksum(addresses + struct.pack('!II', len(call), 17) + call)
call = call[:6] + struct.pack('!H', check) + call[8:]
packet = ipv4(REFUSED, OWN, 17, call) if V == 4 else ipv6(REFUSED, OWN, 17, call)
os.write(made, frame(packet, to=mac(f'tap{V}')))
taker.recv(99)
say(how(lambda: taker.sendto(MARK, (REFUSED, 4242))))";

#[test]
fn a_caller_by_an_interface_made_inside() -> Result<()> {
    let ingress = "
if V == 4:
    for name in ['all', f'tap{V}']:
        sysctl(**{f'{name}__rp_filter': 0})";
    Way {
        program: &CALL.replace("INGRESS", ingress),
        says: Some("EPERM"),
        frames: [0, 1],
        counted: &[("not_allowlisted", 1)],
        quarantined: Some(&[("quarantined", 1)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// **Open** with CAP_NET_ADMIN, and said so: what tc puts on `eth0` inside has come from outside, as far as can be seen there.
#[test]
fn a_caller_that_tc_brings_in() -> Result<()> {
    Way {
        program: &CALL.replace("INGRESS", "redirect('ingress', 'eth0')"),
        says: Some("ok"),
        frames: [0, 1],
        approved: [0, 1],
        // Refused there, as an answer to a caller, which is nobody's attempt.
        quarantined: Some(&[]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// Gives the far host's address to `lo` and waits until the agent knows it as the pod's own: until then what comes from there
/// is dropped as forged.
const TAKEN: &str = "
LENGTH = '/32' if V == 4 else '/128 nodad'
shell(f'ip addr add {REFUSED}{LENGTH} dev lo')
def called_from_there():
    end = time.monotonic() + 5
    while time.monotonic() < end:
        made = socket.socket(FAMILY)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((REFUSED, 4242))
        made.settimeout(0.2)
        if how(lambda: made.connect((OWN, 7000))) == 'ok':
            return made
        made.close()
    sys.exit('the address did not become its own')
def given_back():
    shell(f'ip addr del {REFUSED}{LENGTH[:4]} dev lo')
    # Until the agent knows that, the address counts as a place inside. (Audit refuses nothing.)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        made = socket.socket(FAMILY)
        made.setblocking(False)
        if how(lambda: made.connect((REFUSED, 80))) == 'EPERM':
            break
";

/// **Open** with CAP_NET_ADMIN, and said so: a connection over loopback that ended a moment ago looks like one that a caller
/// outside has ended.
#[test]
fn a_connection_with_an_address_taken_for_a_while() -> Result<()> {
    Way {
        program: &format!(
            "{TAKEN}
made, server = tun(), listen(OWN, 7000, FAMILY)
caller = called_from_there()
taken, _ = server.accept()
taken.close()
caller.recv(1)
caller.close()
given_back()
segment_ = struct.pack('!HHIIBBHHH', 7000, 4242, 1, 1, 5 << 4, 16, 65535, 0, 0) + MARK
for _ in range(3):
    os.write(made, ipv4(OWN, REFUSED, 6, segment_) if V == 4 else ipv6(OWN, REFUSED, 6, segment_))"
        ),
        frames: [0, 3],
        approved: [0, 3],
        besides: &["not_allowlisted", "quarantined", "source_spoofed"],
        ..Way::DEFAULT
    }
    .try_out()
}

/// **Open** with CAP_NET_ADMIN, and said so: once somebody outside has called a server, all that it accepts may be answered.
#[test]
fn a_server_that_was_called_before() -> Result<()> {
    let ground = Ground::with(Wiring::Routed, OPEN)?;
    let _caller = outsider(ground.world.host("allowed"), CALLS)?;
    Way {
        program: &format!(
            "{TAKEN}
server = listen('', 7000, FAMILY)
server.settimeout(1)
def accepted(wanted):
    while True:
        made, peer = server.accept()
        if (peer[0] == REFUSED) == wanted:
            return made
if how(lambda: accepted(False)) == 'ok':
    caller = called_from_there()
    made = accepted(True)
    given_back()
    say(how(lambda: made.send(MARK)))"
        ),
        says: Some("ok"),
        frames: [0, 1],
        approved: [0, 1],
        besides: &["not_allowlisted", "quarantined", "source_spoofed"],
        ..Way::DEFAULT
    }
    .try_on(&ground)
}

/// A socket that answered a caller and then begins a flow of its own: that is judged by where it goes, also when the place is
/// closed later.
#[test]
fn a_server_that_turns_to_an_allowed_place() -> Result<()> {
    for version in [4, 6] {
        let ground = Ground::with(Wiring::Routed, OPEN)?;
        let _caller = outsider(ground.world.host("allowed"), CALLS)?;
        let sink = "
taken = [listen('', 80, family) for family in [socket.AF_INET, socket.AF_INET6]]
say('ready')
wait()";
        let mut sink = outsider(ground.world.host("allowed"), sink)?;
        sink.expect("ready")?;
        let way = Way {
            program: "
server = listen('', 7000, FAMILY)
made, _ = server.accept()
disconnect(made)
made.connect((ALLOWED, 80))
say('turned')
wait()
made.send(MARK)
say('sent')
wait()",
            frames: [1, 0],
            counted: &[("not_allowlisted", 1)],
            ..Way::DEFAULT
        };
        let turned = [Pod::Enforced, Pod::Audited].map(|pod| -> Result<_> {
            let mark = format!("turned: {}, IPv{version}", pod.name());
            let program = way.program(&ground, pod, version, &mark)?;
            let mut job = Job::start(ground.host(pod), &ground.cgroup(pod), &program)?;
            ensure!(job.line()? == "turned");
            Ok((pod, mark, job))
        });
        ground.open_instead("{cidrs: [10.99.0.0/16], why: nobody here}")?;
        for one in turned {
            let (pod, mark, mut job) = one?;
            let before = ground.counts(pod)?;
            ensure!(job.ask("")? == "sent");
            way.judge(&ground, pod, mark.as_bytes(), version, &before).with_context(|| format!("{pod:?}"))?;
        }
    }
    Ok(())
}
