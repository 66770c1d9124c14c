//! A UDP flow that began inside ends with its entry, whatever the peer sends.

use std::net::{SocketAddr, UdpSocket};

use anyhow::Result;
use egress_warden_common::Reason;

use crate::loaded::Enforced;
use crate::support::{Allowlists, Scene};

const ENTRIES: &str = r#"
- cidrs: [10.77.2.2/32, "fd77:2::2/128"]
  ports: [9000-9001/udp]
  expires: 2090-01-01T00:00:00Z
  why: for a while
"#;

/// The second of [`ENTRIES`], from which on it is closed.
const DEADLINE_SECONDS: u64 = 3_786_912_000;

/// `here` is where the job's socket is, `peers` are what it may write to, `other` what it may not.
fn ends(here: SocketAddr, peers: [SocketAddr; 2], other: SocketAddr) -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = Allowlists::enforce(ENTRIES)?;
    let mut enforced = Enforced::new(allowlists.path(), scene.job())?;
    let bind = |place: SocketAddr| scene.outside().enter(|| UdpSocket::bind(place));
    let sockets = [bind(peers[0])?, bind(peers[1])?];
    let caller = bind(other)?;
    let mut python = enforced.python(scene.job())?;
    let to = |place: SocketAddr| format!("('{}', {})", place.ip(), place.port());
    python.tell(&format!("globals().update(u=socket.socket(family('{}'), SOCK_DGRAM))", here.ip()))?;
    python.tell(&format!("u.bind({})", to(here)))?;
    python.tell("u.settimeout(10)")?;

    enforced.set_time(Some(DEADLINE_SECONDS - 3600))?;
    for _ in 0..2 {
        for peer in peers {
            assert_eq!(python.errno_of(&format!("u.sendto, b'before', {}", to(peer)))?, 0, "{peer}");
        }
        // Late: the socket has written to somebody else since.
        for socket in &sockets {
            socket.send_to(b"answer", here)?;
            assert_eq!(python.tell("u.recv(9)")?, "b'answer'");
        }
    }
    enforced.set_time(Some(DEADLINE_SECONDS))?;
    for _ in 0..2 {
        for (socket, peer) in sockets.iter().zip(peers) {
            socket.send_to(b"more", here)?;
            assert_eq!(python.tell("u.recv(9)")?, "b'more'");
            let sent = python.errno_of(&format!("u.sendto, b'after', {}", to(peer)))?;
            assert_eq!(sent, libc::EPERM, "{peer} after the deadline");
        }
    }
    assert_eq!((enforced.count(Reason::Expired)?, enforced.total()?), (4, 4));
    // The control: who calls from where no entry ever led is answered, by the same socket.
    caller.send_to(b"call", here)?;
    assert_eq!(python.tell("u.recv(9)")?, "b'call'");
    assert_eq!(python.errno_of(&format!("u.sendto, b'reply', {}", to(other)))?, 0);
    scene.settle()?;
    for peer in peers {
        assert_eq!(scene.payloads(peer), ["before", "before"]);
    }
    assert_eq!(scene.payloads(other), ["reply"]);
    Ok(())
}

#[test]
fn a_flow_that_began_inside_ends_with_its_entry() -> Result<()> {
    let places = |address: &str| -> Result<[SocketAddr; 2]> {
        Ok([format!("{address}:9000").parse()?, format!("{address}:9001").parse()?])
    };
    ends("10.77.1.2:7000".parse()?, places("10.77.2.2")?, "10.88.0.9:9000".parse()?)?;
    ends("[fd77:1::2]:7000".parse()?, places("[fd77:2::2]")?, "[fd88::9]:9000".parse()?)
}
