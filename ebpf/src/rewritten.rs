//! The last programs that see a connect or a sendmsg: on the cgroup whose programs rewrite addresses, behind those. They see
//! what became of the address that the application named, and so know by one call which backend stands for which service.
//!
//! The socket is locked while the programs of a call run, one after the other: what the first one noted with it is about
//! this very call. Nobody inside comes between, whatever threads, corks or packet filters he has.
//!
//! On that cgroup they see everybody's calls, and let pass untouched what no program of ours noted before.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use core::ffi::c_void;
use egress_warden_common::backend::NAMED_ALLOWED;
use egress_warden_common::packet::Packet;
use egress_warden_common::reason::IPPROTO_UDP;
use egress_warden_common::socket::SOCK_STREAM;
use egress_warden_common::state::{COUNTED_DATAGRAM, COUNTED_FLOW, SOCKET_INBOUND, SocketState};
use egress_warden_common::{Address, Verdict};

use crate::backends::{Pair, backends, named};
use crate::connect::{PROCEED, REFUSE, address_v4, address_v6, port};
use crate::memory::{ANY_PORT, remember_counted, stored, udp_reply};
use crate::rules::boot_ns;
use crate::shared::{NO_PACKET, UDP_REPLY, UNSENT, judge};
use crate::violation::{Attempt, count};
use crate::workload::{Workload, current_process};

/// IPv4 connect, as it will be done.
#[cgroup_sock_addr(connect4)]
pub(crate) fn after_connect4(ctx: SockAddrContext) -> i32 {
    bit(decided(&ctx, address_v4(&ctx), true))
}

/// IPv6 connect, as it will be done.
#[cgroup_sock_addr(connect6)]
pub(crate) fn after_connect6(ctx: SockAddrContext) -> i32 {
    bit(decided(&ctx, address_v6(&ctx), true))
}

/// IPv4 sendmsg of an unconnected socket, as it will be done.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn after_sendmsg4(ctx: SockAddrContext) -> i32 {
    bit(decided(&ctx, address_v4(&ctx), false))
}

/// IPv6 sendmsg of an unconnected socket, as it will be done.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn after_sendmsg6(ctx: SockAddrContext) -> i32 {
    bit(decided(&ctx, address_v6(&ctx), false))
}

#[inline(always)]
fn decided(ctx: &SockAddrContext, destination: Address, connects: bool) -> i32 {
    // SAFETY: fields of the program's context.
    let (sk, kind) = unsafe { ((*ctx.sock_addr).__bindgen_anon_1.sk.cast(), (*ctx.sock_addr).type_) };
    let Some((workload, socket, protocol)) = learn(sk, destination, port(ctx), connects) else {
        return PROCEED;
    };
    // As of what is not rewritten: a datagram connect is never refused, and in audit egress counts datagrams.
    if (connects && kind != SOCK_STREAM) || (!connects && workload.is_audit()) {
        return PROCEED;
    }
    let (port, audit) = (port(ctx), workload.is_audit());
    let packet = Packet { destination, protocol, port, ..NO_PACKET };
    let verdict = verdict(&workload, sk, socket, &packet);
    if verdict.reason.allows() {
        return PROCEED;
    }
    count(&workload, &packet, &Attempt { verdict, process: current_process() }, audit);
    let how = if connects { COUNTED_FLOW } else { COUNTED_DATAGRAM };
    remember_counted(socket, destination, protocol, port, how);
    debug!(ctx, "call to port {} refused behind all others, reason {}", port, verdict.reason as u8);
    if audit { PROCEED } else { REFUSE }
}

/// The verifier has to see that this is 0 or 1. A mask that the compiler knows to be idle would be left out.
#[inline(always)]
fn bit(answer: i32) -> i32 {
    core::hint::black_box(answer) & 1
}

/// Learns what became of the address that was named. `None` where nothing is left to decide: our own first program said
/// all there is to say, or there was none.
#[inline(always)]
fn learn(
    sk: *mut c_void,
    destination: Address,
    port: u16,
    connects: bool,
) -> Option<(Workload, &'static mut SocketState, u8)> {
    let named = named(sk);
    if named.is_null() {
        return None;
    }
    // SAFETY: the socket's storage; the socket is locked by its caller.
    let named = unsafe { &mut *named };
    let before = named.verdict;
    if before == 0 {
        return None;
    }
    named.verdict = 0;
    let socket = stored(sk)?;
    let workload = Workload::of_socket(Some(socket))?;
    let table = backends(workload.slot)?;
    if table.epoch != named.epoch {
        return None;
    }
    if before == NAMED_ALLOWED {
        let service = Address::from_bytes(named.address);
        if service == destination && named.port == port {
            return None;
        }
        let pair = Pair {
            backend: destination,
            service,
            backend_port: port,
            service_port: named.port,
            protocol: named.protocol,
        };
        pair.list(table);
        if connects {
            pair.write(&mut named.backend, boot_ns());
        }
    }
    Some((workload, socket, named.protocol))
}

#[inline(always)]
fn verdict(workload: &Workload, sk: *mut c_void, socket: &SocketState, packet: &Packet) -> Verdict {
    let mut flags = workload.flags_of(socket) & !SOCKET_INBOUND;
    if packet.protocol == IPPROTO_UDP && udp_reply(sk, packet.destination, packet.port, ANY_PORT) {
        flags |= UDP_REPLY;
    }
    judge(workload, packet, flags, UNSENT)
}
