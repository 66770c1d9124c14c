//! Sockets that cross the jail's wall over a unix socket. A socket belongs to the cgroup that made it, whoever uses it.

use anyhow::Result;
use egress_warden_tests::job::{Allowlists, Job, outsider};
use egress_warden_tests::server::Server;

use super::{is_marked, is_to, settle, wire, world};

/// Makes a TCP and a UDP socket and gives them away.
const GIVES: &str = r#"
channel = socket.socket(socket.AF_UNIX)
channel.bind("@")
channel.listen()
say("ready")
made, _ = channel.accept()
given = [socket.socket(), udp("0.0.0.0", 0)]
socket.send_fds(made, [b"x"], [one.fileno() for one in given])
wait()
"#;

/// Takes them and calls out with them.
const TAKES: &str = r#"
channel = socket.socket(socket.AF_UNIX)
channel.connect("@")
_, descriptors, _, _ = socket.recv_fds(channel, 9, 2)
stream, datagram = [socket.socket(fileno=descriptor) for descriptor in descriptors]
stream.settimeout(2)
say(how(lambda: stream.connect(("10.77.3.2", 90))), how(lambda: datagram.sendto(MARK, ("10.77.3.2", 90))))
"#;

fn filled(program: &str, lists: &Allowlists) -> String {
    program.replace('@', &lists.scratch("channel").display().to_string())
}

fn give(mut giver: Job, mut taker: impl FnMut() -> Result<Job>, expected: &str) -> Result<(Job, Job)> {
    giver.expect("ready")?;
    let mut taker = taker()?;
    taker.expect(expected)?;
    giver.tell("stop")?;
    Ok((giver, taker))
}

#[test]
fn made_inside_and_used_outside_stays_enforced() -> Result<()> {
    let world = world()?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let wire = wire(&world)?;
    let _service = Server::tcp_greeter(outside, outside.at(90), b"hello")?;
    let lists = Allowlists::new(&[], &[])?;
    let giver = lists.start(job, &[], &filled(GIVES, &lists))?;
    let (giver, taker) = give(giver, || outsider(job, &filled(TAKES, &lists)), "EPERM EPERM")?;
    taker.finish()?;
    giver.finish()?.assert_refused(&[("not_allowlisted", 2)]);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, outside)), 0);
    Ok(())
}

/// Said plainly in the threat model: what somebody outside makes and hands in is his. The jail keeps inherited sockets
/// out and covers the sockets of daemons; it cannot keep out what a helper outside means to give.
#[test]
fn made_outside_and_used_inside_belongs_to_the_outside() -> Result<()> {
    let world = world()?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let wire = wire(&world)?;
    let _service = Server::tcp_greeter(outside, outside.at(90), b"hello")?;
    let lists = Allowlists::new(&[], &[])?;
    let giver = outsider(job, &filled(GIVES, &lists))?;
    let (giver, taker) = give(giver, || lists.start(job, &[], &filled(TAKES, &lists)), "ok ok")?;
    giver.finish()?;
    taker.finish()?.assert_refused(&[]);
    settle(&wire, &world)?;
    assert_eq!(wire.count(is_marked), 1, "the datagram leaves");
    Ok(())
}
