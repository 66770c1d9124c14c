//! "The world", as a CIDR, is not the job's own loopback.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use egress_warden_tests::job::Allowlists;
use egress_warden_tests::server::Server;
use egress_warden_tests::{Host, agent_binary};

use super::world;

const WORLD: &str = "cidrs: [0.0.0.0/0, \"::/0\"]";
const NAMED: &str = "cidrs: [127.0.0.1/32], ports: [81]";
const DENY: &[&str] = &["loopback: deny"];

const REACHES: &str = r#"
def reach(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(5)
    def ask():
        made.sendto(MARK, (host, port))
        made.recv(100)
    return how(lambda: tcp(host, port, family).close()) + "," + how(ask)
for host in ["10.77.2.2", "fd77:2::2", "127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "10.77.1.2", "fd77:1::2"]:
    say(host, reach(host, 81))
say(how(lambda: tcp("127.0.0.1", 82)))
"#;

/// Stream and datagram services at every address of a host, run by somebody under no policy.
fn services(host: &Host) -> Result<[Server; 2]> {
    let any = SocketAddr::from(([0_u16; 8], 81));
    Ok([Server::tcp_greeter(host, any, b"hello")?, Server::udp_echo(host, any)?])
}

/// The exit code of `explain` for this destination.
fn explained(lists: &Allowlists, to: &str) -> Result<i32> {
    let mut explain = std::process::Command::new(agent_binary()?);
    explain.arg("explain").arg("--allowlists").arg(lists.path()).args(["--policy", "job", "--to", to]);
    explain.output()?.status.code().context("explain was killed")
}

/// Runs the program, asserts what it says of 127.0.0.1 at ports 81 and 82, and that all else on loopback is refused.
fn reaches(entries: &[&str], named: &str, refused: &[(&str, u64)]) -> Result<Allowlists> {
    let world = world()?;
    let (job, caller) = (world.host("job"), world.host("caller"));
    let (own, _far) = (services(job)?, services(caller)?);
    let lists = Allowlists::new(entries, DENY)?;
    let mut program = lists.start(job, &[], REACHES)?;
    for host in ["10.77.2.2", "fd77:2::2"] {
        program.expect(&format!("{host} ok,ok"))?;
    }
    program.expect(&format!("127.0.0.1 {named}"))?;
    for host in ["127.9.9.9", "::1", "0.0.0.0", "::", "10.77.1.2", "fd77:1::2"] {
        program.expect(&format!("{host} EPERM,EPERM"))?;
    }
    program.expect("EPERM")?;
    program.finish()?.assert_refused(refused);
    let served = own[0].served();
    assert_eq!((served, own[1].served()), (usize::from(named.starts_with("ok")), 0));
    Ok(lists)
}

#[test]
fn the_world_opens_no_loopback() -> Result<()> {
    let lists = reaches(&[WORLD], "EPERM,EPERM", &[("loopback_denied", 15)])?;
    for to in ["127.0.0.1:81", "127.9.9.9:81", "[::1]:81", "0.0.0.0:81", "[::]:81", "127.0.0.1:81/udp"] {
        assert_eq!(explained(&lists, to)?, 3, "{to}");
    }
    for to in ["10.77.2.2:81", "[fd77:2::2]:81/udp", "128.0.0.1:81", "126.255.255.255:81"] {
        assert_eq!(explained(&lists, to)?, 0, "{to}");
    }
    Ok(())
}

#[test]
fn an_entry_that_names_loopback_opens_just_that() -> Result<()> {
    let refused = [("loopback_denied", 12), ("port_not_allowed", 1), ("protocol_not_allowed", 1)];
    let lists = reaches(&[WORLD, NAMED], "ok,EPERM", &refused)?;
    assert_eq!(explained(&lists, "127.0.0.1:81")?, 0);
    for to in ["127.0.0.1:82", "127.0.0.1:81/udp", "127.0.0.2:81", "[::1]:81"] {
        assert_eq!(explained(&lists, to)?, 3, "{to}");
    }
    Ok(())
}
