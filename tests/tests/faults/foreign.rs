//! Somebody else's programs on a cgroup above.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use anyhow::Result;
use egress_warden_tests::bpf::{ALLOW_MULTI, ALLOW_OVERRIDE, CONNECT4, EGRESS, PASS, SENDMSG4, UNDO, attach};
use egress_warden_tests::job::{Allowlists, python};
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::DEADLINE;
use egress_warden_tests::{Capture, TestCgroup, World};

use super::Bench;

#[test]
fn an_exclusive_program_above_is_named() -> Result<()> {
    for (hook, name) in [(EGRESS, "cgroup_skb/egress"), (CONNECT4, "cgroup/connect4")] {
        for flags in [0, ALLOW_OVERRIDE] {
            let bench = Bench::new()?;
            let id = attach(&bench.cgroup, hook, PASS, flags)?;
            let path = bench.cgroup.path().display().to_string();
            let needles = [&path, name, &format!("id {id}"), "BPF_F_ALLOW_MULTI"];
            bench.refused_with(bench.exec(&bench.arguments())?, &needles)?;
        }
    }
    Ok(())
}

#[test]
fn a_program_that_shares_is_no_obstacle() -> Result<()> {
    let bench = Bench::new()?;
    for hook in [EGRESS, CONNECT4, SENDMSG4] {
        attach(&bench.cgroup, hook, PASS, ALLOW_MULTI)?;
    }
    bench.succeeds(bench.exec(&bench.arguments())?).map(drop)
}

/// Calls out with a fresh socket, with one that served a caller, and with one that the other side calls meanwhile; each is
/// silent, because connect is undone and the SYN is not let out.
const CALLS: &str = r#"
listener = listen("0.0.0.0", 80)
say("ready")
made, _ = listener.accept()
made.sendall(b"hello")
wait()
fresh = socket.socket()
disconnect(made)
for out in [fresh, made]:
    out.settimeout(0.5)
    say(how(lambda: out.connect(("10.77.2.2", 90))))
crossing = socket.socket()
crossing.bind(("0.0.0.0", 600))
crossing.settimeout(2)
say("calling")
say(how(lambda: crossing.connect(("10.77.2.2", 91))))
datagram = udp("0.0.0.0", 0)
for _ in range(5):
    say(how(lambda: datagram.sendto(MARK, ("10.77.2.2", 90))))
datagram.connect(("10.77.2.2", 90))
say(how(lambda: datagram.send(MARK)))
allowed = tcp("10.77.3.2", 90)
say(allowed.recv(9).decode())
"#;

/// Whether a call from one exact place to another is answered within a second.
fn calls_from(here: SocketAddr, there: SocketAddr) -> Result<bool> {
    let program = format!(
        "made = socket.socket()\nmade.bind(('{}', {}))\nmade.settimeout(1)\nmade.connect(('{}', {}))\n",
        here.ip(),
        here.port(),
        there.ip(),
        there.port()
    );
    let [python, option, program] = python(&program);
    let status = Command::new(python).args([option, program]).stderr(Stdio::null()).status()?;
    Ok(status.success())
}

#[test]
fn an_undone_refusal_is_refused_at_egress_and_counted_once() -> Result<()> {
    let world = World::new(&["job", "outside", "allowed"])?;
    let (job, outside, allowed) = (world.host("job"), world.host("outside"), world.host("allowed"));
    let wire = Capture::start(world.router(), "job")?;
    let cgroup = TestCgroup::new()?;
    for hook in [CONNECT4, SENDMSG4] {
        attach(&cgroup, hook, UNDO, ALLOW_MULTI)?;
    }
    let _service = Server::tcp_greeter(allowed, allowed.at(90), b"welcome")?;
    let _temptation = Server::tcp_greeter(outside, outside.at(90), b"never")?;
    let lists = Allowlists::new(&["cidrs: [10.77.3.2/32], ports: [90]"], &[])?;
    let mut program = lists.start_below(&cgroup, job, CALLS)?;
    program.expect("ready")?;
    // The caller is the refused host: its mark must not outlive the call.
    let _stream = outside.enter(|| std::net::TcpStream::connect_timeout(&job.at(80), DEADLINE))?;
    program.tell("go")?;
    program.expect("ETIMEDOUT")?;
    program.expect("ETIMEDOUT")?;
    program.expect("calling")?;
    // Its SYN finds a socket that has sent one: what accepts it must not leave either.
    let met = outside.enter(|| calls_from(outside.at(91), job.at(600)))?;
    assert!(!met, "nobody answers");
    program.expect("ETIMEDOUT")?;
    for _ in 0..6 {
        program.expect("EPERM")?;
    }
    program.expect("welcome")?;
    let report = program.finish()?;
    // Each of three connections and of six datagrams once, although both sendmsg and egress refuse five of them.
    report.assert_refused(&[("not_allowlisted", 9)]);
    wire.settle(job, allowed.at(9))?;
    let away = |frame: &egress_warden_tests::Frame| {
        frame.is_to_host(outside.v4.into()) && matches!(frame.destination_port, Some(90 | 91))
    };
    assert_eq!(wire.count(away), 0);
    assert!(wire.count(|frame| frame.is_to(allowed.at(90))) > 0);
    Ok(())
}
