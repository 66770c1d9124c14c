//! Connections that are older than the enforcement, and are kept or cut.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use egress_warden::kernel::OwnNamespace;
use egress_warden::kernel::diag::{Connection, TCP_AND_UDP, connections, end_connections_of};
use egress_warden::kernel::node::{How, Node, Older};
use egress_warden_common::limits::KEPT_PER_WORKLOAD;
use egress_warden_tests::Capture;
use egress_warden_tests::probe::Attempt;
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::{self, DEADLINE};

use super::support::{Bpffs, ECHO, PORTS, Scene, Sender, opens, words_with};

const TCP_RST: u8 = 4;

/// A workload with one flow of each kind, begun while nothing was enforced.
struct Begun {
    flows: [Sender; 4],
    found: Vec<Connection>,
    _server: Server,
    scene: Scene,
}

impl Begun {
    fn new() -> Result<Begun> {
        let scene = Scene::new()?;
        let outside = scene.world.host("outside");
        let server = Server::udp_echo(outside, outside.at_v6(PORTS[0]))?;
        let mut flows = [
            scene.connection()?,
            scene.connection_to(outside.at_v6(ECHO))?,
            scene.datagrams(PORTS[0])?,
            scene.sender("SOCK_DGRAM", outside.at_v6(PORTS[0]))?,
        ];
        for flow in &mut flows {
            assert_eq!(flow.send()?, 0);
        }
        let found = connections(File::open(scene.cgroup.path())?.as_fd(), TCP_AND_UDP)?;
        ensure!(found.problems.is_empty() && found.connections.len() == 4, "{found:?}");
        Ok(Begun { flows, found: found.connections, _server: server, scene })
    }

    /// As an agent enforces it, with the backstop.
    fn enforce(&self, node: &mut Node, older: &Older<'_>) -> Result<u64> {
        let directory = File::open(self.scene.cgroup.path())?;
        let id = self.scene.id()?;
        let namespace = OwnNamespace::of_process(self.flows[0].id())?.context("a namespace of its own")?;
        let words = opens(PORTS[1])?;
        let path = self.scene.cgroup.path();
        let left = node.enforce_beside(id, directory.as_fd(), path, &words, Some(&namespace), older)?;
        assert_eq!(left, 0);
        for backstop in node.backstops(id).context("the network is known")? {
            ensure!(backstop.missing.is_none(), "{backstop:?}");
        }
        Ok(id)
    }

    fn kept(&self) -> Older<'_> {
        Older { connections: &self.found, how: How::GoesOn }
    }

    /// Does something as an agent does it, in the router's namespace.
    fn with(mut self, body: impl FnOnce(&mut Begun, Node, &Bpffs) -> Result<()> + Send) -> Result<()> {
        let bpffs = Bpffs::new()?;
        let router = self.scene.world.router().clone();
        router.enter(|| body(&mut self, bpffs.open()?.0, &bpffs))
    }

    fn places(&self) -> [(Attempt, SocketAddr); 4] {
        let outside = self.scene.world.host("outside");
        [
            (Attempt::Tcp, outside.at(PORTS[0])),
            (Attempt::Tcp, outside.at_v6(ECHO)),
            (Attempt::UdpConnected, outside.at(PORTS[0])),
            (Attempt::UdpConnected, outside.at_v6(PORTS[0])),
        ]
    }
}

fn entries(node: &Node) -> Result<u64> {
    let usage = node.usage()?;
    Ok(usage.iter().find(|(map, ..)| *map == "kept").context("the map")?.1)
}

#[test]
fn what_is_kept_goes_on_and_nothing_beside_it() -> Result<()> {
    Begun::new()?.with(|begun, mut node, bpffs| {
        let id = begun.enforce(&mut node, &begun.kept())?;
        for flow in &mut begun.flows {
            assert_eq!(flow.send()?, 0);
        }
        assert_eq!(node.state(id)?.violations, 0, "{:?}", node.state(id)?.counts);
        for (attempt, to) in begun.places() {
            let outcome =
                attempt.make_inside(begun.scene.world.host("job"), &begun.scene.cgroup, to, DEADLINE)?;
            ensure!(!outcome.is_ok(), "{attempt:?} {to}: {outcome:?}");
        }
        // An agent that takes over finds them as they were.
        drop(node);
        let (mut node, adopted) = bpffs.open()?;
        assert_eq!((adopted.len(), entries(&node)?), (1, 4));
        for flow in &mut begun.flows {
            assert_eq!(flow.send()?, 0);
        }
        node.release(id)?;
        assert_eq!(entries(&node)?, 0);
        Ok(())
    })
}

/// What a socket is connected with after the attach it chose by itself, be it the same again.
#[test]
fn a_socket_that_connects_anew_loses_what_it_had() -> Result<()> {
    Begun::new()?.with(|begun, mut node, _| {
        begun.enforce(&mut node, &begun.kept())?;
        let capture = Capture::start(begun.scene.world.host("outside"), "eth0")?;
        for flow in &mut begun.flows {
            assert_eq!(flow.ask("anew")?, libc::EPERM);
        }
        capture.settle(begun.scene.world.router(), begun.scene.at(9))?;
        let own = |from| begun.found.iter().any(|one| Some(one.local) == from);
        // The end of the connection that it had is still a part of that one.
        let is_end = |flags: Option<u8>| flags.is_some_and(|flags| flags & TCP_RST != 0);
        let sent = capture.frames(|frame| {
            (frame.is_tcp() || frame.is_udp()) && own(frame.source) && !is_end(frame.tcp_flags)
        });
        assert_eq!(sent, []);
        Ok(())
    })
}

#[test]
fn deny_and_quarantine_come_first() -> Result<()> {
    Begun::new()?.with(|begun, mut node, _| {
        let id = begun.enforce(&mut node, &begun.kept())?;
        let open = "    - {cidrs: [10.9.9.9/32], why: test}";
        node.swap(id, &words_with(open, "  deny: [10.77.2.0/24, \"fd77:2::/64\"]\n")?)?;
        for flow in &mut begun.flows[2..] {
            assert_eq!(flow.send()?, libc::EPERM, "denied");
        }
        node.swap(id, &words_with(open, "  deny: [10.99.0.0/16]\n")?)?;
        for flow in &mut begun.flows[2..] {
            assert_eq!(flow.send()?, 0);
        }
        node.quarantine(id)?;
        for flow in &mut begun.flows[2..] {
            assert_eq!(flow.send()?, libc::EPERM, "in quarantine");
        }
        node.forgive(id)?;
        for flow in &mut begun.flows {
            assert_eq!(flow.send()?, 0);
        }
        node.forget_older(id, How::GoesOn)?;
        for flow in &mut begun.flows[2..] {
            assert_eq!(flow.send()?, libc::EPERM, "taken back");
        }
        Ok(())
    })
}

/// Whoever has the addresses and ports of a kept flow, and is another socket, has nothing.
#[test]
fn only_the_very_socket_is_kept() -> Result<()> {
    Begun::new()?.with(|begun, mut node, _| {
        for change in
            [|one: &mut Connection| one.cookie += 1_000_000, |one: &mut Connection| one.local_port ^= 1]
        {
            let mut found = begun.found.clone();
            found.iter_mut().for_each(change);
            let id = begun.enforce(&mut node, &Older { connections: &found, how: How::GoesOn })?;
            for flow in &mut begun.flows[2..] {
                assert_eq!(flow.send()?, libc::EPERM);
            }
            node.release(id)?;
        }
        Ok(())
    })
}

/// What receive offload merges on the wire has no socket any more.
#[test]
fn segments_that_were_merged_on_the_wire_are_kept() -> Result<()> {
    Begun::new()?.with(|begun, mut node, _| {
        // ETHTOOL_SGRO, ETHTOOL_STSO and ETHTOOL_SGSO: segments leave one by one, or there would be nothing to merge.
        for (host, device, features) in [
            (begun.scene.world.router(), "job", "(0x2c,1)"),
            (begun.scene.world.host("job"), "eth0", "(0x2c,1),(0x1f,0),(0x24,0)"),
        ] {
            let set = format!(
                "import socket,fcntl,ctypes,struct\nfor what in [{features}]:\n  \
                 wanted=ctypes.create_string_buffer(struct.pack('II',*what))\n  \
                 asked=struct.pack('16sP16x',b'{device}',ctypes.addressof(wanted))\n  \
                 fcntl.ioctl(socket.socket(),0x8946,asked)"
            );
            host.run(["python3", "-c", &set])?;
        }
        let id = begun.enforce(&mut node, &begun.kept())?;
        for flow in &mut begun.flows[..2] {
            assert_eq!(flow.ask("bulk")?, 0);
        }
        let state = node.state(id)?;
        assert_eq!((state.violations, state.replies_refused), (0, 0), "{:?}", state.counts);
        Ok(())
    })
}

#[test]
fn more_than_fit_are_judged_and_told() -> Result<()> {
    let (begun, bpffs) = (Begun::new()?, Bpffs::new()?);
    let (mut node, _) = bpffs.open()?;
    let many: Vec<Connection> = (0..KEPT_PER_WORKLOAD as u16 + 3)
        .map(|number| Connection { local_port: number, ..begun.found[0].clone() })
        .collect();
    let directory = File::open(begun.scene.cgroup.path())?;
    let older = Older { connections: &many, how: How::GoesOn };
    let (id, path, words) = (begun.scene.id()?, begun.scene.cgroup.path(), opens(PORTS[1])?);
    let left = node.enforce_beside(id, directory.as_fd(), path, &words, None, &older)?;
    assert_eq!((left, entries(&node)?), (3, KEPT_PER_WORKLOAD as u64));
    Ok(())
}

/// Nothing of what is cut passes any more but the word to the far end.
#[test]
fn what_is_cut_tells_its_far_end_and_sends_nothing_else() -> Result<()> {
    let scene = Scene::new()?;
    let outside = scene.world.host("outside");
    let mut ends = Vec::new();
    for to in [outside.at(ECHO), outside.at_v6(ECHO)] {
        let listener = outside.enter(|| TcpListener::bind(to))?;
        let inside = scene.sender("SOCK_STREAM", to)?;
        ends.push((inside, listener.accept()?.0));
    }
    let found = connections(File::open(scene.cgroup.path())?.as_fd(), TCP_AND_UDP)?.connections;
    assert_eq!(found.len(), 2, "{found:?}");
    let bpffs = Bpffs::new()?;
    scene.world.router().enter(|| {
        let (mut node, _) = bpffs.open()?;
        let directory = File::open(scene.cgroup.path())?;
        let (id, path, words) = (scene.id()?, scene.cgroup.path(), opens(PORTS[1])?);
        let namespace = OwnNamespace::of_process(ends[0].0.id())?.context("a namespace of its own")?;
        let older = Older { connections: &found, how: How::Ends };
        node.enforce_beside(id, directory.as_fd(), path, &words, Some(&namespace), &older)?;
        let capture = Capture::start(outside, "eth0")?;
        for (inside, _) in &mut ends {
            inside.tell()?;
        }
        wait::until("what was refused", DEADLINE, || {
            node.state(id).ok().filter(|state| state.replies_refused >= 2)
        })?;
        let wanted = node.older(id, How::Ends);
        let done = end_connections_of(directory.as_fd(), TCP_AND_UDP, |one| wanted.contains(&one.cookie))?;
        ensure!(done.ended == 2 && done.problems.is_empty(), "{done:?}");
        for (inside, far) in &mut ends {
            assert_eq!(inside.outcome()?, libc::ECONNABORTED);
            assert_eq!(end_of(far), Some(ErrorKind::ConnectionReset));
        }
        capture.settle(scene.world.router(), scene.at(9))?;
        let of_job = |from: &std::net::IpAddr| found.iter().any(|one| one.local == *from);
        let frames = capture.frames(|frame| frame.source.as_ref().is_some_and(of_job) && frame.is_tcp());
        ensure!(
            frames.len() == 2 && frames.iter().all(|frame| frame.tcp_flags.unwrap_or(0) & TCP_RST != 0),
            "{frames:?}"
        );
        assert_eq!(node.state(id)?.violations, 0, "{:?}", node.state(id)?.counts);
        Ok(())
    })
}

/// The control of the one before: who is cut with nothing written down tells nobody.
#[test]
fn without_being_written_down_a_cut_tells_nobody() -> Result<()> {
    let scene = Scene::new()?;
    let outside = scene.world.host("outside");
    let listener = outside.enter(|| TcpListener::bind(outside.at(ECHO)))?;
    let mut inside = scene.sender("SOCK_STREAM", outside.at(ECHO))?;
    let (far, _) = listener.accept()?;
    let bpffs = Bpffs::new()?;
    let (mut node, _) = bpffs.open()?;
    scene.enforce(&mut node, &opens(PORTS[1])?)?;
    let done = end_connections_of(File::open(scene.cgroup.path())?.as_fd(), TCP_AND_UDP, |_| true)?;
    assert_eq!(done.ended, 1);
    assert_eq!(inside.send()?, libc::ECONNABORTED);
    far.set_nonblocking(true)?;
    assert_eq!(end_of(&mut &far), Some(ErrorKind::WouldBlock));
    Ok(())
}

/// How reading from it ends.
fn end_of(far: &mut impl Read) -> Option<ErrorKind> {
    far.read(&mut [0; 9]).err().map(|error| error.kind())
}

#[test]
fn a_connected_udp_socket_is_cut_and_a_listener_stays() -> Result<()> {
    let mut begun = Begun::new()?;
    let directory = File::open(begun.scene.cgroup.path())?;
    let done = end_connections_of(directory.as_fd(), TCP_AND_UDP, |_| true)?;
    ensure!(done.ended == 4 && done.problems.is_empty(), "{done:?}");
    for flow in &mut begun.flows {
        assert_ne!(flow.send()?, 0);
    }
    let job = begun.scene.world.host("job");
    let _server = super::before::EchoInside::start(&begun.scene)?;
    let done = end_connections_of(directory.as_fd(), TCP_AND_UDP, |_| true)?;
    assert_eq!(done.ended, 0, "who only listens has no connection");
    let caller =
        begun.scene.world.host("outside").enter(|| TcpStream::connect(job.at(super::before::LISTENS)))?;
    drop(caller);
    Ok(())
}
