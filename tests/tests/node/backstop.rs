//! The backstop on the host's end of a workload's wire.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use egress_warden::kernel::OwnNamespace;
use egress_warden::kernel::node::{Node, NodeError};
use egress_warden_common::{Protocol, Reason};
use egress_warden_tests::job::python;
use egress_warden_tests::probe::{Attempt, Outcome};
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Capture, Frame, TestCgroup};

use super::support::{Bpffs, ECHO, Scene, words};

/// A workload behind the router, which has the node; one host that it may reach and captures what arrives there.
struct Guarded {
    capture: Capture,
    scene: Scene,
    keeper: Child,
    bpffs: Bpffs,
}

const OPEN: &str = "    - {cidrs: [10.77.2.2/32, \"fd77:2::2/128\"], ports: [80, 80/udp], why: test}";

impl Guarded {
    fn new() -> Result<Guarded> {
        let scene = Scene::new()?;
        let capture = Capture::start(scene.world.host("outside"), "eth0")?;
        let mut command = scene.world.host("job").command("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        // In the namespace, but in no cgroup of a workload.
        let keeper = command.spawn()?;
        Ok(Guarded { capture, scene, keeper, bpffs: Bpffs::new()? })
    }

    /// Does something as an agent does it, in the router's namespace, with the workload enforced.
    fn enforced<T: Send>(&self, body: impl FnOnce(&mut Node, u64) -> Result<T> + Send) -> Result<T> {
        self.scene.world.router().enter(|| {
            let (mut node, _) = self.bpffs.open()?;
            let directory = File::open(self.scene.cgroup.path())?;
            let id = self.scene.id()?;
            let namespace = OwnNamespace::of_process(self.keeper.id())?.context("a namespace of its own")?;
            let ruleset = words(OPEN)?;
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

    /// Runs a program of the workload's and gives what it printed.
    fn run(&self, program: &str) -> Result<String> {
        let mut command = self.scene.world.host("job").command("python3");
        command.args(&python(program)[1..]).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let child = self.scene.cgroup.spawn(command)?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{program}: {}", output.status);
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn settle(&self) -> Result<()> {
        self.capture.settle(self.scene.world.router(), self.outside(9))
    }

    fn seen(&self, fits: impl Fn(&Frame) -> bool) -> usize {
        self.capture.count(|frame| frame.source == Some(IpAddr::from([10, 77, 1, 2])) && fits(frame))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.keeper.kill().ok();
        self.keeper.wait().ok();
    }
}

fn counted(node: &Node, id: u64, reason: Reason) -> Result<u64, NodeError> {
    let state = node.state(id)?;
    Ok(Protocol::ALL.iter().map(|protocol| state.counts[reason as usize][*protocol as usize]).sum())
}

/// Sends one UDP datagram to the outside in a frame of its own making.
const PACKET_SOCKET: &str = "
import socket,struct
def mac(line): return bytes.fromhex(line.strip().replace(':',''))
own=mac(open('/proc/self/net/../../../sys/class/net/eth0/address').read()) if False else None
import fcntl
s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,0)
s.bind(('eth0',0))
own=s.getsockname()[4]
probe=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)
gateway=None
for line in open('/proc/net/arp').read().splitlines()[1:]:
    fields=line.split()
    if fields[0]=='10.77.1.1': gateway=mac(fields[3])
def frame(source,destination,port,payload):
    ip=struct.pack('!BBHHHBBH4s4s',0x45,0,28+len(payload),1,0,64,17,0,socket.inet_aton(source),socket.inet_aton(destination))
    total=sum(struct.unpack('!10H',ip)); total=(total&0xffff)+(total>>16); total=(total&0xffff)+(total>>16)
    ip=ip[:10]+struct.pack('!H',~total&0xffff)+ip[12:]
    return gateway+own+b'\\x08\\x00'+ip+struct.pack('!HHHH',4000,port,8+len(payload),0)+payload
";

#[test]
fn what_is_approved_passes_and_a_frame_made_by_hand_does_not() -> Result<()> {
    let guarded = Guarded::new()?;
    guarded.enforced(|node, id| {
        let job = guarded.scene.world.host("job");
        for (attempt, to) in [
            (Attempt::Tcp, guarded.outside(80)),
            (Attempt::Udp, guarded.outside(80)),
        ] {
            let outcome = attempt.make_inside(job, &guarded.scene.cgroup, to, DEADLINE)?;
            ensure!(outcome.is_ok(), "{attempt:?}: {outcome:?}");
        }
        let before = guarded.seen(|frame| frame.is_to(guarded.outside(80)) && frame.payload == b"by hand");
        assert_eq!(before, 0);
        guarded.run(&format!(
            "{PACKET_SOCKET}\nfor _ in range(3): s.send(frame('10.77.1.2','10.77.2.2',80,b'by hand'))"
        ))?;
        guarded.settle()?;
        assert_eq!(guarded.seen(|frame| frame.payload == b"by hand"), 0);
        assert_eq!(counted(node, id, Reason::SocketType)?, 3);
        let state = node.state(id)?;
        assert_eq!(state.violations, 3, "{:?}", state.counts);
        // The control: the same frames without the backstop arrive.
        node.release(id)?;
        guarded.run(&format!("{PACKET_SOCKET}\ns.send(frame('10.77.1.2','10.77.2.2',80,b'by hand'))"))?;
        guarded.capture.wait_for(|frame| frame.payload == b"by hand", DEADLINE)?;
        Ok(())
    })
}
