//! What becomes of the wire while the workload runs: it is renamed, moved, cut and laid anew, doubled, and tuned.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use egress_warden_tests::job::outsider;
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Direction, Frame};
use serde_json::Value;

use super::agent::Job;
use super::ground::{Ground, OPEN, PODS, Pod, Wiring};
use super::way::Way;

/// One frame to either far host, by a packet socket on this interface.
fn by_hand(interface: &str) -> String {
    format!(
        "
made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
made.bind(('{interface}', 0))
for place in [ALLOWED, REFUSED]:
    made.send(frame(udp_packet(OWN, place)))
"
    )
}

const BY_HAND: Way<'_> = Way { frames: [1, 1], counted: &[("socket_type", 2)], ..Way::DEFAULT };

#[test]
fn renamed_inside() -> Result<()> {
    let (there, back) =
        ("shell('ip link set dev eth0 name wire0')", "shell('ip link set dev wire0 name eth0')");
    Way { program: &format!("{there}{}{back}", by_hand("wire0")), ..BY_HAND }.try_out()
}

#[test]
fn renamed_on_the_node() -> Result<()> {
    let ground = Ground::with(Wiring::Routed, OPEN)?;
    for pod in PODS {
        let node =
            |name: &str| ground.world.router().run(["ip", "link", "set", "dev", pod.name(), "name", name]);
        node(&format!("x{}", pod.name()))?;
        // What looks for it by its name finds it again.
        let line =
            ["ip", "link", "property", "add", "dev", &format!("x{}", pod.name()), "altname", pod.name()];
        ground.world.router().run(line)?;
    }
    Way { program: &by_hand("eth0"), ..BY_HAND }.try_on(&ground)
}

/// Does `status` tell of this interface of the pod, and of a backstop on it?
fn guarded(ground: &Ground, pod: Pod, interface: &str) -> Option<bool> {
    let status = ground.agent.status().ok()?;
    let ends = format!("/{}", pod.name());
    let is_pod = |one: &&Value| one["path"].as_str().is_some_and(|path| path.ends_with(&ends));
    let workload = status["workloads"].as_array()?.iter().find(is_pod)?;
    let found = workload["interfaces"].as_array()?.iter().find(|one| one["name"] == interface)?;
    Some(found["tier"] == "backstop")
}

/// Root inside moves it to a namespace of its own, where the agent does not look, and sends from there.
#[test]
fn moved_to_a_nested_namespace() -> Result<()> {
    let moves = "
made, ready = os.pipe(), os.pipe()
def body():
    shell('nft \"table inet t { chain c { type filter hook output priority 0; policy drop; }; }\"',
          'ip link set dev eth0 up')
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.bind(('eth0', 0))
    for place in [ALLOWED, REFUSED]:
        made.send(frame(udp_packet(OWN, place)))
child, go_on = in_a_nested_namespace(body)
shell(f'ip link set dev eth0 netns {child}', 'ip link add name later type ifb')
say('moved')
wait()
go_on()
ended(child)
say('sent')
wait()";
    for version in [4, 6] {
        let ground = Ground::with(Wiring::Routed, OPEN)?;
        for pod in PODS {
            let way = Way { program: moves, ..BY_HAND };
            let mark = format!("way out: {}, IPv{version}", pod.name());
            let before = ground.counts(pod)?;
            let program = way.program(&ground, pod, version, &mark)?;
            let mut job = Job::start(ground.host(pod), &ground.cgroup(pod), &program)?;
            ensure!(job.line()? == "moved");
            // What was made after the move is told after the move.
            until("word of the move", DEADLINE, || guarded(&ground, pod, "later"))?;
            ensure!(guarded(&ground, pod, "eth0") == Some(true), "{:?}", ground.agent.status()?);
            ensure!(job.ask("")? == "sent");
            way.judge(&ground, pod, mark.as_bytes(), version, &before)
                .with_context(|| format!("{pod:?}, IPv{version}"))?;
        }
    }
    Ok(())
}

/// The wire is cut and laid anew while frames are made by hand all the time. The agent finds the new one by itself; how many
/// frames were quicker is told, and after the first that was judged there are no more.
#[test]
fn laid_anew() -> Result<()> {
    let ground = Ground::with(Wiring::Routed, OPEN)?;
    let sends = "
def send(only_once=False):
    try:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        made.bind(('eth0', 0))
        return made.send(b'\\xff' * 6 + frame(udp_packet(OWN, REFUSED))[6:])
    except OSError:
        return 0
say('begun')
while not select.select([sys.stdin], [], [], 0.0005)[0]:
    send()
wait()
say(sum(send() > 0 for _ in range(50)))
wait()";
    let (pod, mark) = (Pod::Enforced, "laid anew");
    let way = Way { program: sends, ..Way::DEFAULT };
    let mut job = Job::start(ground.host(pod), &ground.cgroup(pod), &way.program(&ground, pod, 4, mark)?)?;
    ensure!(job.line()? == "begun");
    let fits = |frame: &Frame| {
        frame.direction == Direction::In
            && frame.bytes.windows(mark.len()).any(|bytes| bytes == mark.as_bytes())
    };
    ground.world.lay_again(pod.name())?;
    let laid = Instant::now();
    until("a backstop on the new wire", DEADLINE, || {
        guarded(&ground, pod, "eth0").filter(|guarded| *guarded)
    })?;
    let counted = ground.counts(pod)?;
    until("frames to be judged", DEADLINE, || ground.counts(pod).ok().filter(|now| *now != counted))?;
    let after = laid.elapsed();
    ground.settle()?;
    let quicker = ground.arrived(fits);
    eprintln!("a new wire was guarded after at most {after:?}; {} frames were quicker", quicker[1]);
    let counted = ground.counts(pod)?["socket_type"];
    ensure!(job.ask("")? == "50");
    ground.settle()?;
    ensure!(ground.arrived(fits) == quicker, "{:?} frames instead of {quicker:?}", ground.arrived(fits));
    ensure!(ground.counts(pod)?["socket_type"] >= counted + 50);
    Ok(())
}

/// A second wire to the pod, as multi-network plugins lay them.
#[test]
fn a_second_one() -> Result<()> {
    let ground = Ground::with(Wiring::Routed, OPEN)?;
    for pod in PODS {
        let (second, path) = (format!("{}2", pod.name()), ground.host(pod).path());
        let ip = |line: &str| ground.world.router().run(["ip"].into_iter().chain(line.split(' ')));
        ip(&format!(
            "link add name {second} address 02:00:00:00:00:99 type veth peer name eth1 netns {path}"
        ))?;
        ip(&format!("link set dev {second} up"))?;
        ground.host(pod).run(["ip", "link", "set", "dev", "eth1", "up"])?;
        until("a backstop on it", DEADLINE, || guarded(&ground, pod, "eth1").filter(|guarded| *guarded))?;
    }
    let program = format!("GATEWAY = bytes.fromhex('020000000099'){}", by_hand("eth1"));
    Way { program: &program, ..BY_HAND }.try_on(&ground)
}

/// Sets features of an interface with the numbers of linux/ethtool.h; there is no other program that could.
const TUNE: &str = "
import array, fcntl
def tune(interface, **features):
    commands = {'rx': 0x15, 'tx': 0x17, 'sg': 0x19, 'tso': 0x1f, 'gso': 0x24, 'gro': 0x2c}
    for feature, value in features.items():
        what = array.array('B', struct.pack('II', commands[feature], value))
        fcntl.ioctl(socket.socket(), 0x8946, struct.pack('16sP', interface.encode(), what.buffer_info()[0]))
";

/// Whatever the ends of the wire leave to each other, a stream to the allowed host arrives whole, one to the other does not
/// begin, and a frame made by hand does not pass. With segmentation off and GRO on, what the stream sends has no socket.
#[test]
fn every_offload() -> Result<()> {
    let ground = Ground::with(Wiring::Routed, OPEN)?;
    let sink = "
import threading
def serve(listener):
    while True:
        made, count = listener.accept()[0], 0
        while got := made.recv(1 << 20):
            count += len(got)
        made.sendall(str(count).encode())
        made.close()
for family in [socket.AF_INET, socket.AF_INET6]:
    listener = listen('', 80, family)
    listener.settimeout(None)
    threading.Thread(target=serve, args=[listener], daemon=True).start()
say('ready')
wait()";
    let mut server = outsider(ground.world.host("allowed"), sink)?;
    server.expect("ready")?;
    let streams = format!(
        "
made = socket.socket(FAMILY)
made.settimeout(5)
if how(lambda: made.connect((ALLOWED, 80))) == 'ok':
    made.sendall(bytes(1 << 20))
    made.shutdown(socket.SHUT_WR)
    say(made.recv(99).decode())
say(how(lambda: tcp(REFUSED, 80, FAMILY))){}",
        by_hand("eth0")
    );
    for (features, without_socket) in [
        ("tx=1, sg=1, tso=1, gso=1, gro=1", false),
        ("tx=1, sg=1, tso=0, gso=0, gro=1", true),
        ("tso=0, sg=0, tx=0, gso=0, gro=1", true),
        ("tx=1, sg=1, tso=1, gso=1, gro=0", false),
    ] {
        // In audit the attempt is counted where its socket is judged, and where it has none any more once again.
        let attempts = if without_socket { 2 } else { 1 };
        for pod in PODS {
            let node = format!("import socket, struct{TUNE}tune('{}', {features})", pod.name());
            ground.world.router().run(["python3", "-c", &node])?;
        }
        Way {
            program: &format!("{TUNE}tune('eth0', {features})\n{streams}"),
            says: Some("1048576\nEPERM"),
            frames: [1, 1],
            counted: &[("not_allowlisted", 1), ("socket_type", 2)],
            audited: Some(&[("not_allowlisted", attempts), ("socket_type", 2)]),
            quarantined: Some(&[("quarantined", 2), ("socket_type", 2)]),
            ..Way::DEFAULT
        }
        .try_on(&ground)
        .with_context(|| features)?;
    }
    Ok(())
}
