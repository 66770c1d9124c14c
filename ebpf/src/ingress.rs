//! Ingress: remember flows that begin outside, so that they may be answered. It refuses nothing but forgeries.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::debug;
use egress_warden_common::Verdict;
use egress_warden_common::packet::Packet;
use egress_warden_common::reason::{IPPROTO_TCP, IPPROTO_UDP, Reason};
use egress_warden_common::ruleset::NO_RULE;
use egress_warden_common::state::SOCKET_INBOUND;

use crate::dns::{DROPPED, READ, Way, knows_names, learn, may_answer};
use crate::memory::{asked, learn_udp, stored};
use crate::shared::{
    LOOPBACK_INTERFACE, NO_LINK_HEADER, NO_PACKET, forged, full_socket, is_listening, judge, walk,
};
use crate::workload::{Workload, bump, in_own_namespace};

const DROP: i32 = 0;
const PASS: i32 = 1;
const STATE_ESTABLISHED: u32 = 1;
const PACKET_LOOPBACK: u32 = 5;

/// Looks at every packet that a socket of the workload receives.
#[cgroup_skb(ingress)]
pub(crate) fn ingress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let sk = full_socket(skb);
    if sk.is_null() {
        return PASS;
    }
    let full: *const bpf_sock = sk.cast();
    // SAFETY: fields of a full socket.
    let (state, protocol) = unsafe { ((*full).state, (*full).protocol as u8) };
    // SAFETY: a field of the program's context.
    let interface = unsafe { (*skb).ifindex };
    let on_loopback = interface == LOOPBACK_INTERFACE;
    let begins_flow = match protocol {
        IPPROTO_TCP => is_listening(sk),
        // A connected socket chose its peer itself: that flow began inside.
        IPPROTO_UDP => state != STATE_ESTABLISHED,
        _ => false,
    };
    let may_answer = protocol == IPPROTO_UDP && knows_names() && may_answer(skb);
    if !on_loopback && !begins_flow && !may_answer {
        return PASS;
    }
    let Some(socket) = stored(sk) else { return PASS };
    let Some(workload) = Workload::of_socket(Some(socket)) else { return PASS };
    let mut packet = NO_PACKET;
    let readable = walk(skb, NO_LINK_HEADER, &mut packet).allows();
    let own_namespace = in_own_namespace(workload.flags_of(socket));
    if may_answer && readable {
        let by_uplink = own_namespace && !is_own_echo(skb) && workload.has_uplink(interface);
        match learn(skb, &workload, &packet, Way { on_loopback, by_uplink }) {
            READ => return PASS,
            DROPPED => return DROP,
            _ => {}
        }
        if !on_loopback && !begins_flow {
            return PASS;
        }
    }
    // The fixed header tells whence also of a packet that cannot be read further, and the kernel takes more than is read
    // here: IPv4 options for one.
    if on_loopback {
        return if forged(&workload, own_namespace, &packet) { drop_forged(&ctx, &workload) } else { PASS };
    }
    if !own_namespace {
        return PASS;
    }
    if is_own_echo(skb) {
        return PASS;
    }
    if !workload.has_uplink(interface) {
        let begins = protocol == IPPROTO_TCP && (packet.begins_tcp() || !readable);
        let forged = begins && !answer(&workload, &packet, interface).reason.allows();
        return if forged { drop_forged(&ctx, &workload) } else { PASS };
    }
    if !readable {
        return PASS;
    }
    if protocol == IPPROTO_TCP {
        if packet.begins_tcp() {
            socket.flags |= SOCKET_INBOUND;
        }
    } else if !asked(socket, &packet) && began_outside(&answer(&workload, &packet, interface)) {
        learn_udp(sk, &workload, &packet);
    }
    PASS
}

/// Is it the copy that the sender's own machine gets of a broadcast or multicast? It names the interface by which the
/// original left, and with IP_TRANSPARENT any source: whoever wants a caller forged sends it to himself.
#[inline(always)]
fn is_own_echo(skb: *mut __sk_buff) -> bool {
    // SAFETY: a field of the program's context.
    unsafe { (*skb).pkt_type == PACKET_LOOPBACK }
}

/// Drops and counts; in audit it only counts.
#[inline(always)]
fn drop_forged(ctx: &SkBuffContext, workload: &Workload) -> i32 {
    bump!(workload, forged_dropped);
    debug!(ctx, "packet from outside that did not come by an uplink");
    if workload.is_audit() { PASS } else { DROP }
}

/// What the policy says of sending to where this packet says it comes from, as to any destination.
///
/// Asked of a SYN that came by an interface which is no uplink: one that somebody made inside, perhaps to forge callers.
/// The mark of a listener stands for all that it accepts, so such a SYN may not profit from the mark that an honest
/// caller left. Where the answer is no, its SYN-ACK would have been refused without the mark; nothing honest is lost.
///
/// Asked of datagrams as well: see [`began_outside`].
#[inline(always)]
fn answer(workload: &Workload, packet: &Packet, interface: u32) -> Verdict {
    let answer = Packet {
        source: packet.destination,
        destination: packet.source,
        source_port: packet.port,
        port: packet.source_port,
        ..*packet
    };
    judge(workload, &answer, 0, interface)
}

/// Does a datagram from there begin a flow? Where an entry covers the place, now or until a deadline that has passed,
/// the flow may have begun inside, and must end when the entry does: it is not learnt. In quarantine a
/// verdict without a rule says that no entry covers the place; the answer is refused there, but as an answer.
#[inline(always)]
const fn began_outside(answer: &Verdict) -> bool {
    match answer.reason {
        Reason::NotAllowlisted | Reason::PortNotAllowed | Reason::ProtocolNotAllowed | Reason::Denied => true,
        Reason::Quarantined => answer.rule == NO_RULE,
        _ => false,
    }
}
