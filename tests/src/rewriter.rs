//! Somebody's load balancer on a cgroup, as tiny as it can be: a service's address becomes its backend's when a socket is
//! connected or sends to it, and the other way round in what a socket receives.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::TestCgroup;
use crate::bpf::{ALLOW_MULTI, Hook, attach};

/// The kernel's type of programs that see addresses.
const SOCK_ADDR: u32 = 18;
const CONNECT: [u32; 2] = [10, 11];
const SENDMSG: [u32; 2] = [14, 15];
const RECVMSG: [u32; 2] = [19, 20];
/// Where things stand in the kernel's `bpf_sock_addr`.
const ADDRESS_V4: u64 = 4;
const ADDRESS_V6: u64 = 8;
const PORT: u64 = 24;

/// Attaches one to a cgroup of the test, with which it goes away; behind all that are there. Service and backend are of one
/// family. Returns the ids of its programs.
///
/// # Errors
/// When the kernel refuses it.
pub fn rewrite(cgroup: &TestCgroup, service: SocketAddr, backend: SocketAddr) -> io::Result<Vec<u32>> {
    let family = usize::from(service.is_ipv6());
    let hook = |attach_type: u32| Hook::new(SOCK_ADDR, attach_type);
    let mut ids = Vec::new();
    for attach_type in [CONNECT[family], SENDMSG[family]] {
        ids.push(attach(cgroup, hook(attach_type), &turn(service, backend), ALLOW_MULTI)?);
    }
    ids.push(attach(cgroup, hook(RECVMSG[family]), &turn(backend, service), ALLOW_MULTI)?);
    Ok(ids)
}

/// `if (context names from) context names to; return 1`
fn turn(from: SocketAddr, to: SocketAddr) -> Vec<u64> {
    let (from, to) = (fields(from), fields(to));
    let mut program = Vec::new();
    // Two instructions for each comparison, two for each store; behind all of them stands the end.
    let stores = 2 * to.len() as u64;
    for (index, (offset, value)) in from.iter().enumerate() {
        let behind = 2 * (from.len() - 1 - index) as u64;
        // r2 = *(u32 *)(r1 + offset); if (u32)r2 != value goto end
        program.push(0x1261 | offset << 16);
        program.push(0x0256 | (behind + stores) << 16 | u64::from(*value) << 32);
    }
    for (offset, value) in &to {
        // (u32)r3 = value; *(u32 *)(r1 + offset) = r3
        program.push(0x03b4 | u64::from(*value) << 32);
        program.push(0x3163 | offset << 16);
    }
    // r0 = 1; exit
    program.extend([0x0000_0001_0000_00b7, 0x0095]);
    program
}

/// The words of the context that say where: each with its offset, in network byte order.
fn fields(at: SocketAddr) -> Vec<(u64, u32)> {
    let mut fields = match at.ip() {
        IpAddr::V4(v4) => vec![(ADDRESS_V4, u32::from_ne_bytes(v4.octets()))],
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            let (words, _) = octets.as_chunks::<4>();
            (ADDRESS_V6..).step_by(4).zip(words.iter().map(|word| u32::from_ne_bytes(*word))).collect()
        }
    };
    fields.push((PORT, at.port().to_be().into()));
    fields
}
