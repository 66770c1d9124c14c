//! Loopback, in a network namespace that is not the host's.

use anyhow::Result;
use egress_warden_tests::job::Allowlists;
use egress_warden_tests::server::Server;

use super::{is_marked, settle, wire, world};

/// Reaches, over TCP and UDP, services that it runs itself (ports 80) and that a neighbour runs (ports 81).
const REACHES: &str = r#"
def serve(listener):
    made, _ = listener.accept()
    made.sendall(b"hello")
def reach(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(5)
    def ask():
        made.sendto(MARK, (host, port))
        if port == 81:
            made.recv(100)
    return how(lambda: tcp(host, port, family).close()) + "," + how(ask)
listeners = [listen("::", 80, socket.AF_INET6, dual=True)]
sink = udp("::", 80, socket.AF_INET6)
say("ready")
wait()
for host in ["127.0.0.1", "127.9.9.9", "::1", "10.77.1.2", "fd77:1::2"]:
    say(host, reach(host, 80), reach(host, 81))
say("0.0.0.0", reach("0.0.0.0", 80))
"#;

const HOSTS: [&str; 5] = ["127.0.0.1", "127.9.9.9", "::1", "10.77.1.2", "fd77:1::2"];

#[test]
fn allowed_where_the_policy_says_nothing() -> Result<()> {
    let world = world()?;
    let job = world.host("job");
    let wire = wire(&world)?;
    let (_stream, _datagram) = neighbours(job)?;
    let lists = Allowlists::new(&[], &[])?;
    let mut program = lists.start(job, &[], REACHES)?;
    program.expect("ready")?;
    program.tell("go")?;
    for host in HOSTS {
        program.expect(&format!("{host} ok,ok ok,ok"))?;
    }
    program.expect("0.0.0.0 ok,ok")?;
    program.finish()?.assert_refused(&[]);
    settle(&wire, &world)?;
    assert_eq!(wire.count(is_marked), 0, "none of it leaves");
    Ok(())
}

#[test]
fn denied_but_for_the_place_that_an_entry_names() -> Result<()> {
    let world = world()?;
    let job = world.host("job");
    let (_stream, _datagram) = neighbours(job)?;
    let lists = Allowlists::new(&["cidrs: [127.0.0.1/32], ports: [81]"], &["loopback: deny"])?;
    let mut program = lists.start(job, &[], REACHES)?;
    program.expect("ready")?;
    program.tell("go")?;
    program.expect("127.0.0.1 EPERM,EPERM ok,EPERM")?;
    for host in &HOSTS[1..] {
        program.expect(&format!("{host} EPERM,EPERM EPERM,EPERM"))?;
    }
    program.expect("0.0.0.0 EPERM,EPERM")?;
    let report = program.finish()?;
    // Of 127.0.0.1 a TCP port is open, so the port or the protocol is what is wrong; of the others nothing is.
    report.assert_refused(&[("loopback_denied", 18), ("port_not_allowed", 1), ("protocol_not_allowed", 2)]);
    Ok(())
}

/// Stream and datagram services at every address of the job's namespace, run by somebody under no policy.
fn neighbours(job: &egress_warden_tests::Host) -> Result<(Server, Server)> {
    let any = std::net::SocketAddr::from(([0_u16; 8], 81));
    Ok((Server::tcp_greeter(job, any, b"hello")?, Server::udp_echo(job, any)?))
}

const LATER: &str = r#"
listener = listen("0.0.0.0", 80)
say("ready")
wait()
for host in ["10.77.1.77", "10.77.1.2"]:
    say(how(lambda: tcp(host, 80)), how(lambda: udp("0.0.0.0", 0).sendto(MARK, (host, 80))))
"#;

#[test]
fn an_address_added_later_is_not_known_as_an_own_one() -> Result<()> {
    let world = world()?;
    let job = world.host("job");
    let lists = Allowlists::new(&[], &[])?;
    let mut program = lists.start(job, &[], LATER)?;
    program.expect("ready")?;
    job.run(["ip", "addr", "add", "10.77.1.77/24", "dev", "eth0"])?;
    program.tell("go")?;
    // exec looks at the addresses once, when it starts: what is not known then is refused early.
    program.expect("EPERM EPERM")?;
    program.expect("ok ok")?;
    program.finish()?.assert_refused(&[("not_allowlisted", 2)]);
    Ok(())
}
