//! Somebody else's programs on a cgroup above.

use anyhow::Result;
use egress_warden_tests::bpf::{ALLOW_MULTI, ALLOW_OVERRIDE, CONNECT4, EGRESS, PASS, SENDMSG4, UNDO, attach};
use egress_warden_tests::job::Allowlists;
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

/// Two calls out by a fresh socket, two by one that served a caller; each is silent, because connect is undone and the
/// SYN is not let out.
const CALLS: &str = r#"
listener = listen("0.0.0.0", 80)
say("ready")
made, _ = listener.accept()
made.sendall(b"hello")
fresh = socket.socket()
disconnect(made)
for out in [fresh, made]:
    out.settimeout(0.5)
    say(how(lambda: out.connect(("10.77.2.2", 90))))
datagram = udp("0.0.0.0", 0)
say(how(lambda: datagram.sendto(MARK, ("10.77.2.2", 90))))
allowed = tcp("10.77.3.2", 90)
say(allowed.recv(9).decode())
"#;

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
    program.expect("ETIMEDOUT")?;
    program.expect("ETIMEDOUT")?;
    program.expect("EPERM")?;
    program.expect("welcome")?;
    let report = program.finish()?;
    // The datagram is refused twice, by two hooks, but no datagram goes round the first one unseen: it is two attempts.
    report.assert_refused(&[("not_allowlisted", 4)]);
    wire.settle(job, allowed.at(9))?;
    let away = |frame: &egress_warden_tests::Frame| {
        frame.is_to_host(outside.v4.into()) && frame.destination_port == Some(90)
    };
    assert_eq!(wire.count(away), 0);
    assert!(wire.count(|frame| frame.is_to(allowed.at(90))) > 0);
    Ok(())
}
