//! The loaded programs on a cgroup of the test, a workload's socket in it, and a resolver's outside.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::mem::offset_of;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use egress_warden::kernel::clock::boot_ns;
use egress_warden::kernel::{Enforcer, OwnNamespace, Preparation, Sizes};
use egress_warden_common::dns::{Answer, Message, Query};
use egress_warden_common::grant::{Grant, GrantKey, GrantedName, Rejection};
use egress_warden_common::state::{State, WallClock};
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{ProgramMap, TestCgroup, World, pin, processors, take_descriptor};

use crate::host::TODAY;

/// The beginning of what the programs walk in.
#[repr(C)]
pub(crate) struct Scratch {
    lent: u64,
    pub(crate) message: Message,
    pub(crate) query: Query,
    pub(crate) answer: Answer,
}

/// Plain bytes of a record without padding.
pub(crate) fn bytes_of<T>(value: &T) -> &[u8] {
    // SAFETY: only called with records of the shared crate, whose sizes say there that no byte is left out.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A record of integers out of a map's value.
fn record_of<T>(bytes: &[u8]) -> Result<T> {
    ensure!(bytes.len() >= size_of::<T>(), "{} bytes, not {}", bytes.len(), size_of::<T>());
    // SAFETY: long enough, every bit pattern is one of its values, and it is read unaligned.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// A workload's socket, and the one that it asks.
struct Pair {
    client: UdpSocket,
    client_at: SocketAddr,
    resolver: UdpSocket,
    resolver_at: SocketAddr,
}

pub(crate) struct Kernel {
    enforcer: Enforcer,
    scratch: ProgramMap,
    grants: ProgramMap,
    names: ProgramMap,
    /// Over IPv4, and over IPv6.
    pairs: [Pair; 2],
    processor: usize,
    buffer: Vec<u8>,
    holder: Child,
    _cgroup: TestCgroup,
    _world: World,
}

/// The addresses that are open, and the names for which they are.
pub(crate) type Open = (Vec<(GrantKey, Grant)>, Vec<GrantedName>);

impl Kernel {
    /// With this ruleset. The calling thread keeps to one processor, so that one scratch is used for every message.
    pub(crate) fn new(words: &[u64]) -> Result<Kernel> {
        let processor = *processors()?.first().context("no processor")?;
        pin(processor)?;
        let world = World::new(&["job", "resolver"])?;
        let cgroup = TestCgroup::new()?;
        let sizes =
            Sizes { words: words.len().try_into()?, workloads: 1, refused_destinations: 1024, names: true };
        let mut enforcer = Enforcer::load(Preparation::begin(), sizes, false)?;
        enforcer.write_words(0, words)?;
        let offset = i64::try_from(TODAY * 1_000_000_000)? - i64::try_from(boot_ns()?)?;
        enforcer.set_clock(WallClock { offset, synchronised: 1 })?;
        let own = OwnNamespace { is_host: false, ..world.host("job").enter(OwnNamespace::of_caller)? };
        enforcer.bind(0, cgroup.id()?, 0, 1, &own)?;
        enforcer.attach(File::open(cgroup.path())?.as_fd(), cgroup.path())?;
        let map = |name: &str| -> Result<ProgramMap> {
            ProgramMap::of(enforcer.program("ingress")?, name).context(name.to_owned())
        };
        let (scratch, grants, names) = (map("SCRATCH")?, map("GRANTS")?, map("GRANTED_NAMES")?);
        let (holder, pairs) = pairs(&world, &cgroup)?;
        Ok(Kernel {
            enforcer,
            scratch,
            grants,
            names,
            pairs,
            processor,
            buffer: vec![0; 1 << 16],
            holder,
            _cgroup: cgroup,
            _world: world,
        })
    }

    /// What the programs walked in last.
    pub(crate) fn scratch(&self) -> Result<Box<Scratch>> {
        let bytes = self.scratch.get(&0_u32.to_ne_bytes(), self.processor)?;
        let scratch: Box<Scratch> = Box::new(record_of(&bytes)?);
        ensure!(scratch.lent == 0, "it is lent");
        Ok(scratch)
    }

    /// The bytes of the query, or of the answer, that were walked last.
    pub(crate) fn walked(&self, query: bool) -> Result<Vec<u8>> {
        let mut bytes = self.scratch.get(&0_u32.to_ne_bytes(), self.processor)?;
        let (from, size) = if query {
            (offset_of!(Scratch, query), size_of::<Query>())
        } else {
            (offset_of!(Scratch, answer), size_of::<Answer>())
        };
        ensure!(bytes.len() >= from + size, "{} bytes", bytes.len());
        Ok(bytes.drain(from..from + size).collect())
    }

    /// The workload sends this. Tells whether the resolver got it, and what was counted.
    pub(crate) fn query(&mut self, turn: usize, bytes: &[u8]) -> Result<(bool, State)> {
        self.enforcer.clear_state(0)?;
        let Pair { client, resolver, resolver_at, .. } = &self.pairs[turn % 2];
        let sent = match client.send_to(bytes, resolver_at) {
            Ok(_) => true,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => false,
            Err(error) => return Err(error).context("the workload's datagram"),
        };
        let mut arrived = || resolver.recv(&mut self.buffer).ok();
        let length = if sent { Some(until("a query", DEADLINE, arrived)?) } else { arrived() };
        ensure!(length.is_none_or(|length| self.buffer[..length] == *bytes), "another one arrived");
        Ok((length.is_some(), self.enforcer.state(0)?))
    }

    /// The resolver sends this. Tells whether the workload got it, and what was counted.
    pub(crate) fn answer(&mut self, turn: usize, bytes: &[u8]) -> Result<(bool, State)> {
        self.enforcer.clear_state(0)?;
        let Pair { client, client_at, resolver, .. } = &self.pairs[turn % 2];
        resolver.send_to(bytes, client_at).context("the resolver's datagram")?;
        let enforcer = &self.enforcer;
        let came = until("an answer, or that it was rejected", DEADLINE, || {
            if let Ok(length) = client.recv(&mut self.buffer) {
                return Some(Some(length));
            }
            enforcer.state(0).is_ok_and(|state| is_dropped(&state)).then_some(None)
        })?;
        ensure!(came.is_none_or(|length| self.buffer[..length] == *bytes), "another one arrived");
        Ok((came.is_some(), self.enforcer.state(0)?))
    }

    /// Every address that is open, and every name for which one is. They are closed.
    pub(crate) fn take_grants(&self) -> Result<Open> {
        let (mut grants, mut names) = (Vec::new(), Vec::new());
        for key in self.grants.keys()? {
            grants.push((record_of(&key)?, record_of(&self.grants.get(&key, 0)?)?));
            self.grants.remove(&key)?;
        }
        for key in self.names.keys()? {
            names.push(record_of(&self.names.get(&key, 0)?)?);
            self.names.remove(&key)?;
        }
        Ok((grants, names))
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

/// An answer that is rejected as a whole is dropped; one whose addresses are not is read.
fn is_dropped(state: &State) -> bool {
    let rejected = &state.dns.rejected;
    rejected.iter().sum::<u64>() > rejected[Rejection::Address as usize]
}

/// A socket belongs to the cgroup and namespace of who made it, so the workload's are made there and used here.
fn pairs(world: &World, cgroup: &TestCgroup) -> Result<(Child, [Pair; 2])> {
    const HOLDER: &str = "import socket, sys\n\
                          made = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]\n\
                          for one in made: one.bind((sys.argv[1 + made.index(one)], 0))\n\
                          print(*(one.fileno() for one in made), flush=True)\n\
                          sys.stdin.read()\n";
    let (job, resolver) = (world.host("job"), world.host("resolver"));
    let mut command = job.command("python3");
    command.args(["-c", HOLDER, &job.v4.to_string(), &job.v6.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = cgroup.spawn(command)?;
    let mut line = String::new();
    BufReader::new(holder.stdout.as_mut().context("a pipe")?).read_line(&mut line)?;
    let numbers: Vec<i32> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let pair = |number: i32, resolver_at: SocketAddr| -> Result<Pair> {
        let client = UdpSocket::from(take_descriptor(holder.id(), number)?);
        let resolver = resolver.enter(|| UdpSocket::bind(resolver_at))?;
        client.set_nonblocking(true)?;
        resolver.set_nonblocking(true)?;
        Ok(Pair { client_at: client.local_addr()?, client, resolver, resolver_at })
    };
    let [first, second] = numbers[..] else { anyhow::bail!("the workload said `{line}`") };
    let pairs = [pair(first, resolver.at(53))?, pair(second, resolver.at_v6(53))?];
    Ok((holder, pairs))
}
