//! A new socket: note whose it is, who made it, and in which network namespace.
//!
//! Noted here and not at connect, because listeners and sockets that only receive never connect, and because a packet
//! program may run when "current" is somebody else.

use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use egress_warden_common::reason::IPPROTO_TCP;
use egress_warden_common::state::SOCKET_TCP;

use crate::connect::SOCK_STREAM;
use crate::maps::SOCKETS;
use crate::workload::{Workload, bump, current_process};

/// Notes a new INET socket. It refuses nothing: where packets may go is judged when there are packets.
#[cgroup_sock(sock_create)]
pub(crate) fn note_socket(ctx: SockContext) -> i32 {
    note(&ctx)
}

/// Notes a socket bound over IPv4 that was not noted when it was made: the kernel itself makes the TCP socket behind an
/// MPTCP one, without a call of [`note_socket`], and lets it listen.
#[cgroup_sock(post_bind4)]
pub(crate) fn note_bound4(ctx: SockContext) -> i32 {
    note(&ctx)
}

/// The same over IPv6.
#[cgroup_sock(post_bind6)]
pub(crate) fn note_bound6(ctx: SockContext) -> i32 {
    note(&ctx)
}

#[inline(always)]
fn note(ctx: &SockContext) -> i32 {
    let Some(workload) = Workload::of_current() else { return 1 };
    let Some(socket) = SOCKETS.get_or_create(ctx.sock.cast()) else {
        bump!(workload, storage_failed);
        return 1;
    };
    // SAFETY: the storage of a socket that is locked, or that nobody else can see yet.
    let socket = unsafe { &mut *socket };
    // Whoever binds a socket that was handed to him does not become its owner.
    if socket.netns_cookie != 0 {
        return 1;
    }
    workload.claim(socket);
    socket.process = current_process();
    // SAFETY: `sock` is the program's context.
    socket.netns_cookie = unsafe { bpf_get_netns_cookie(ctx.sock.cast()) };
    socket.flags = 0;
    // SAFETY: fields of the program's context.
    if unsafe { (*ctx.sock).type_ == SOCK_STREAM && (*ctx.sock).protocol == u32::from(IPPROTO_TCP) } {
        socket.flags |= SOCKET_TCP;
    }
    1
}
