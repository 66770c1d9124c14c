//! A load balancer above the workload that rewrites service addresses: policies written in either address work, and what
//! is approved opens nothing else.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_warden::kernel::OwnNamespace;
use egress_warden::kernel::node::Node;
use egress_warden_common::{Protocol, Reason};
use egress_warden_tests::bpf::{ALLOW_MULTI, CONNECT4, SENDMSG4, UNDO, attach};
use egress_warden_tests::job::python;
use egress_warden_tests::probe::{Attempt, Outcome};
use egress_warden_tests::rewriter::rewrite;
use egress_warden_tests::server::Server;
use egress_warden_tests::{Capture, Frame, TestCgroup, World};

use super::support::{Bpffs, words, words_with};

/// Where the backend and the forbidden host listen; the service's port is another one.
const PORT: u16 = 8080;
const SERVICE_PORT: u16 = 80;
const ATTEMPTS: [Attempt; 3] = [Attempt::Tcp, Attempt::UdpConnected, Attempt::Udp];

/// Entries of policies.
pub(crate) const SERVICE: &str =
    "    - {cidrs: [10.96.0.10/32, \"fdaa::10/128\"], ports: [80, 80/udp], why: test}";
pub(crate) const BACKEND: &str =
    "    - {cidrs: [10.77.2.2/32, \"fd77:2::2/128\"], ports: [8080, 8080/udp], why: test}";
pub(crate) const NEITHER: &str = "    - {cidrs: [10.9.9.9/32], why: nobody here}";

/// A workload behind a router, below a cgroup with a load balancer. What arrives at the backend and at the forbidden host is
/// captured; both listen everywhere that is tried.
pub(crate) struct Balanced {
    pub(crate) world: World,
    backend: Capture,
    forbidden: Capture,
    _servers: Vec<Server>,
    // Before its parent: they are removed in this order.
    pub(crate) workload: TestCgroup,
    pub(crate) parent: TestCgroup,
    keeper: Child,
    pub(crate) bpffs: Bpffs,
}

impl Balanced {
    pub(crate) fn new() -> Result<Balanced> {
        let world = World::new(&["job", "backend", "forbidden"])?;
        let captures = ["backend", "forbidden"].map(|name| Capture::start(world.host(name), "eth0"));
        let [backend, forbidden] = captures;
        let mut servers = Vec::new();
        for name in ["backend", "forbidden"] {
            let host = world.host(name);
            for place in [host.at(PORT), host.at_v6(PORT)] {
                servers.push(Server::tcp_greeter(host, place, b"hello")?);
                servers.push(Server::udp_echo(host, place)?);
            }
        }
        let parent = TestCgroup::new()?;
        let workload = parent.child("workload")?;
        for v6 in [false, true] {
            rewrite(&parent, service(v6), at(&world, "backend", v6))?;
        }
        let mut command = world.host("job").command("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let keeper = command.spawn()?;
        let (backend, forbidden, bpffs) = (backend?, forbidden?, Bpffs::new()?);
        Ok(Balanced { world, backend, forbidden, _servers: servers, workload, parent, keeper, bpffs })
    }

    /// Does something as an agent does it, in the router's namespace, with the workload enforced and the load balancer
    /// followed.
    pub(crate) fn enforced<T: Send>(
        &self,
        open: &str,
        body: impl FnOnce(&mut Node, u64) -> Result<T> + Send,
    ) -> Result<T> {
        self.enforced_alone(open, |node, id| {
            let failed = node.follow_rewriters(&[(id, self.above())].into())?;
            ensure!(failed.is_empty(), "{failed:?}");
            body(node, id)
        })
    }

    /// The same by an agent that knows nothing of a load balancer.
    fn enforced_alone<T: Send>(
        &self,
        open: &str,
        body: impl FnOnce(&mut Node, u64) -> Result<T> + Send,
    ) -> Result<T> {
        self.world.router().enter(|| {
            let (mut node, _) = self.bpffs.open()?;
            let directory = File::open(self.workload.path())?;
            let id = self.workload.id()?;
            let namespace = OwnNamespace::of_process(self.keeper.id())?.context("a namespace of its own")?;
            node.enforce(id, directory.as_fd(), self.workload.path(), &words(open)?, Some(&namespace))?;
            for backstop in node.backstops(id).context("the network is known")? {
                ensure!(backstop.missing.is_none(), "{backstop:?}");
            }
            body(&mut node, id)
        })
    }

    pub(crate) fn above(&self) -> PathBuf {
        self.parent.path().to_owned()
    }

    pub(crate) fn attempt(&self, attempt: Attempt, to: SocketAddr) -> Result<Outcome> {
        attempt.make_inside(self.world.host("job"), &self.workload, to, Duration::from_secs(2))
    }

    /// Runs a program of the workload's and gives what it printed.
    pub(crate) fn run(&self, program: &str) -> Result<String> {
        let mut command = self.world.host("job").command("python3");
        command.args(&python(program)[1..]).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let output = self.workload.spawn(command)?.wait_with_output()?;
        ensure!(output.status.success(), "{program}: {}", output.status);
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Starts a program of the workload's that answers each line with one.
    pub(crate) fn start(&self, program: &str) -> Result<Asked> {
        let mut command = self.world.host("job").command("python3");
        command.args(&python(program)[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = self.workload.spawn(command)?;
        let answers = BufReader::new(child.stdout.take().context("a pipe")?);
        Ok(Asked { child, answers })
    }

    /// Has another port of the service lead to one of the backend that says `enough` after 16 MiB, and reads on.
    pub(crate) fn sink(&self, port: u16, v6: bool) -> Result<()> {
        let (mut from, mut to) = (service(v6), at(&self.world, "backend", v6));
        from.set_port(port);
        to.set_port(port);
        rewrite(&self.parent, from, to)?;
        let listener = self.world.host("backend").enter(|| TcpListener::bind(to))?;
        // Ends with the connection.
        thread::spawn(move || -> io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            io::copy(&mut (&stream).take(16 << 20), &mut io::sink())?;
            stream.write_all(b"enough")?;
            io::copy(&mut stream, &mut io::sink()).map(drop)
        });
        Ok(())
    }

    /// Segments are made by the stack and merged again on arrival, which takes the socket from a packet.
    pub(crate) fn merge_segments(&self) -> Result<()> {
        for (namespace, interface) in [(self.world.router(), "job"), (self.world.host("job"), "eth0")] {
            namespace.run(["python3", "-c", MERGE, interface])?;
        }
        Ok(())
    }

    /// How many frames of the workload's arrived at the backend and at the forbidden host: of TCP and UDP, to their port.
    pub(crate) fn arrived(&self) -> Result<(usize, usize)> {
        let router = self.world.router();
        self.backend.settle(router, self.world.host("backend").at(9))?;
        self.forbidden.settle(router, self.world.host("forbidden").at(9))?;
        let job = self.world.host("job");
        let own = [IpAddr::V4(job.v4), IpAddr::V6(job.v6)];
        let fits = |frame: &Frame| {
            frame.source.is_some_and(|source| own.contains(&source)) && frame.destination_port == Some(PORT)
        };
        Ok((self.backend.count(fits), self.forbidden.count(fits)))
    }
}

/// Turns segmentation by the device off and receive offload on: `ethtool -K`, which not every machine has.
const MERGE: &str = "
import ctypes,fcntl,socket,struct,sys
TSO,GSO,GRO=0x1f,0x24,0x2c
for what,on in ((TSO,0),(GSO,0),(GRO,1)):
    value=ctypes.create_string_buffer(struct.pack('=II',what,on))
    request=struct.pack('16sQ16x',sys.argv[1].encode(),ctypes.addressof(value))
    fcntl.ioctl(socket.socket(),0x8946,request)
";

/// A program that answers.
pub(crate) struct Asked {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Asked {
    /// Tells it something, and gives its answer.
    pub(crate) fn tell(&mut self, what: &str) -> Result<String> {
        writeln!(self.child.stdin.as_mut().context("a pipe")?, "{what}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Has it do once more what it does.
    pub(crate) fn ask(&mut self) -> Result<String> {
        self.tell("")
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Balanced {
    fn drop(&mut self) {
        self.keeper.kill().ok();
        self.keeper.wait().ok();
    }
}

pub(crate) fn service(v6: bool) -> SocketAddr {
    let address =
        if v6 { IpAddr::from([0xfdaa, 0, 0, 0, 0, 0, 0, 0x10]) } else { IpAddr::from([10, 96, 0, 10]) };
    SocketAddr::new(address, SERVICE_PORT)
}

pub(crate) fn at(world: &World, host: &str, v6: bool) -> SocketAddr {
    let host = world.host(host);
    if v6 { host.at_v6(PORT) } else { host.at(PORT) }
}

pub(crate) fn counted(node: &Node, id: u64, reason: Reason) -> Result<u64> {
    let state = node.state(id)?;
    Ok(Protocol::ALL.iter().map(|protocol| state.counts[reason as usize][*protocol as usize]).sum())
}

#[test]
fn a_policy_in_either_address_works() -> Result<()> {
    for open in [SERVICE, BACKEND] {
        let balanced = Balanced::new()?;
        balanced.enforced(open, |node, id| {
            for v6 in [false, true] {
                for attempt in ATTEMPTS {
                    let before = balanced.arrived()?.0;
                    let outcome = balanced.attempt(attempt, service(v6))?;
                    ensure!(outcome.is_ok() && outcome.received > 0, "{open} {attempt:?} {v6}: {outcome:?}");
                    ensure!(balanced.arrived()?.0 > before, "{open} {attempt:?} {v6}: nothing arrived");
                }
            }
            assert_eq!(node.state(id)?.violations, 0, "{:?}", node.state(id)?.counts);
            assert!(node.state(id)?.allowed.iter().sum::<u64>() >= 6);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_policy_in_neither_address_refuses_at_once_and_counts_once() -> Result<()> {
    let balanced = Balanced::new()?;
    balanced.enforced(NEITHER, |node, id| {
        let mut expected = 0;
        for v6 in [false, true] {
            for attempt in ATTEMPTS {
                for to in [service(v6), at(&balanced.world, "backend", v6)] {
                    let outcome = balanced.attempt(attempt, to)?;
                    ensure!(outcome.is_refused(), "{attempt:?} {to}: {outcome:?}");
                    expected += 1;
                    assert_eq!(counted(node, id, Reason::NotAllowlisted)?, expected, "{attempt:?} {to}");
                }
            }
        }
        assert_eq!(node.state(id)?.violations, expected);
        assert_eq!(balanced.arrived()?, (0, 0));
        Ok(())
    })
}

#[test]
fn nothing_of_this_opens_where_no_load_balancer_is_followed() -> Result<()> {
    for open in [SERVICE, BACKEND] {
        let balanced = Balanced::new()?;
        balanced.enforced_alone(open, |node, id| {
            for v6 in [false, true] {
                for attempt in [Attempt::UdpConnected, Attempt::Udp] {
                    let outcome = balanced.attempt(attempt, service(v6))?;
                    // Judged by where its datagrams go, and so is all that works.
                    let works = open == BACKEND && attempt == Attempt::UdpConnected;
                    ensure!(outcome.is_ok() == works, "{open} {attempt:?} {v6}: {outcome:?}");
                }
                let outcome = balanced.attempt(Attempt::Tcp, service(v6))?;
                ensure!(!outcome.is_ok(), "{open} {v6}: {outcome:?}");
            }
            ensure!(node.state(id)?.violations > 0);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn what_is_denied_and_quarantined_is_refused_behind_the_load_balancer_too() -> Result<()> {
    let balanced = Balanced::new()?;
    let deny = "  deny: [10.77.2.2/32, \"fd77:2::2/128\"]\n";
    balanced.enforced(SERVICE, |node, id| {
        node.swap(id, &words_with(SERVICE, deny)?)?;
        let mut expected = 0;
        for v6 in [false, true] {
            for attempt in ATTEMPTS {
                let outcome = balanced.attempt(attempt, service(v6))?;
                ensure!(outcome.is_refused(), "{attempt:?} {v6}: {outcome:?}");
                expected += 1;
                assert_eq!(counted(node, id, Reason::Denied)?, expected, "{attempt:?} {v6}");
            }
        }
        assert_eq!(node.state(id)?.violations, expected, "{:?}", node.state(id)?.counts);
        assert_eq!(balanced.arrived()?, (0, 0));
        node.swap(id, &words(SERVICE)?)?;
        for v6 in [false, true] {
            ensure!(balanced.attempt(Attempt::Udp, service(v6))?.is_ok());
        }
        node.quarantine(id)?;
        let before = balanced.arrived()?;
        for v6 in [false, true] {
            for attempt in ATTEMPTS {
                for to in [service(v6), at(&balanced.world, "backend", v6)] {
                    let outcome = balanced.attempt(attempt, to)?;
                    ensure!(outcome.is_refused(), "{attempt:?} {to}: {outcome:?}");
                }
            }
        }
        assert_eq!(counted(node, id, Reason::Quarantined)?, 12);
        assert_eq!(balanced.arrived()?, before);
        Ok(())
    })
}

#[test]
fn a_refusal_that_somebody_undoes_counts_once() -> Result<()> {
    let balanced = Balanced::new()?;
    balanced.enforced(NEITHER, |node, id| {
        for hook in [CONNECT4, SENDMSG4] {
            attach(&balanced.parent, hook, UNDO, ALLOW_MULTI)?;
        }
        for attempt in [Attempt::Tcp, Attempt::Udp] {
            let outcome = balanced.attempt(attempt, service(false))?;
            ensure!(!outcome.is_ok(), "{attempt:?}: {outcome:?}");
        }
        assert_eq!(counted(node, id, Reason::NotAllowlisted)?, 2, "{:?}", node.state(id)?.counts);
        assert_eq!(balanced.arrived()?, (0, 0));
        Ok(())
    })
}
