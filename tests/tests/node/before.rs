//! Flows that are older than the enforcement: judged by destination, packet by packet, like any other.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use egress_warden::kernel::node::Node;
use egress_warden_tests::wait;

use crate::support::{Bpffs, ECHO, PORTS, Scene, opens, words};

/// Where the workload listens.
pub(crate) const LISTENS: u16 = 90;

/// Waits until something was refused.
fn refused(node: &Node, scene: &Scene) -> Result<()> {
    let id = scene.id()?;
    wait::until("a refused packet", wait::DEADLINE, || {
        node.state(id).ok().filter(|state| state.violations > 0)
    })?;
    Ok(())
}

#[test]
fn a_connection_from_before_goes_on_where_its_destination_is_allowed() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    let (mut connection, mut datagrams) = (scene.connection()?, scene.datagrams(PORTS[0])?);
    assert_eq!((connection.send()?, datagrams.send()?), (0, 0));
    let both = [ECHO, PORTS[0]]
        .map(|port| format!("    - {{cidrs: [10.77.2.2/32], ports: [{port}, {port}/udp], why: test}}\n"));
    scene.enforce(&mut node, &words(&both.concat())?)?;
    assert_eq!((connection.send()?, datagrams.send()?), (0, 0));
    assert_eq!(node.state(scene.id()?)?.violations, 0);
    Ok(())
}

#[test]
fn a_connection_from_before_ends_where_its_destination_is_not_allowed() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    let mut connection = scene.connection()?;
    assert_eq!(connection.send()?, 0);
    scene.enforce(&mut node, &opens(PORTS[0])?)?;
    connection.tell()?;
    refused(&node, &scene)?;
    assert!(node.swap(scene.id()?, &opens(ECHO)?)?);
    assert_eq!(connection.outcome()?, 0, "what was held back is sent again");
    Ok(())
}

#[test]
fn a_udp_socket_from_before_is_refused_where_its_destination_is_not_allowed() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    let mut datagrams = scene.datagrams(PORTS[0])?;
    assert_eq!(datagrams.send()?, 0);
    scene.enforce(&mut node, &opens(PORTS[1])?)?;
    assert_eq!(datagrams.send()?, libc::EPERM);
    let served = scene.served();
    assert!(node.swap(scene.id()?, &opens(PORTS[0])?)?);
    assert_eq!(datagrams.send()?, 0);
    assert_eq!(scene.served(), served + 1, "the refused one never arrived");
    Ok(())
}

/// Nothing says any more who began it, so it is judged as the workload's own: by the caller's port.
#[test]
fn a_call_from_before_is_answered_only_where_the_caller_is_allowed() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    let _server = EchoInside::start(&scene)?;
    let job = scene.world.host("job").at(LISTENS);
    let mut caller = scene.world.host("outside").enter(|| TcpStream::connect(job))?;
    caller.set_read_timeout(Some(wait::DEADLINE))?;
    let mut byte = [0];
    caller.write_all(b"a")?;
    caller.read_exact(&mut byte)?;
    scene.enforce(&mut node, &opens(PORTS[0])?)?;
    caller.write_all(b"b")?;
    refused(&node, &scene)?;
    caller.set_nonblocking(true)?;
    let silent = caller.read(&mut byte).map_err(|error| error.kind());
    assert_eq!(silent, Err(ErrorKind::WouldBlock));
    assert!(node.swap(scene.id()?, &opens(caller.local_addr()?.port())?)?);
    caller.set_nonblocking(false)?;
    caller.read_exact(&mut byte)?;
    assert_eq!(&byte, b"b", "what was held back is sent again");
    Ok(())
}

/// Serves one caller inside the workload.
pub(crate) struct EchoInside(Child);

impl EchoInside {
    pub(crate) fn start(scene: &Scene) -> Result<Self> {
        let program = format!(
            "import socket\nlistener=socket.create_server(('',{LISTENS}))\nprint(flush=True)\n\
             made,_=listener.accept()\nwhile True: made.sendall(made.recv(9))\n"
        );
        let mut command = scene.world.host("job").command("python3");
        command.args(["-c", &program]).stdout(Stdio::piped());
        let mut server = Self(scene.cgroup.spawn(command)?);
        server.0.stdout.as_mut().context("a pipe")?.read_exact(&mut [0])?;
        Ok(server)
    }
}

impl Drop for EchoInside {
    fn drop(&mut self) {
        // Gone already where its cgroup was removed first.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
