//! The addresses that answers open: how many there may be, and when their room is given back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_warden::kernel::clock::boot_ns;
use egress_warden::kernel::node::Node;
use egress_warden::records::asked_for;
use egress_warden_common::Reason;
use egress_warden_common::grant::Rejection;
use egress_warden_common::limits::{GRANTS_PER_WORKLOAD, UNOPENED_NS, UNOPENED_PER_WORKLOAD};
use egress_warden_tests::{TestCgroup, processors};

use crate::support::{Bpffs, Scene, enforce, words_with};

/// Addresses in each answer.
const EACH: u64 = 63;
/// Longer than an address that has ended is left alone.
const MINUTES: u64 = 120_000_000_000;

/// A resolver on the host outside. `nN.many.example` has the addresses with the numbers from 64 N on.
struct Resolver {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    fn start(scene: &Scene) -> Result<Resolver> {
        let socket = scene.world.host("outside").enter(|| UdpSocket::bind(scene.at(53)))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let ends = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            let mut query = [0; 512];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = socket.recv_from(&mut query) {
                    // Who does not hear an answer says so.
                    let _ = socket.send_to(&answer(&query[..length]), peer);
                }
            }
        });
        Ok(Resolver { ends, thread: Some(thread) })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// To a query for `nN.many.example`.
fn answer(query: &[u8]) -> Vec<u8> {
    let digits = &query[14..13 + usize::from(query[12])];
    let number: u32 = String::from_utf8_lossy(digits).parse().unwrap_or_default();
    let mut answer = query.to_vec();
    answer[2] |= 0x84;
    answer[6..8].copy_from_slice(&(EACH as u16).to_be_bytes());
    for low in 0..EACH as u32 {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 80, 0, 0)) + number * EACH as u32 + low);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

/// Asks for these names from inside; tells how many were answered.
fn ask(scene: &Scene, names: std::ops::Range<u64>) -> Result<usize> {
    ask_in(scene, &scene.cgroup, names)
}

/// The same in another workload there. All ask from one processor.
fn ask_in(scene: &Scene, cgroup: &TestCgroup, names: std::ops::Range<u64>) -> Result<usize> {
    let program = format!(
        "import os,socket\nos.sched_setaffinity(0,{{{}}})\nanswered=0\nfor n in range({},{}):\n  \
         s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n  s.settimeout(1)\n  s.connect(('{}',53))\n  \
         name=b'n%d'%n\n  \
         query=bytes([n>>8,n&255,1,0,0,1,0,0,0,0,0,0,len(name)])+name+b'\\x04many\\x07example\\0\\0\\x01\\0\\x01'\n  \
         try: s.send(query); s.recv(4096); answered+=1\n  except OSError: pass\n\
         print(answered)",
        processors()?.first().context("no processor")?,
        names.start,
        names.end,
        scene.at(53).ip()
    );
    let mut command = scene.world.host("job").command("python3");
    command.args(["-c", &program]).stdout(Stdio::piped());
    let output = cgroup.spawn(command)?.wait_with_output()?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

fn named() -> Result<Vec<u64>> {
    words_with(
        "    - {domains: [\"*.many.example\"], resolvesTo: [10.80.0.0/16], ports: [80], why: test}",
        "  dns: {resolvers: [10.77.2.2/32], ttl: {min: 1s, max: 60s}}\n",
    )
}

fn entries(node: &Node, map: &str) -> Result<u64> {
    let usage = node.usage()?;
    Ok(usage.iter().find(|usage| usage.0 == map).context("no such map")?.1)
}

#[test]
fn what_has_ended_gives_its_room_back() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    let _resolver = Resolver::start(&scene)?;
    scene.enforce(&mut node, &named()?)?;
    // Each name takes a place as well.
    let names = GRANTS_PER_WORKLOAD / (EACH + 1);
    assert_eq!(ask(&scene, 0..names)? as u64, names);
    assert_eq!(entries(&node, "grants")?, names * EACH);
    let rejected =
        |node: &Node| -> Result<u64> { Ok(node.state(scene.id()?)?.dns.rejected[Rejection::Quota as usize]) };
    assert_eq!((ask(&scene, names..names + 1)?, rejected(&node)?), (0, 1), "no room is left");

    node.sweep_grants(boot_ns()?)?;
    assert_eq!(entries(&node, "grants")?, names * EACH, "what has just ended is left alone");
    assert_eq!((ask(&scene, names..names + 1)?, rejected(&node)?), (0, 2), "no room was given back");

    node.sweep_grants(boot_ns()? + MINUTES)?;
    assert_eq!((entries(&node, "grants")?, entries(&node, "granted_names")?), (0, 0));
    assert_eq!((ask(&scene, 0..names)? as u64, rejected(&node)?), (names, 2), "all of the room is back");
    assert_eq!((ask(&scene, names..names + 1)?, rejected(&node)?), (0, 3), "and no more");

    node.sweep_grants(boot_ns()? + 60 * MINUTES)?;
    assert_eq!((entries(&node, "grants")?, entries(&node, "granted_names")?), (0, 0));
    Ok(())
}

#[test]
fn an_open_address_is_told_with_its_name_and_goes_with_its_workload() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    let other = TestCgroup::new()?;
    let _resolver = Resolver::start(&scene)?;
    scene.enforce(&mut node, &named()?)?;
    enforce(&mut node, other.path(), &named()?)?;
    assert_eq!(ask(&scene, 3..4)?, 1);
    let told = node.grants()?;
    assert_eq!(told.len(), 1);
    let open = &told[&scene.id()?];
    assert_eq!(open.len() as u64, EACH);
    assert!(open.iter().all(|open| open.name.as_deref() == Some("n3.many.example")), "{open:?}");
    assert!(open.iter().any(|open| open.address == IpAddr::from([10, 80, 0, 192])), "{open:?}");
    assert!(open.iter().all(|open| open.until - open.since == 1_000_000_000), "{open:?}");

    node.sweep_grants(boot_ns()? + MINUTES)?;
    assert_eq!(entries(&node, "grants")?, EACH, "there is room, and a connection may live by it");
    assert!(node.grants()?.len() <= 1 && node.remembered_grants(scene.id()?)?.len() as u64 == EACH);

    // A reload does not forget what was opened.
    drop(node);
    let (mut node, adopted) = bpffs.open()?;
    assert_eq!((adopted.len(), entries(&node, "grants")?, entries(&node, "granted_names")?), (2, EACH, 1));
    node.release(other.id()?)?;
    assert_eq!(entries(&node, "grants")?, EACH, "another's");
    node.release(scene.id()?)?;
    assert_eq!((entries(&node, "grants")?, entries(&node, "granted_names")?), (0, 0));
    Ok(())
}

/// A name is looked up once for its query and its answer: not for another workload, and not under another ruleset.
#[test]
fn what_was_looked_up_for_one_is_not_anothers() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    let other = TestCgroup::new()?;
    let _resolver = Resolver::start(&scene)?;
    let dns = "  dns: {resolvers: [10.77.2.2/32]}\n";
    let other_name = words_with("    - {domains: [other.example], ports: [80], why: test}", dns)?;
    scene.enforce(&mut node, &named()?)?;
    scene.enforce_on(&other, &mut node, &other_name)?;
    for _ in 0..3 {
        assert_eq!((ask(&scene, 3..4)?, ask_in(&scene, &other, 3..4)?), (1, 0));
    }
    let refused = |node: &Node, id| -> Result<u64> {
        Ok(node.state(id)?.counts[Reason::DnsName as usize].iter().sum())
    };
    assert_eq!((refused(&node, scene.id()?)?, refused(&node, other.id()?)?), (0, 3));
    for swaps in 1..4 {
        assert!(node.swap(scene.id()?, &other_name)? && node.swap(other.id()?, &named()?)?);
        assert_eq!((ask(&scene, 3..4)?, ask_in(&scene, &other, 3..4)?), (0, 1));
        assert!(node.swap(scene.id()?, &named()?)? && node.swap(other.id()?, &other_name)?);
        assert_eq!((ask(&scene, 3..4)?, ask_in(&scene, &other, 3..4)?), (1, 0));
        assert_eq!((refused(&node, scene.id()?)?, refused(&node, other.id()?)?), (swaps, 3 + swaps));
    }
    // Neither is it kept for the workloads of an agent that begins anew, with the same numbers.
    let pinned = |map: &str| bpffs.pins().join("maps").join(map).exists();
    assert!(pinned("BINDINGS") && !pinned("SCRATCH"));
    // Nobody else asks in between.
    for words in [&named()?, &other_name] {
        node.swap(scene.id()?, words)?;
        assert_eq!(ask(&scene, 3..4)?, usize::from(words != &other_name));
    }
    Ok(())
}

/// Tries TCP from inside, in vain.
fn attempt(scene: &Scene, to: SocketAddr) -> Result<()> {
    let program = format!(
        "import socket\ntry: socket.create_connection(('{}',{}),1)\nexcept OSError: pass",
        to.ip(),
        to.port()
    );
    let mut command = scene.world.host("job").command("python3");
    command.args(["-c", &program]);
    ensure!(scene.cgroup.spawn(command)?.wait()?.success(), "the program failed");
    Ok(())
}

#[test]
fn a_record_tells_by_which_name_its_destination_was_found() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    let _resolver = Resolver::start(&scene)?;
    scene.enforce(&mut node, &named()?)?;
    assert_eq!(ask(&scene, 3..4)?, 1);
    // Another port than the entry's; an address beside those of the answer; and the resolver itself.
    attempt(&scene, SocketAddr::from(([10, 80, 0, 192], 81)))?;
    attempt(&scene, SocketAddr::from(([10, 80, 1, 0], 80)))?;
    attempt(&scene, scene.at(53))?;
    let mut told = Vec::new();
    node.drain_records(|_, record| {
        told.push((record.record.port, Reason::from_number(record.record.reason), asked_for(record)));
    });
    assert_eq!(
        told,
        [
            (81, Some(Reason::PortNotAllowed), Some("n3.many.example".to_owned())),
            (80, Some(Reason::NotAllowlisted), None),
            (53, Some(Reason::DnsTcp), None),
        ]
    );
    Ok(())
}

#[test]
fn what_opens_nothing_takes_little_room_and_goes_soon() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    let _resolver = Resolver::start(&scene)?;
    let words = words_with(
        "    - {domains: [n500.many.example], resolvesTo: [10.80.0.0/16], ports: [80], why: test}",
        "  mode: audit\n  dns: {resolvers: [10.77.2.2/32]}\n",
    )?;
    scene.enforce(&mut node, &words)?;
    assert_eq!(ask(&scene, 0..40)?, 40, "in audit all are answered");
    let taken =
        |node: &Node| Ok::<_, anyhow::Error>(entries(node, "grants")? + entries(node, "granted_names")?);
    assert_eq!(taken(&node)?, UNOPENED_PER_WORKLOAD);
    assert_eq!((node.grants()?.len(), node.state(scene.id()?)?.dns.grants), (0, 0), "none of them is open");
    assert_eq!(ask(&scene, 500..501)?, 1);
    assert_eq!(taken(&node)?, UNOPENED_PER_WORKLOAD + EACH + 1);
    assert_eq!(
        (node.grants()?[&scene.id()?].len() as u64, node.state(scene.id()?)?.dns.grants),
        (EACH, EACH)
    );
    // A minute later, and as long as an address is left alone.
    node.sweep_grants(boot_ns()? + UNOPENED_NS + MINUTES / 2)?;
    assert_eq!((entries(&node, "grants")?, entries(&node, "granted_names")?), (EACH, 1));
    node.release(scene.id()?)?;
    assert_eq!(taken(&node)?, 0);
    Ok(())
}

#[test]
fn adoption_removes_what_is_nobodys() -> Result<()> {
    let bpffs = Bpffs::new()?;
    let scene = Scene::new()?;
    let (mut node, _) = bpffs.open()?;
    let _resolver = Resolver::start(&scene)?;
    scene.enforce(&mut node, &named()?)?;
    assert_eq!(ask(&scene, 0..2)?, 2);
    drop(node);
    // Its cgroup goes while no agent is there to hear of it.
    drop(scene);
    let (node, adopted) = bpffs.open()?;
    assert!(adopted.is_empty());
    assert_eq!((entries(&node, "grants")?, entries(&node, "granted_names")?), (0, 0));
    Ok(())
}
