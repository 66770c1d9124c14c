//! A BPF file system, a node in it, and a workload that tries to get out.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow};
use egress_warden::allowlist;
use egress_warden::kernel::node::{Adopted, Node, NodeError, NodeOptions};
use egress_warden::kernel::{OwnNamespace, Sizes};
use egress_warden::ruleset::compile;
use egress_warden_tests::probe::{Attempt, Outcome};
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::DEADLINE;
use egress_warden_tests::{TestCgroup, World, bpf};
use tempfile::TempDir;

/// A BPF file system of the test's own: the node mounts it, because none is there.
pub(crate) struct Bpffs {
    directory: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Bpffs {
    pub(crate) fn new() -> Result<Bpffs> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Bpffs { directory: tempfile::tempdir()?, _alone: alone })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn options(&self) -> NodeOptions {
        let sizes = Sizes { words: 1 << 12, workloads: 64, refused_destinations: 256, names: true };
        NodeOptions { bpffs: self.path().to_owned(), sizes, ..NodeOptions::default() }
    }

    pub(crate) fn open(&self) -> Result<(Node, Vec<Adopted>), NodeError> {
        Node::open(&self.options())
    }

    /// Where this version's pins are.
    pub(crate) fn pins(&self) -> PathBuf {
        let version = format!("egress-warden/v{}", egress_warden_common::ABI_VERSION);
        self.path().join(version)
    }

    /// The pins of links, over all cgroups.
    pub(crate) fn links(&self) -> Result<usize> {
        let mut count = 0;
        for cgroup in fs::read_dir(self.pins().join("links"))? {
            count += fs::read_dir(cgroup?.path())?.count().max(1);
        }
        Ok(count)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // Detached lazily: a test that failed may still hold something open.
        Command::new("umount").arg("-l").arg(self.path()).stderr(Stdio::null()).status().ok();
    }
}

/// A policy with these entries, as the kernel reads it.
pub(crate) fn words(entries: &str) -> Result<Vec<u64>> {
    words_with(entries, "")
}

/// The same with further lines of the policy's.
pub(crate) fn words_with(entries: &str, more: &str) -> Result<Vec<u64>> {
    let directory = tempfile::tempdir()?;
    let mode = if more.contains("mode:") { "" } else { "  mode: enforce\n" };
    let text = format!(
        "apiVersion: egress-warden.dev/v1\nkind: Destinations\nmetadata: {{name: open}}\nspec:\n  to:\n{entries}\n---\n\
         apiVersion: egress-warden.dev/v1\nkind: EgressPolicy\nmetadata: {{name: test}}\nspec:\n  \
         select: {{all: true}}\n{mode}  raw: [udp]\n  allow: [open]\n{more}"
    );
    fs::write(directory.path().join("test.yaml"), text)?;
    let set = allowlist::load(&[directory.path().to_owned()]).map_err(|errors| anyhow!("{errors:?}"))?;
    Ok(compile(&set.policy("test").context("no policy `test`")?)?.words)
}

/// Opens one port of the outside host.
pub(crate) fn opens(port: u16) -> Result<Vec<u64>> {
    words(&format!("    - {{cidrs: [10.77.2.2/32], ports: [{port}, {port}/udp], why: test}}"))
}

/// Enforces on a cgroup that runs nothing.
pub(crate) fn enforce(node: &mut Node, cgroup: &Path, words: &[u64]) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let directory = File::open(cgroup)?;
    let id = directory.metadata()?.ino();
    node.enforce(id, directory.as_fd(), cgroup, words, None)?;
    Ok(id)
}

/// Empty cgroups below one of the test.
pub(crate) fn children(parent: &TestCgroup, count: usize) -> Result<Vec<PathBuf>> {
    let paths = (0..count).map(|number| parent.path().join(format!("workload-{number}")));
    paths.map(|path| fs::create_dir(&path).map(|()| path).map_err(anyhow::Error::from)).collect()
}

/// How many programs sit on a cgroup.
pub(crate) fn programs_on(cgroup: &Path) -> Result<Vec<u32>> {
    Ok(bpf::programs_on(cgroup)?)
}

/// Two hosts, and a workload on one of them.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) cgroup: TestCgroup,
    servers: Vec<Server>,
}

/// The port that rulesets of the tests open first, and another one.
pub(crate) const PORTS: [u16; 2] = [80, 81];

/// Where [`Scene::connection`] leads.
pub(crate) const ECHO: u16 = 82;

impl Scene {
    pub(crate) fn new() -> Result<Scene> {
        let world = World::new(&["job", "outside"])?;
        let outside = world.host("outside");
        let mut servers = Vec::new();
        for port in PORTS {
            servers.push(Server::tcp_greeter(outside, outside.at(port), b"hello")?);
            servers.push(Server::udp_echo(outside, outside.at(port))?);
        }
        Ok(Scene { world, cgroup: TestCgroup::new()?, servers })
    }

    pub(crate) fn id(&self) -> Result<u64> {
        self.cgroup.id()
    }

    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        self.world.host("outside").at(port)
    }

    /// Enforces on the workload, whose namespace is known.
    pub(crate) fn enforce(&self, node: &mut Node, words: &[u64]) -> Result<()> {
        self.enforce_on(&self.cgroup, node, words)
    }

    /// The same on another one, whose programs are in the same namespace.
    pub(crate) fn enforce_on(&self, cgroup: &TestCgroup, node: &mut Node, words: &[u64]) -> Result<()> {
        let found = self.world.host("job").enter(OwnNamespace::of_caller)?;
        let namespace = OwnNamespace { is_host: false, ..found };
        let directory = File::open(cgroup.path())?;
        Ok(node.enforce(cgroup.id()?, directory.as_fd(), cgroup.path(), words, Some(&namespace))?)
    }

    /// Tries to connect from inside.
    pub(crate) fn attempt(&self, port: u16) -> Result<Outcome> {
        Attempt::Tcp.make_inside(self.world.host("job"), &self.cgroup, self.at(port), DEADLINE)
    }

    /// What the servers have answered.
    pub(crate) fn served(&self) -> usize {
        self.servers.iter().map(Server::served).sum()
    }

    /// A UDP socket inside that stays open.
    pub(crate) fn datagrams(&self, port: u16) -> Result<Sender> {
        self.sender("SOCK_DGRAM", self.at(port))
    }

    /// A TCP connection from inside that stays open, to a server that sends everything back.
    pub(crate) fn connection(&self) -> Result<Sender> {
        self.connection_to(self.at(ECHO))
    }

    /// The same to another place on that host.
    pub(crate) fn connection_to(&self, at: SocketAddr) -> Result<Sender> {
        let listener = self.world.host("outside").enter(|| TcpListener::bind(at))?;
        // Ends with the connection.
        thread::spawn(move || {
            let (stream, _) = listener.accept()?;
            io::copy(&mut &stream, &mut &stream)
        });
        self.sender("SOCK_STREAM", at)
    }

    /// A program inside that sends on its one socket, or connects it `anew` and then sends, or sends in `bulk`.
    pub(crate) fn sender(&self, kind: &str, to: SocketAddr) -> Result<Sender> {
        let family = if to.is_ipv4() { "AF_INET" } else { "AF_INET6" };
        let program = format!(
            "import socket,sys,ctypes\ns=socket.socket(socket.{family},socket.{kind})\nto=('{}',{})\ns.connect(to)\ns.settimeout(30)\n\
             for line in sys.stdin:\n  try:\n    \
             if 'anew' in line:\n      \
             if s.type==socket.SOCK_STREAM: ctypes.CDLL(None).connect(s.fileno(),bytes(16),16)\n      \
             s.connect(to)\n    \
             more=1<<20 if 'bulk' in line else 1\n    sent=got=0\n    \
             while got<more:\n      \
             if sent<more: sent+=s.send(b'x'*min(more-sent,1<<16))\n      \
             got+=len(s.recv(1<<16))\n    \
             print(0,flush=True)\n  \
             except OSError as e: print(e.errno or -1,flush=True)\n",
            to.ip(),
            to.port()
        );
        let mut command = self.world.host("job").command("python3");
        command.args(["-c", &program]).stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Sender(self.cgroup.spawn(command)?))
    }
}

/// Sends on its one socket whenever it is told to.
pub(crate) struct Sender(Child);

impl Sender {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Has it send.
    pub(crate) fn tell(&mut self) -> Result<()> {
        self.say("")
    }

    fn say(&mut self, word: &str) -> Result<()> {
        Ok(writeln!(self.0.stdin.as_mut().context("a pipe")?, "{word}")?)
    }

    /// Has it do something else, and waits until that is done.
    pub(crate) fn ask(&mut self, word: &str) -> Result<i32> {
        self.say(word)?;
        self.outcome()
    }

    /// Waits until what it sent last has come back; the error number, or 0.
    pub(crate) fn outcome(&mut self) -> Result<i32> {
        let mut line = Vec::new();
        // One line comes for one told, so nothing is lost with the reader.
        BufReader::new(self.0.stdout.as_mut().context("a pipe")?).read_until(b'\n', &mut line)?;
        Ok(String::from_utf8(line)?.trim().parse()?)
    }

    /// Both.
    pub(crate) fn send(&mut self) -> Result<i32> {
        self.tell()?;
        self.outcome()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Gone already where its cgroup was removed first.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
