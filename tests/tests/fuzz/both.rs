//! One packet, judged twice: by the library on this machine, and by the loaded program.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use egress_warden::allowlist;
use egress_warden::kernel::clock::boot_ns;
use egress_warden::kernel::{Enforcer, OwnNamespace, Preparation, Sizes};
use egress_warden::ruleset::{Compiled, compile};
use egress_warden_common::decide::Clock;
use egress_warden_common::packet::{Packet, outline, parse};
use egress_warden_common::ruleset::NO_RULE;
use egress_warden_common::state::{Record, WallClock};
use egress_warden_common::{Address, Facts, Reason, Route, decide};
use egress_warden_tests::bpf::run_on_frame;
use egress_warden_tests::{World, cgroup2_mount};

/// As many packets as a workload may leave records of at once.
pub(crate) const BATCH: usize = 128;

const LOOPBACK: u32 = 1;

/// Allows nothing, so that every packet leaves a record of all that was read; and allows much.
const LISTS: &str = r#"
apiVersion: egress-warden.dev/v1
kind: EgressPolicy
metadata: {name: closed}
spec: {select: {all: true}, mode: enforce, allow: [], loopback: deny}
---
apiVersion: egress-warden.dev/v1
kind: EgressPolicy
metadata: {name: open}
spec: {select: {all: true}, mode: enforce, allow: [places], deny: [10.9.0.0/16, "fd00:9::/32"]}
---
apiVersion: egress-warden.dev/v1
kind: Destinations
metadata: {name: places}
spec:
  to:
    - {cidrs: [10.0.0.0/8, "fd00::/8"], ports: [443, 8080-8090, 53/udp], icmp: [echo-request], why: services}
    - {cidrs: [192.0.2.0/24, "2001:db8::/32"], why: everything there}
    - {cidrs: [11.0.0.0/30, "fe00::/64"], ports: [443], expires: 2020-01-01T00:00:00Z, why: over}
    - {cidrs: [11.0.0.0/30, "fe00::/64"], ports: [80], expires: 2126-01-01T00:00:00Z, why: not yet over}
"#;

/// A point in time between the deadlines.
struct Today;

impl Clock for Today {
    fn unix_seconds(&self) -> u64 {
        TODAY
    }
}

const TODAY: u64 = 2_000_000_000;

/// The same for the programs.
fn today() -> Result<WallClock> {
    let nanoseconds = i64::try_from(TODAY * 1_000_000_000)?;
    Ok(WallClock { offset: nanoseconds - i64::try_from(boot_ns()?)?, synchronised: 1 })
}

/// The loaded program with two rulesets, and the same two rulesets here.
pub(crate) struct Both {
    enforcer: Enforcer,
    rulesets: [(u32, Compiled); 2],
    world: World,
    own: OwnNamespace,
    uplink: u32,
    cgroup: u64,
}

/// What was, or should have been, told of a packet: the program's answer, and the record where it refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    reason: Reason,
    rule: u32,
    packet: Packet,
}

impl Both {
    pub(crate) fn new() -> Result<Both> {
        let world = World::new(&["job"])?;
        let shown = world.host("job").run(["ip", "-oneline", "link", "show", "eth0"])?;
        let shown = String::from_utf8(shown.stdout)?;
        let uplink = shown.split(':').next().context("no interface")?.parse()?;
        let rulesets = [compiled("closed")?, compiled("open")?];
        let first = u32::try_from(rulesets[0].words.len())?;
        let words = first + u32::try_from(rulesets[1].words.len())?;
        let sizes = Sizes { words, workloads: 1, refused_destinations: 1024, names: false };
        let mut enforcer = Enforcer::load(Preparation::begin(), sizes, false)?;
        let [closed, open] = rulesets;
        let rulesets = [(0, closed), (first, open)];
        for (base, ruleset) in &rulesets {
            enforcer.write_words(*base, &ruleset.words)?;
        }
        enforcer.set_clock(today()?)?;
        let own = OwnNamespace { is_host: false, ..world.host("job").enter(OwnNamespace::of_caller)? };
        Ok(Both { enforcer, rulesets, world, own, uplink, cgroup: own_cgroup()? })
    }

    /// Judges each packet under both rulesets, by the uplink and by loopback in turns. Tells what each came to; an error
    /// names the first packet on which the two do not agree.
    pub(crate) fn judge(&mut self, packets: &[Vec<u8>]) -> Result<Vec<Reason>> {
        let mut reasons = Vec::with_capacity(2 * packets.len());
        for index in 0..self.rulesets.len() {
            let expected: Vec<Told> = packets
                .iter()
                .enumerate()
                .map(|(turn, packet)| expected(&self.rulesets[index].1, packet, is_on_loopback(turn)))
                .collect();
            let answers = self.run(index, packets)?;
            let mut records = Vec::new();
            self.enforcer.drain_records(|record| records.push(record.record));
            let mut records = records.iter();
            for ((packet, expected), answer) in packets.iter().zip(&expected).zip(answers) {
                let refused = if answer == 0 {
                    Some(told(records.next().context("a record is missing")?)?)
                } else {
                    None
                };
                let agreed = match refused {
                    None => expected.reason.allows(),
                    Some(told) => told == *expected,
                };
                ensure!(agreed, "{packet:02x?}\nhere: {expected:?}\nkernel: {answer}, {refused:?}");
                reasons.push(expected.reason);
            }
            ensure!(records.next().is_none(), "more records than refusals");
        }
        Ok(reasons)
    }

    /// The loaded program's answers.
    fn run(&mut self, ruleset: usize, packets: &[Vec<u8>]) -> Result<Vec<u32>> {
        self.enforcer.bind(0, self.cgroup, self.rulesets[ruleset].0, 1, &self.own)?;
        self.enforcer.clear_state(0)?;
        let program = self.enforcer.program("egress")?;
        let uplink = self.uplink;
        self.world.host("job").enter(|| {
            let run = |(turn, packet): (usize, &Vec<u8>)| {
                let interface = if is_on_loopback(turn) { LOOPBACK } else { uplink };
                run_on_frame(program, &framed(packet), interface)
                    .map_err(|error| anyhow!("{packet:02x?}: {error}"))
            };
            packets.iter().enumerate().map(run).collect()
        })
    }
}

const fn is_on_loopback(turn: usize) -> bool {
    turn % 4 == 3
}

fn compiled(policy: &str) -> Result<Compiled> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("lists.yaml"), LISTS)?;
    let set = allowlist::load(&[PathBuf::from(directory.path())]).map_err(|errors| anyhow!("{errors:?}"))?;
    Ok(compile(&set.policy(policy).context("no such policy")?)?)
}

/// The cgroup of this process, which the kernel gives to the socket that it makes up. Nothing is attached to it: the
/// number stands in a table of the programs loaded here.
fn own_cgroup() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup2")?;
    Ok(fs::metadata(cgroup2_mount()?.join(path))?.ino())
}

/// A packet behind the Ethernet header that the kernel wants in front of it. What is too short for IP it takes as
/// something else only; the program does not look at it.
fn framed(packet: &[u8]) -> Vec<u8> {
    let ethertype: [u8; 2] = match (packet[0] >> 4, packet.len()) {
        (4, 20..) => [0x08, 0x00],
        (6, 40..) => [0x86, 0xdd],
        _ => [0x88, 0xb5],
    };
    [[0; 12].as_slice(), &ethertype, packet].concat()
}

/// What the program has to say, from the same parts that it is made of.
fn expected(compiled: &Compiled, bytes: &[u8], on_loopback: bool) -> Told {
    let nowhere = Address { high: 0, low: 0 };
    let nothing = Packet {
        source: nowhere,
        destination: nowhere,
        protocol: u8::MAX,
        tcp_flags: 0,
        fragment: 0,
        bare: 0,
        source_port: 0,
        port: 0,
    };
    let packet = match parse(bytes) {
        Ok(packet) => packet,
        Err(reason) => return Told { reason, rule: NO_RULE, packet: outline(bytes).unwrap_or(nothing) },
    };
    // No record tells of the flags or of a first fragment.
    let told = Packet { tcp_flags: 0, fragment: 0, bare: 0, ..packet };
    if on_loopback && !packet.source.is_loopback() && packet.source != packet.destination {
        return Told { reason: Reason::SourceSpoofed, rule: NO_RULE, packet: told };
    }
    let facts = Facts {
        destination: packet.destination,
        protocol: packet.protocol,
        port: packet.port,
        route: if on_loopback { Route::Loopback } else { Route::Uplink },
        host_namespace: false,
        reply: false,
        to_node: false,
        quarantined: false,
        own_resolver: false,
    };
    let verdict = decide(&compiled.ruleset(), &Today, &facts);
    Told { reason: verdict.reason, rule: verdict.rule, packet: told }
}

fn told(record: &Record) -> Result<Told> {
    Ok(Told {
        reason: Reason::from_number(record.reason).context("an unknown reason")?,
        rule: record.rule,
        packet: Packet {
            source: Address::from_bytes(record.source),
            destination: Address::from_bytes(record.destination),
            protocol: record.protocol,
            tcp_flags: 0,
            fragment: 0,
            bare: 0,
            source_port: record.source_port,
            port: record.port,
        },
    })
}
