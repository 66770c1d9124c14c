//! Flows on the real kernel: what may be answered, what is forged, and which packets carry their destination openly.

#[path = "flows/callers.rs"]
mod callers;
#[path = "flows/counted.rs"]
mod counted;
#[path = "flows/forged.rs"]
mod forged;
#[path = "flows/forged_audit.rs"]
mod forged_audit;
#[path = "flows/large.rs"]
mod large;
#[path = "flows/loopback.rs"]
mod loopback;
#[path = "flows/one_socket.rs"]
mod one_socket;
#[path = "flows/options.rs"]
mod options;
#[path = "flows/own_host.rs"]
mod own_host;
#[path = "flows/passed.rs"]
mod passed;
#[path = "flows/replies_tcp.rs"]
mod replies_tcp;
#[path = "flows/replies_udp.rs"]
mod replies_udp;
#[path = "flows/sending.rs"]
mod sending;
#[path = "flows/shapes.rs"]
mod shapes;
#[path = "flows/socket_types.rs"]
mod socket_types;
#[path = "flows/turned.rs"]
mod turned;

use std::net::IpAddr;

use anyhow::Result;
use egress_warden_tests::{Capture, Direction, Frame, Host, World};

/// What payloads of the programs begin with: `MARK` of the Python side.
const MARK: &[u8] = b"egress-warden test packet";

/// A job, a caller outside that may know of it, and somebody whom nobody allows.
fn world() -> Result<World> {
    World::new(&["job", "caller", "outside"])
}

/// What leaves the job, on the router's end of its wire: before any route could lose it.
fn wire(world: &World) -> Result<Capture> {
    Capture::start(world.router(), "job")
}

/// Waits until everything is seen that the job's namespace has sent.
fn settle(wire: &Capture, world: &World) -> Result<()> {
    wire.settle(world.host("job"), world.host("caller").at(9))
}

fn is_to(frame: &Frame, host: &Host) -> bool {
    [IpAddr::V4(host.v4), IpAddr::V6(host.v6)].iter().any(|ip| frame.is_to_host(*ip))
}

/// Whether the job sent it and it carries the mark; an ICMP error that quotes it comes the other way.
fn is_marked(frame: &Frame) -> bool {
    frame.direction == Direction::In && frame.bytes.windows(MARK.len()).any(|bytes| bytes == MARK)
}
