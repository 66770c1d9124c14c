//! The backstop on the host's end of a workload's wire.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_warden::kernel::OwnNamespace;
use egress_warden::kernel::node::{Node, NodeError};
use egress_warden_common::{Protocol, Reason};
use egress_warden_tests::job::python;
use egress_warden_tests::probe::{Attempt, Outcome};
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::DEADLINE;
use egress_warden_tests::{Capture, Frame};

use super::support::{Bpffs, Scene, words};

/// A workload behind the router, which has the node; one host that it may reach and captures what arrives there.
struct Guarded {
    capture: Capture,
    _servers: Vec<Server>,
    scene: Scene,
    keeper: Running,
    bpffs: Bpffs,
}

const OPEN: &str = "    - {cidrs: [10.77.2.2/32, \"fd77:2::2/128\"], ports: [80, 80/udp], why: test}";

impl Guarded {
    fn new() -> Result<Guarded> {
        let scene = Scene::new()?;
        let outside = scene.world.host("outside");
        let capture = Capture::start(outside, "eth0")?;
        let servers = vec![
            Server::tcp_greeter(outside, outside.at_v6(80), b"hello")?,
            Server::udp_echo(outside, outside.at_v6(80))?,
        ];
        let mut command = scene.world.host("job").command("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        // In the namespace, but in no cgroup of a workload.
        let keeper = Running(command.spawn()?);
        Ok(Guarded { capture, _servers: servers, scene, keeper, bpffs: Bpffs::new()? })
    }

    /// Does something as an agent does it, in the router's namespace, with the workload enforced.
    fn enforced<T: Send>(&self, body: impl FnOnce(&mut Node, u64) -> Result<T> + Send) -> Result<T> {
        self.enforced_with(OPEN, body)
    }

    fn enforced_with<T: Send>(
        &self,
        open: &str,
        body: impl FnOnce(&mut Node, u64) -> Result<T> + Send,
    ) -> Result<T> {
        self.scene.world.router().enter(|| {
            let (mut node, _) = self.bpffs.open()?;
            let directory = File::open(self.scene.cgroup.path())?;
            let id = self.scene.id()?;
            let namespace =
                OwnNamespace::of_process(self.keeper.0.id())?.context("a namespace of its own")?;
            let ruleset = words(open)?;
            node.enforce(id, directory.as_fd(), self.scene.cgroup.path(), &ruleset, Some(&namespace))?;
            for backstop in node.backstops(id).context("the network is known")? {
                ensure!(backstop.missing.is_none(), "{backstop:?}");
            }
            body(&mut node, id)
        })
    }

    fn outside(&self, port: u16) -> SocketAddr {
        self.scene.at(port)
    }

    fn outside_v6(&self, port: u16) -> SocketAddr {
        self.scene.world.host("outside").at_v6(port)
    }

    fn attempt(&self, attempt: Attempt, to: SocketAddr) -> Result<Outcome> {
        attempt.make_inside(self.scene.world.host("job"), &self.scene.cgroup, to, DEADLINE)
    }

    /// Runs a program of the workload's and gives what it printed.
    fn run(&self, program: &str) -> Result<String> {
        let mut command = self.scene.world.host("job").command("python3");
        command.args(&python(program)[1..]).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let child = self.scene.cgroup.spawn(command)?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{program}: {}", output.status);
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Runs [`SERVER`] in the workload.
    fn server(&self) -> Result<Running> {
        let mut command = self.scene.world.host("job").command("python3");
        command.args(&python(SERVER)[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = Running(self.scene.cgroup.spawn(command)?);
        let mut ready = [0; 6];
        server.0.stdout.as_mut().context("a pipe")?.read_exact(&mut ready)?;
        Ok(server)
    }

    fn settle(&self) -> Result<()> {
        self.capture.settle(self.scene.world.router(), self.outside(9))
    }

    fn seen(&self, fits: impl Fn(&Frame) -> bool) -> usize {
        self.capture.count(|frame| frame.source == Some(IpAddr::from([10, 77, 1, 2])) && fits(frame))
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn counted(node: &Node, id: u64, reason: Reason) -> Result<u64, NodeError> {
    let state = node.state(id)?;
    Ok(Protocol::ALL.iter().map(|protocol| state.counts[reason as usize][*protocol as usize]).sum())
}

/// A packet socket on the wire, and frames of the workload's own making.
const PACKET_SOCKET: &str = "
import struct
def mac(text): return bytes.fromhex(text.replace(':',''))
s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,0)
s.bind(('eth0',0))
own=s.getsockname()[4]
rows=[line.split() for line in open('/proc/thread-self/net/arp').read().splitlines()[1:]]
gateway=([mac(row[3]) for row in rows if row[0]=='10.77.1.1']+[b'\\xff'*6])[0]
def total(data):
    sum_=sum(struct.unpack('!%dH'%(len(data)//2),data))
    while sum_>>16: sum_=(sum_&0xffff)+(sum_>>16)
    return ~sum_&0xffff
def packet(source,destination,port,payload):
    ip=struct.pack('!BBHHHBBH4s4s',0x45,0,28+len(payload),1,0,64,17,0,socket.inet_aton(source),socket.inet_aton(destination))
    ip=ip[:10]+struct.pack('!H',total(ip))+ip[12:]
    return ip+struct.pack('!HHHH',4000,port,8+len(payload),0)+payload
def frame(*what): return gateway+own+b'\\x08\\x00'+packet(*what)
";

#[test]
fn what_is_approved_passes_and_a_frame_made_by_hand_does_not() -> Result<()> {
    let guarded = Guarded::new()?;
    guarded.enforced(|node, id| {
        for attempt in [Attempt::Tcp, Attempt::Udp] {
            for to in [guarded.outside(80), guarded.outside_v6(80)] {
                let outcome = guarded.attempt(attempt, to)?;
                ensure!(outcome.is_ok(), "{attempt:?} {to}: {outcome:?}");
            }
        }
        guarded.run(&format!(
            "{PACKET_SOCKET}\nfor _ in range(3): s.send(frame('10.77.1.2','10.77.2.2',80,b'by hand'))"
        ))?;
        guarded.settle()?;
        assert_eq!(guarded.seen(|frame| frame.payload == b"by hand"), 0);
        assert_eq!(counted(node, id, Reason::SocketType)?, 3);
        assert_eq!(node.state(id)?.violations, 3, "{:?}", node.state(id)?.counts);
        // The control: the same frame without the backstop arrives.
        node.release(id)?;
        guarded.run(&format!("{PACKET_SOCKET}\ns.send(frame('10.77.1.2','10.77.2.2',80,b'by hand'))"))?;
        guarded.capture.wait_for(|frame| frame.payload == b"by hand", DEADLINE)?;
        Ok(())
    })
}

#[test]
fn in_quarantine_the_node_is_answered_and_nobody_else() -> Result<()> {
    let guarded = Guarded::new()?;
    guarded.enforced_with("    - {cidrs: [10.9.9.9/32], why: nobody here}", |node, id| {
        let job = guarded.scene.world.host("job");
        let outside = guarded.scene.world.host("outside");
        let _server = guarded.server()?;
        node.set_own_addresses(&["10.77.1.1".parse()?, "fd77:1::1".parse()?])?;
        node.quarantine(id)?;
        for (to, closed) in [(job.at(7000), job.at(7001)), (job.at_v6(7000), job.at_v6(7001))] {
            for attempt in [Attempt::Tcp, Attempt::Udp] {
                let outcome = attempt.make(to, DEADLINE);
                ensure!(outcome.is_ok(), "{attempt:?} {to} from the node: {outcome:?}");
                let outcome = outside.enter(|| attempt.make(to, Duration::from_millis(300)));
                ensure!(!outcome.is_ok(), "{attempt:?} {to} from outside: {outcome:?}");
            }
            let refused = TcpStream::connect_timeout(&closed, DEADLINE).map(drop);
            assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::ConnectionRefused), "{closed}");
        }
        assert_eq!(node.state(id)?.violations, 0, "{:?}", node.state(id)?.counts);
        Ok(())
    })
}

#[test]
fn callers_are_answered_with_and_without_a_socket() -> Result<()> {
    let guarded = Guarded::new()?;
    guarded.enforced(|node, id| {
        let job = guarded.scene.world.host("job");
        let outside = guarded.scene.world.host("outside");
        let _server = guarded.server()?;
        for to in [job.at(7000), job.at_v6(7000)] {
            for attempt in [Attempt::Tcp, Attempt::Udp] {
                let outcome = outside.enter(|| attempt.make(to, DEADLINE));
                ensure!(outcome.is_ok(), "{attempt:?} {to}: {outcome:?}");
            }
        }
        for to in [job.at(7001), job.at_v6(7001)] {
            let refused = outside.enter(|| TcpStream::connect_timeout(&to, DEADLINE)).map(drop);
            let kind = refused.map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::ConnectionRefused), "{to}: a reset");
        }
        for (family, kind, to) in [("AF_INET", 1, "10.77.1.2"), ("AF_INET6", 58, "fd77:1::2")] {
            let request = if kind == 1 { "8,0,0xf7ff" } else { "128,0,0" };
            let ping = format!(
                "import socket,struct\ns=socket.socket(socket.{family},socket.SOCK_RAW,{kind}); s.settimeout(5)\n\
                 s.connect(('{to}',0))\ns.send(struct.pack('!BBH',{request})+bytes(4)); print(len(s.recv(99)))"
            );
            outside.run(["python3", "-c", &ping]).with_context(|| format!("no answer from {to}"))?;
        }
        assert_eq!(node.state(id)?.violations, 0, "{:?}", node.state(id)?.counts);
        Ok(())
    })
}

/// Greets who connects, and answers datagrams.
const SERVER: &str = "
import threading
def greet(family):
    listener=socket.socket(family); listener.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)
    if family==socket.AF_INET6: listener.setsockopt(socket.IPPROTO_IPV6,socket.IPV6_V6ONLY,1)
    listener.bind(('',7000)); listener.listen()
    def serve():
        while True:
            made,_=listener.accept(); made.sendall(b'hello'); made.close()
    threading.Thread(target=serve,daemon=True).start()
    echo=socket.socket(family,socket.SOCK_DGRAM)
    if family==socket.AF_INET6: echo.setsockopt(socket.IPPROTO_IPV6,socket.IPV6_V6ONLY,1)
    echo.bind(('',7000))
    def back():
        while True:
            data,peer=echo.recvfrom(9999); echo.sendto(data,peer)
    threading.Thread(target=back,daemon=True).start()
greet(socket.AF_INET); greet(socket.AF_INET6)
print('ready',flush=True)
sys.stdin.read()
";

#[test]
fn a_datagram_in_fragments_passes_whole_and_no_stray_fragment_does() -> Result<()> {
    let guarded = Guarded::new()?;
    guarded.enforced(|node, id| {
        let sent = "
for family,to in [(socket.AF_INET,'10.77.2.2'),(socket.AF_INET6,'fd77:2::2')]:
    s=socket.socket(family,socket.SOCK_DGRAM); s.settimeout(5)
    s.sendto(b'f'*5000,(to,80)); print(len(s.recv(9999)))
";
        assert_eq!(guarded.run(sent)?, "5000\n5000");
        assert_eq!(node.state(id)?.violations, 0, "{:?}", node.state(id)?.counts);
        Ok(())
    })
}

#[test]
fn a_source_or_a_destination_that_is_not_to_be_is_refused() -> Result<()> {
    let guarded = Guarded::new()?;
    guarded.enforced(|node, id| {
        let raw = "
s=socket.socket(socket.AF_INET,socket.SOCK_RAW,socket.IPPROTO_UDP)
s.setsockopt(socket.IPPROTO_IP,socket.IP_HDRINCL,1)
for source,destination in [('10.77.1.9','10.77.2.2'),('10.77.2.7','10.77.2.2')]:
    for _ in range(2): s.sendto(packet(source,destination,80,b'spoofed'),(destination,0))
";
        let program = format!("{PACKET_SOCKET}\n{raw}");
        guarded.run(&program)?;
        guarded.settle()?;
        assert_eq!(guarded.capture.count(|frame| frame.payload == b"spoofed"), 0);
        assert_eq!(counted(node, id, Reason::SourceSpoofed)?, 4, "{:?}", node.state(id)?.counts);
        node.release(id)?;
        guarded.run(&program)?;
        guarded.capture.wait_for(|frame| frame.payload == b"spoofed", DEADLINE)?;
        Ok(())
    })
}
