//! The two ways to have a program on an interface, tcx and clsact: what others have there, and what befalls the interface.
//!
//! Where clsact is asked for, the thread may not link to an interface, as on a kernel before 6.6.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_warden::kernel::OwnNamespace;
use egress_warden::kernel::node::{self, Node, NodeOptions};
use egress_warden_common::{Protocol, Reason};
use egress_warden_tests::forge::{Forgery, is_forged};
use egress_warden_tests::probe::{Attempt, probe_binary};
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::DEADLINE;
use egress_warden_tests::{Capture, bpf};

use super::support::{Bpffs, Scene, words};

/// The workload's wire on the router.
const WIRE: &str = "job";
const OPEN: &str = "    - {cidrs: [10.77.2.2/32, \"fd77:2::2/128\"], ports: [80/udp], why: test}";
/// How long the frame of a probe over IPv6 is: 14 + 40 + 8 + 5.
const PROBE_V6: u32 = 67;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tcx,
    Clsact,
}

/// A workload behind the router, and a host that it may reach.
struct Wire {
    capture: Capture,
    _server: Server,
    scene: Scene,
    keeper: Child,
    bpffs: Bpffs,
}

impl Wire {
    fn new() -> Result<Wire> {
        let scene = Scene::new()?;
        let outside = scene.world.host("outside");
        let capture = Capture::start(outside, "eth0")?;
        let server = Server::udp_echo(outside, outside.at_v6(80))?;
        let mut command = scene.world.host("job").command("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let keeper = command.spawn()?;
        let wire = Wire { capture, _server: server, scene, keeper, bpffs: Bpffs::new()? };
        // Also has the neighbours know one another.
        wire.expect_allowed()?;
        Ok(wire)
    }

    /// Runs something where the agent would run.
    fn enter<T: Send>(&self, way: Way, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.scene.world.router().enter(|| {
            if way == Way::Clsact {
                bpf::forbid_tcx()?;
            }
            body()
        })
    }

    fn namespace(&self) -> Result<OwnNamespace> {
        OwnNamespace::of_process(self.keeper.id())?.context("a namespace of its own")
    }

    /// Enforces; tells why there is no backstop, if there is none.
    fn enforce(&self, node: &mut Node) -> Result<Option<String>> {
        let directory = File::open(self.scene.cgroup.path())?;
        let (id, path) = (self.scene.id()?, self.scene.cgroup.path());
        node.enforce(id, directory.as_fd(), path, &words(OPEN)?, Some(&self.namespace()?))?;
        let [found] = node.backstops(id).context("the network is known")? else { unreachable!("one wire") };
        Ok(found.missing.clone())
    }

    fn opened(&self) -> Result<Node> {
        let (mut node, _) = self.bpffs.open()?;
        let missing = self.enforce(&mut node)?;
        ensure!(missing.is_none(), "{missing:?}");
        Ok(node)
    }

    fn attempt_v4(&self) -> Result<()> {
        let (job, to) = (self.scene.world.host("job"), self.scene.at(80));
        let outcome = Attempt::Udp.make_inside(job, &self.scene.cgroup, to, DEADLINE)?;
        ensure!(outcome.is_ok(), "{outcome:?}");
        Ok(())
    }

    fn expect_allowed(&self) -> Result<()> {
        self.attempt_v4()?;
        ensure!(self.arrives_v6()?, "it does not arrive");
        Ok(())
    }

    fn arrives_v6(&self) -> Result<bool> {
        let to = self.scene.world.host("outside").at_v6(80);
        let before = self.capture.count(|frame| frame.is_to(to));
        let moment = Duration::from_millis(1);
        Attempt::Udp.make_inside(self.scene.world.host("job"), &self.scene.cgroup, to, moment)?;
        self.capture.settle(self.scene.world.router(), self.scene.at(9))?;
        Ok(self.capture.count(|frame| frame.is_to(to)) > before)
    }

    /// Does a frame that the workload makes by hand arrive?
    fn forged_arrives(&self) -> Result<bool> {
        let host = self.scene.world.host("job");
        let before = self.capture.count(is_forged);
        let to = std::net::SocketAddrV4::new(self.scene.world.host("outside").v4, 80);
        let mut command = host.command(probe_binary()?);
        command.args(Forgery::Frame.arguments(host.v4, to, 1));
        ensure!(self.scene.cgroup.spawn(command)?.wait()?.success());
        self.capture.settle(self.scene.world.router(), self.scene.at(9))?;
        Ok(self.capture.count(is_forged) > before)
    }

    fn refused_frames(&self, node: &Node) -> Result<u64> {
        let state = node.state(self.scene.id()?)?;
        let counts = state.counts[Reason::SocketType as usize];
        Ok(Protocol::ALL.iter().map(|protocol| counts[*protocol as usize]).sum())
    }

    /// What is pinned for interfaces: their directories, and the links in them.
    fn pinned(&self) -> Result<(usize, usize)> {
        let (mut interfaces, mut links) = (0, 0);
        for interface in fs::read_dir(self.bpffs.pins().join("interfaces"))? {
            interfaces += 1;
            links += fs::read_dir(interface?.path())?.count();
        }
        Ok((interfaces, links))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.keeper.kill().ok();
        self.keeper.wait().ok();
    }
}

/// Runs a command in the calling thread's network namespace.
fn run(line: &str) -> Result<String> {
    let mut words = line.split(' ');
    let output = std::process::Command::new(words.next().context("a program")?).args(words).output()?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The agent's programs on an interface: ids of those by tcx, lines that tell of the filters.
fn attached(interface: &str) -> Result<(Vec<u32>, Vec<String>)> {
    let mut filters = Vec::new();
    for direction in ["ingress", "egress"] {
        let text = run(&format!("tc filter show dev {interface} {direction}"))?;
        let ours = text.lines().filter(|line| line.contains("egress-warden/"));
        filters.extend(ours.map(|line| format!("{direction} {}", line.trim())));
    }
    Ok((bpf::programs_on_interface(interface)?, filters))
}

fn expect_attached(way: Way, interface: &str, count: usize) -> Result<()> {
    let (links, filters) = attached(interface)?;
    let (ours, none) =
        if way == Way::Tcx { (links.len(), filters.len()) } else { (filters.len(), links.len()) };
    ensure!((ours, none) == (count, 0), "{way:?}: {links:?} {filters:?}");
    Ok(())
}

#[test]
fn a_filter_outlives_the_agent_is_replaced_in_place_and_goes() -> Result<()> {
    let wire = Wire::new()?;
    wire.enter(Way::Clsact, || {
        drop(wire.opened()?);
        let (_, first) = attached(WIRE)?;
        assert_eq!(first.len(), 2, "{first:?}");
        assert!(first[0].starts_with("ingress") && first[0].contains("egress-warden/backstop"), "{first:?}");
        assert!(first[1].starts_with("egress") && first[1].contains("egress-warden/callers"), "{first:?}");
        assert_eq!(wire.pinned()?, (1, 0), "filters need no pin");
        assert!(!wire.forged_arrives()?);

        let (node, adopted) = wire.bpffs.open()?;
        assert_eq!((adopted.len(), wire.refused_frames(&node)?), (1, 1));
        assert_eq!(attached(WIRE)?.1, first);
        drop(node);

        // Programs with diagnostics stand for a newer version.
        let (node, _) = Node::open(&NodeOptions { log: true, ..wire.bpffs.options() })?;
        let (_, second) = attached(WIRE)?;
        assert!(second.len() == 2 && second != first, "{second:?} {first:?}");
        assert!(!wire.forged_arrives()?);
        assert_eq!(wire.refused_frames(&node)?, 2);
        wire.expect_allowed()?;
        drop(node);

        assert_eq!(node::detach(wire.bpffs.path(), "egress-warden", true)?, 1);
        expect_attached(Way::Clsact, WIRE, 0)?;
        assert!(wire.forged_arrives()?);
        Ok(())
    })
}

#[test]
fn filters_and_qdisc_of_others_stay_and_go_on_working() -> Result<()> {
    for way in [Way::Clsact, Way::Tcx] {
        let wire = Wire::new()?;
        wire.enter(way, || {
            // The file system of the test is mounted by the first node.
            drop(wire.bpffs.open()?);
            let pin = wire.bpffs.path().join("other");
            bpf::LengthFilter::new(PROBE_V6)?.pin(&pin)?;
            run(&format!("tc qdisc add dev {WIRE} clsact"))?;
            // The priority of the backstop's, and a later one.
            for priority in [1, 7] {
                let add = format!("tc filter add dev {WIRE} ingress prio {priority} protocol all");
                run(&format!("{add} bpf da object-pinned {}", pin.display()))?;
            }
            let others =
                || run(&format!("tc filter show dev {WIRE} ingress")).map(|text| count_others(&text));
            assert_eq!((others()?, wire.arrives_v6()?), (2, false));

            let mut node = wire.opened()?;
            expect_attached(way, WIRE, 2)?;
            assert_eq!((others()?, wire.arrives_v6()?, wire.forged_arrives()?), (2, false, false));
            wire.attempt_v4()?;

            node.release(wire.scene.id()?)?;
            expect_attached(way, WIRE, 0)?;
            assert_eq!((others()?, wire.arrives_v6()?, wire.forged_arrives()?), (2, false, true));
            let qdiscs = run(&format!("tc qdisc show dev {WIRE} clsact"))?;
            ensure!(qdiscs.contains("clsact"), "{qdiscs}");
            Ok(())
        })?;
    }
    Ok(())
}

fn count_others(filters: &str) -> usize {
    filters.lines().filter(|line| line.contains("handle") && !line.contains("egress-warden/")).count()
}

#[test]
fn programs_of_others_by_tcx_stay_and_go_on_working() -> Result<()> {
    let wire = Wire::new()?;
    wire.enter(Way::Tcx, || {
        // No program is attached twice to one interface.
        let others = [bpf::LengthFilter::new(PROBE_V6)?, bpf::LengthFilter::new(PROBE_V6)?];
        let before = others[0].attach(WIRE)?;
        let (first, _) = attached(WIRE)?;
        assert!(!wire.arrives_v6()?);
        let mut node = wire.opened()?;
        let behind = others[1].attach(WIRE)?;
        let (all, _) = attached(WIRE)?;
        assert_eq!((all.len(), all[1]), (4, first[0]), "in front of those that were there");
        assert_eq!((wire.arrives_v6()?, wire.forged_arrives()?), (false, false));
        wire.attempt_v4()?;
        node.release(wire.scene.id()?)?;
        assert_eq!((attached(WIRE)?.0.len(), wire.arrives_v6()?, wire.forged_arrives()?), (2, false, true));
        drop((before, behind));
        wire.expect_allowed()
    })
}

#[test]
fn a_place_that_is_taken_is_told_and_leaves_nothing_behind() -> Result<()> {
    const U32: &str = "tc filter add dev job ingress prio 1 protocol ip u32 match u32 0 0 classid 1:1";
    const BPF: &str = "tc filter add dev job egress prio 1 protocol ip bpf bytecode 1,6 0 0 0 classid 1:1";
    for (others, expected) in [
        (["tc qdisc add dev job clsact", U32].as_slice(), "the filters of priority 1 at tc/ingress"),
        (&["tc qdisc add dev job clsact", BPF], "the filters of priority 1 at tc/egress"),
        (&["tc qdisc add dev job ingress"], "has an `ingress` qdisc"),
    ] {
        let wire = Wire::new()?;
        wire.enter(Way::Clsact, || {
            for line in others {
                // The byte code is one word.
                match line.split_once("bytecode ") {
                    Some((head, _)) => run_bytecode(head)?,
                    None => drop(run(line)?),
                }
            }
            let (mut node, _) = wire.bpffs.open()?;
            let missing = wire.enforce(&mut node)?.context("it has a backstop")?;
            ensure!(missing.contains(expected), "{missing}");
            expect_attached(Way::Clsact, WIRE, 0)?;
            assert_eq!(wire.pinned()?, (0, 0));
            // The programs on the cgroup enforce all the same.
            let outcome = wire.scene.attempt(81)?;
            ensure!(outcome.is_refused(), "{outcome:?}");
            wire.expect_allowed()
        })?;
    }
    Ok(())
}

fn run_bytecode(head: &str) -> Result<()> {
    let words = head.trim().split(' ').skip(1).chain(["bytecode", "1,6 0 0 0", "classid", "1:1"]);
    let output = std::process::Command::new("tc").args(words).output()?;
    ensure!(output.status.success(), "{head}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn an_interface_that_is_renamed_keeps_its_backstop() -> Result<()> {
    for way in [Way::Tcx, Way::Clsact] {
        let wire = Wire::new()?;
        wire.enter(way, || {
            let mut node = wire.opened()?;
            run("ip link set dev job name other")?;
            assert!(!wire.forged_arrives()?);
            expect_attached(way, "other", 2)?;
            node.set_namespace(wire.scene.id()?, &wire.namespace()?)?;
            expect_attached(way, "other", 2)?;
            drop(node);
            let (node, _) = wire.bpffs.open()?;
            expect_attached(way, "other", 2)?;
            assert!(!wire.forged_arrives()?);
            assert_eq!(wire.refused_frames(&node)?, 2);
            wire.expect_allowed()
        })?;
    }
    Ok(())
}

#[test]
fn an_interface_that_is_made_anew_gets_a_new_backstop() -> Result<()> {
    for way in [Way::Tcx, Way::Clsact] {
        let wire = Wire::new()?;
        wire.enter(way, || {
            let mut node = wire.opened()?;
            wire.scene.world.lay_again(WIRE)?;
            node.set_namespace(wire.scene.id()?, &wire.namespace()?)?;
            expect_attached(way, WIRE, 2)?;
            assert_eq!(wire.pinned()?.0, 1, "of the old one nothing is left");
            wire.expect_allowed()?;
            assert!(!wire.forged_arrives()?);
            assert_eq!(wire.refused_frames(&node)?, 1);

            // While no agent runs.
            drop(node);
            wire.scene.world.lay_again(WIRE)?;
            let (mut node, _) = wire.bpffs.open()?;
            assert_eq!(wire.pinned()?, (0, 0));
            node.set_namespace(wire.scene.id()?, &wire.namespace()?)?;
            expect_attached(way, WIRE, 2)?;
            wire.expect_allowed()?;
            assert!(!wire.forged_arrives()?);
            Ok(())
        })?;
    }
    Ok(())
}
