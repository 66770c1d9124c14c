//! A new socket: may it be made, whose is it, who made it, and in which network namespace.
//!
//! Refused here is what egress could not judge, so that an application hears it at once. Not a boundary: an ancestor's
//! program can undo the refusal, and sockets come in from elsewhere. Egress is.
//!
//! Noted here and not at connect, because listeners and sockets that only receive never connect, and because a packet
//! program may run when "current" is somebody else.

use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use egress_warden_common::Reason;
use egress_warden_common::packet::Packet;
use egress_warden_common::reason::IPPROTO_TCP;
use egress_warden_common::ruleset::Ruleset;
use egress_warden_common::socket::{NewSocket, SOCK_RAW, SOCK_STREAM, judge_socket};
use egress_warden_common::state::SOCKET_TCP;

use crate::maps::SOCKETS;
use crate::rules::KernelWords;
use crate::shared::{NO_PACKET, refused};
use crate::violation::{Attempt, count};
use crate::workload::{Workload, bump, current_process};

const REFUSE: i32 = 0;
const PROCEED: i32 = 1;
const EPROTONOSUPPORT: i32 = 93;

/// Lets INET sockets be made that can be judged, and notes them.
#[cgroup_sock(sock_create)]
pub(crate) fn note_socket(ctx: SockContext) -> i32 {
    // Nobody knows whose it is: as at egress it is refused, and counted nowhere.
    let Some(workload) = Workload::of_current() else { return REFUSE };
    // SAFETY: fields of the program's context.
    let made = unsafe {
        NewSocket { family: (*ctx.sock).family, kind: (*ctx.sock).type_, protocol: (*ctx.sock).protocol }
    };
    let reason = judge_socket(&Ruleset::new(&KernelWords, workload.ruleset), &made);
    if reason.allows() {
        return note(&ctx, &workload);
    }
    let audit = workload.is_audit();
    let verdict = refused(reason);
    let kind = made.kind as u16;
    let packet = Packet { protocol: made.ip_protocol(), port: kind, ..NO_PACKET };
    count(&workload, &packet, &Attempt { verdict, process: current_process() }, audit);
    if audit {
        return note(&ctx, &workload);
    }
    // A raw socket is a matter of permission; who asks for another protocol falls back to TCP or UDP when he hears that
    // there is none. (Where it cannot be set it stays EPERM.)
    if matches!(reason, Reason::SocketType) && made.kind != SOCK_RAW {
        // SAFETY: takes a number.
        unsafe { bpf_set_retval(-EPROTONOSUPPORT) };
    }
    REFUSE
}

/// Notes a socket bound over IPv4 that was not noted when it was made: the kernel itself makes the TCP socket behind an
/// MPTCP one, without a call of [`note_socket`], and lets it listen.
#[cgroup_sock(post_bind4)]
pub(crate) fn note_bound4(ctx: SockContext) -> i32 {
    note_bound(&ctx)
}

/// The same over IPv6.
#[cgroup_sock(post_bind6)]
pub(crate) fn note_bound6(ctx: SockContext) -> i32 {
    note_bound(&ctx)
}

#[inline(always)]
fn note_bound(ctx: &SockContext) -> i32 {
    match Workload::of_current() {
        Some(workload) => note(ctx, &workload),
        None => PROCEED,
    }
}

#[inline(always)]
fn note(ctx: &SockContext, workload: &Workload) -> i32 {
    let Some(socket) = SOCKETS.get_or_create(ctx.sock.cast()) else {
        bump!(workload, storage_failed);
        return PROCEED;
    };
    // SAFETY: the storage of a socket that is locked, or that nobody else can see yet.
    let socket = unsafe { &mut *socket };
    // Whoever binds a socket that was handed to him does not become its owner.
    if socket.netns_cookie != 0 {
        return PROCEED;
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
    PROCEED
}
