//! connect and sendmsg: refuse early, so that the application sees EPERM at once, and note who asked. Where somebody's
//! program above may still rewrite the address, the refusal is left to [`crate::rewritten`], which sees what became of it.
//!
//! Not a boundary: an ancestor's program can undo the refusal and some protocols never call these hooks. Egress is.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use egress_warden_common::backend::{NAMED_ALLOWED, NAMED_REFUSED};
use egress_warden_common::packet::Packet;
use egress_warden_common::reason::{IPPROTO_TCP, IPPROTO_UDP};
use egress_warden_common::socket::SOCK_STREAM;
use egress_warden_common::state::{
    COUNTED_DATAGRAM, COUNTED_FLOW, SOCKET_INBOUND, SOCKET_TCP, SocketState, WAY_UPLINK,
};
use egress_warden_common::{Address, Reason, Verdict};

use crate::backends::backends;
use crate::kept::chose_anew;
use crate::maps::{NAMED, SOCKETS};
use crate::memory::{ANY_PORT, forget_datagram, remember_counted, remembered, udp_reply};
use crate::shared::{NO_PACKET, UDP_REPLY, UNSENT, judge_itself};
use crate::violation::{Attempt, count};
use crate::workload::{Workload, bump, current_process};

pub(crate) const REFUSE: i32 = 0;
pub(crate) const PROCEED: i32 = 1;
const STATE_ESTABLISHED: u32 = 1;

/// IPv4 connect.
#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, address_v4(&ctx))
}

/// IPv6 connect; IPv4-mapped destinations included.
#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, address_v6(&ctx))
}

/// IPv4 sendmsg of an unconnected socket.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sendmsg(&ctx, address_v4(&ctx))
}

/// IPv6 sendmsg of an unconnected socket.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sendmsg(&ctx, address_v6(&ctx))
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, destination: Address) -> i32 {
    let Some((workload, mut socket)) = whose(ctx) else { return REFUSE };
    chose_anew(socket.as_deref_mut());
    // SAFETY: a field of the program's context.
    let kind = unsafe { (*ctx.sock_addr).type_ };
    // A datagram connect sends nothing, and resolvers do it to every answer just to sort addresses: its datagrams are
    // judged, it is not.
    if let Some(socket) = socket.as_deref_mut() {
        socket.process = current_process();
        if kind != SOCK_STREAM {
            forget_datagram(socket);
        }
    }
    if kind != SOCK_STREAM {
        name_peer(ctx, &workload, socket.as_deref(), destination);
        return PROCEED;
    }
    // Whatever this socket was, it begins a flow of its own now. (At egress the SYN says so; a socket in repair mode
    // sends none.)
    // SAFETY: a field of the program's context.
    let protocol = unsafe { (*ctx.sock_addr).protocol };
    if let Some(socket) = socket.as_deref_mut() {
        socket.flags &= !SOCKET_INBOUND;
        // Known by now even of a socket that nobody saw being made.
        if protocol == u32::from(IPPROTO_TCP) {
            socket.flags |= SOCKET_TCP;
        }
    }
    let port = port(ctx);
    let packet = Packet { destination, protocol: IPPROTO_TCP, port, ..NO_PACKET };
    let verdict = verdict(&workload, socket.as_deref(), &packet, 0);
    let call = Call { destination, port, protocol: IPPROTO_TCP, connects: true, may_defer: true };
    if call.is_left_to_last(ctx, &workload, &verdict) || verdict.reason.allows() {
        return PROCEED;
    }
    let audit = workload.is_audit();
    count(&workload, &packet, &Attempt { verdict, process: current_process() }, audit);
    if let Some(socket) = socket {
        remember_counted(socket, destination, IPPROTO_TCP, port, COUNTED_FLOW);
    }
    debug!(
        ctx,
        "connect to port {} refused, reason {}, audit {}",
        port,
        verdict.reason as u8,
        u8::from(audit)
    );
    // The verifier has to see that this is 0 or 1. A mask that the compiler knows to be idle would be left out.
    core::hint::black_box(if audit { PROCEED } else { REFUSE }) & 1
}

#[inline(always)]
fn sendmsg(ctx: &SockAddrContext, destination: Address) -> i32 {
    let Some((workload, mut socket)) = whose(ctx) else { return REFUSE };
    let port = port(ctx);
    // SAFETY: a field of the program's context.
    let (protocol, sk) = unsafe { ((*ctx.sock_addr).protocol as u8, (*ctx.sock_addr).__bindgen_anon_1.sk) };
    let packet = Packet { destination, protocol, port, ..NO_PACKET };
    if let Some(socket) = socket.as_deref_mut() {
        forget_datagram(socket);
        // Most datagrams go where the one before went. Should this one leave by loopback, egress judges that.
        if !workload.quarantined()
            && remembered(&workload, socket, &packet, WAY_UPLINK)
            && backends(workload.slot).is_none()
        {
            return PROCEED;
        }
        socket.process = current_process();
    }
    // In audit the datagram goes on to egress, which counts it: counting here as well would count it twice.
    let audit = workload.is_audit();
    if audit && backends(workload.slot).is_none() {
        return PROCEED;
    }
    let reply = if udp_reply(sk.cast(), destination, port, ANY_PORT) { UDP_REPLY } else { 0 };
    let verdict = verdict(&workload, socket.as_deref(), &packet, reply);
    let call = Call { destination, port, protocol, connects: false, may_defer: reply == 0 };
    if call.is_left_to_last(ctx, &workload, &verdict) || verdict.reason.allows() || audit {
        return PROCEED;
    }
    // In quarantine. Somebody else began it: as at egress, it is no violation.
    if reply != 0 {
        bump!(workload, replies_refused);
        return REFUSE;
    }
    count(&workload, &packet, &Attempt { verdict, process: current_process() }, false);
    // The next datagram of a connected socket may be one that never came by here.
    // SAFETY: a field of a socket that is not null.
    let connected = !sk.is_null() && unsafe { (*sk).state } == STATE_ESTABLISHED;
    if let Some(socket) = socket
        && !connected
    {
        remember_counted(socket, destination, protocol, port, COUNTED_DATAGRAM);
    }
    debug!(ctx, "datagram to port {} refused, reason {}", port, verdict.reason as u8);
    REFUSE
}

/// A datagram socket is connected: where to is noted, so that its datagrams are known by it.
#[inline(always)]
fn name_peer(ctx: &SockAddrContext, workload: &Workload, socket: Option<&SocketState>, destination: Address) {
    // SAFETY: a field of the program's context.
    let protocol = unsafe { (*ctx.sock_addr).protocol } as u8;
    if protocol != IPPROTO_UDP || backends(workload.slot).is_none() {
        return;
    }
    let port = port(ctx);
    let packet = Packet { destination, protocol, port, ..NO_PACKET };
    let verdict = verdict(workload, socket, &packet, 0);
    let call = Call { destination, port, protocol, connects: true, may_defer: false };
    call.is_left_to_last(ctx, workload, &verdict);
}

/// What the application asks for.
struct Call {
    destination: Address,
    port: u16,
    protocol: u8,
    connects: bool,
    /// May a refusal wait for what becomes of the address?
    may_defer: bool,
}

impl Call {
    /// Where the address may be rewritten above, notes it for the last program that sees this call. True where that one has
    /// to decide: what the policy denies by name is refused here, whatever would become of it.
    #[inline(always)]
    fn is_left_to_last(&self, ctx: &SockAddrContext, workload: &Workload, verdict: &Verdict) -> bool {
        let Some(table) = backends(workload.slot) else { return false };
        // SAFETY: a field of the program's context.
        let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
        if sk.is_null() {
            return false;
        }
        let Some(named) = NAMED.get_or_create(sk.cast()) else {
            bump!(workload, storage_failed);
            return false;
        };
        // SAFETY: the socket's storage; the socket is locked by its caller.
        let named = unsafe { &mut *named };
        if self.connects || named.epoch != table.epoch {
            named.backend.seen = 0;
        }
        named.epoch = table.epoch;
        named.address = self.destination.to_bytes();
        named.port = self.port;
        named.protocol = self.protocol;
        named.verdict = match verdict.reason {
            Reason::Allowed => NAMED_ALLOWED,
            Reason::Denied => 0,
            reason if !reason.allows() && self.may_defer => NAMED_REFUSED,
            _ => 0,
        };
        named.verdict == NAMED_REFUSED
    }
}

/// Whose socket it is, and what is remembered with it.
#[inline(always)]
fn whose(ctx: &SockAddrContext) -> Option<(Workload, Option<&'static mut SocketState>)> {
    // SAFETY: a field of the program's context.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if sk.is_null() {
        return Some((Workload::of_current()?, None));
    }
    let Some(socket) = SOCKETS.get_or_create(sk.cast()) else {
        let workload = Workload::of_current()?;
        bump!(workload, storage_failed);
        return Some((workload, None));
    };
    // SAFETY: the socket's storage; the socket is locked by its caller or its fields are only hints.
    let socket = unsafe { &mut *socket };
    let workload = match Workload::of_socket(Some(socket)) {
        Some(workload) => workload,
        None => {
            let workload = Workload::of_current()?;
            workload.claim(socket);
            workload
        }
    };
    if socket.netns_cookie == 0 {
        // SAFETY: `sock_addr` is the program's context; the answer is the socket's namespace.
        socket.netns_cookie = unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) };
    }
    Some((workload, Some(socket)))
}

#[inline(always)]
fn verdict(workload: &Workload, socket: Option<&SocketState>, packet: &Packet, reply: u32) -> Verdict {
    let socket_flags = socket.map_or(0, |socket| workload.flags_of(socket)) & !SOCKET_INBOUND;
    judge_itself(workload, packet, socket_flags | reply, UNSENT)
}

#[inline(always)]
pub(crate) fn port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: a field of the program's context, in network byte order.
    u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16)
}

#[inline(always)]
pub(crate) fn address_v4(ctx: &SockAddrContext) -> Address {
    // SAFETY: a field of the program's context, in network byte order.
    Address::v4(u32::from_be(unsafe { (*ctx.sock_addr).user_ip4 }))
}

#[inline(always)]
pub(crate) fn address_v6(ctx: &SockAddrContext) -> Address {
    let context: *const bpf_sock_addr = ctx.sock_addr;
    let word = |index: usize| {
        // SAFETY: a field of the program's context, in network byte order; read one by one, as the verifier rewrites
        // each of them.
        u64::from(u32::from_be(unsafe { core::ptr::read_volatile(&raw const (*context).user_ip6[index]) }))
    };
    Address { high: word(0) << 32 | word(1), low: word(2) << 32 | word(3) }
}
