//! The backstop: the host's end of a workload's wire. Whatever made a frame, it comes by here, so each packet is judged
//! once more by its outermost header. A socket, where the packet still has one, only tells whose policy applies.
//!
//! It writes nothing that stands with a socket: egress does, perhaps on another processor at this very moment.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use core::ffi::c_void;
use egress_warden_common::link::{ETHERNET, arp, neighbour};
use egress_warden_common::packet::{Bytes, Packet, TCP_ACK, TCP_SYN, fragment_of};
use egress_warden_common::reason::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Reason};
use egress_warden_common::state::{Interface, NOTE_FRAGMENT, Process, SOCKET_INBOUND, WAY_UPLINK, note_key};
use egress_warden_common::{Address, Verdict};

use crate::chatter::{is_chatter, is_kernels};
use crate::dns::{Asked, REDIRECT, answer_refused, is_query, judge_query, judges_names, knows_names};
use crate::kept::kept_on_wire;
use crate::maps::INTERFACES;
use crate::memory::{already_counted, remembered, stored, udp_reply};
use crate::notes::{note, noted};
use crate::shared::{LIVES, NO_PACKET, PacketBytes, UDP_REPLY, full_socket, judge, refused, walk};
use crate::tuple::{belongs_to_allowed, belongs_to_caller};
use crate::violation::{Attempt, NO_PROCESS, count};
use crate::workload::{OWN_NAMESPACE, Workload, bump, is_node};

/// Not refused here; whoever else is attached decides further.
const NEXT: i32 = -1;
const DROP: i32 = 2;

const ETHERTYPE_IPV4: u32 = 0x0800u16.to_be() as u32;
const ETHERTYPE_ARP: u32 = 0x0806u16.to_be() as u32;
const ETHERTYPE_IPV6: u32 = 0x86ddu16.to_be() as u32;
const AF_PACKET: u32 = 17;
const AF_XDP: u32 = 44;

const ECHO: u16 = 8;
const ECHO_REPLY: u16 = 0;
const ECHO_V6: u16 = 128;
const ECHO_REPLY_V6: u16 = 129;

/// Judges every frame that comes out of a workload's network namespace.
#[classifier]
pub(crate) fn backstop(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: fields of the program's context.
    let (index, ethertype, tagged) = unsafe { ((*skb).ifindex, (*skb).protocol, (*skb).vlan_present) };
    let Some(interface) = INTERFACES.get_ptr_mut(index) else { return DROP };
    let sk = full_socket(skb);
    let Some((workload, is_known)) = whose(skb, sk, interface) else { return DROP };
    let sender = Sender { skb, sk, interface, index, workload, is_known };
    let mut packet = NO_PACKET;
    let verdict = if is_packet_socket(skb) {
        refused(Reason::SocketType)
    } else if tagged != 0 {
        refused(Reason::ProtocolNotAllowed)
    } else if ethertype == ETHERTYPE_IPV4 || ethertype == ETHERTYPE_IPV6 {
        sender.judge(&mut packet)
    } else if ethertype == ETHERTYPE_ARP && sender.is_honest_arp() {
        return NEXT;
    } else {
        refused(Reason::ProtocolNotAllowed)
    };
    if matches!(verdict.reason, Reason::Allowed) && is_query(&packet) && judges_names(&sender.workload) {
        return sender.ask(&packet);
    }
    if verdict.reason.allows() {
        return NEXT;
    }
    debug!(&ctx, "frame refused at the interface, reason {}", verdict.reason as u8);
    sender.refuse(&mut packet, verdict)
}

/// Notes what begins outside and is answered without a socket.
#[classifier]
pub(crate) fn callers(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    if !may_call(skb) {
        return NEXT;
    }
    // SAFETY: a field of the program's context.
    let Some(interface) = INTERFACES.get_ptr_mut(unsafe { (*skb).ifindex }) else { return NEXT };
    let mut packet = NO_PACKET;
    if !walk(skb, ETHERNET, &mut packet).allows() {
        return NEXT;
    }
    if packet.begins_tcp() {
        note(interface, packet.source, ports_key(packet.source_port, packet.port));
    } else if is_echo(&packet, ECHO, ECHO_V6)
        && let Some(id) = echo_id(skb)
    {
        note(interface, packet.source, note_key(packet.protocol.into(), id));
    }
    NEXT
}

/// Could it be a call? Most of what arrives is none, and a short look tells.
#[inline(always)]
fn may_call(skb: *mut __sk_buff) -> bool {
    // SAFETY: a field of the program's context.
    let ethertype = unsafe { (*skb).protocol };
    let bytes = PacketBytes::new(skb, ETHERNET);
    let (protocol, flags_at) = match ethertype {
        ETHERTYPE_IPV4 => (bytes.load::<1>(9), 20 + 13),
        ETHERTYPE_IPV6 => (bytes.load::<1>(6), 40 + 13),
        _ => return false,
    };
    match protocol {
        Some([IPPROTO_TCP]) => match bytes.load::<1>(flags_at) {
            // Behind other headers the flags stand elsewhere; nobody sends a SYN like that.
            Some([flags]) => flags & (TCP_SYN | TCP_ACK) == TCP_SYN,
            None => false,
        },
        Some([IPPROTO_ICMP | IPPROTO_ICMPV6]) => true,
        _ => false,
    }
}

/// Was the frame made by hand? Its header is not to be believed then, even where it names an allowed place: since Linux 6.8
/// an AF_XDP socket may ask for a checksum at an offset of its choice, and one that is filled in behind this program
/// rewrites the destination.
#[inline(always)]
fn is_packet_socket(skb: *mut __sk_buff) -> bool {
    // SAFETY: fields of the program's context and, where there is one, of its socket.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        !sk.is_null() && matches!((*sk).family, AF_PACKET | AF_XDP)
    }
}

/// The workload whose policy applies: the socket's, or else the first one behind the interface. Tells also whether one of
/// the workload's sockets sent the frame. What the kernel sends by itself belongs to a socket outside of every workload, or
/// to a connection that has no socket yet or any more.
#[inline(always)]
fn whose(skb: *mut __sk_buff, sk: *mut c_void, interface: *mut Interface) -> Option<(Workload, bool)> {
    if let Some(workload) = Workload::of_socket(stored(sk).as_deref()) {
        return Some((workload, true));
    }
    // SAFETY: a field of the program's context.
    if !unsafe { (*skb).__bindgen_anon_2.sk }.is_null()
        && let Some(workload) = Workload::of_packet(skb)
    {
        return Some((workload, !is_kernels(sk)));
    }
    // SAFETY: a live map value.
    let slot = unsafe { (*interface).slots[0] };
    Some((Workload::known(slot)?, false))
}

#[inline(always)]
fn ports_key(far: u16, near: u16) -> u64 {
    note_key(IPPROTO_TCP.into(), u32::from(far) << 16 | u32::from(near))
}

#[inline(always)]
fn is_echo(packet: &Packet, v4: u16, v6: u16) -> bool {
    (packet.protocol == IPPROTO_ICMP && packet.port == v4)
        || (packet.protocol == IPPROTO_ICMPV6 && packet.port == v6)
}

/// Identification and number of an echo, which directly follows a fixed header.
#[inline(always)]
fn echo_id(skb: *mut __sk_buff) -> Option<u32> {
    // SAFETY: a field of the program's context.
    let header = if unsafe { (*skb).protocol } == ETHERTYPE_IPV4 { 20 } else { 40 };
    PacketBytes::new(skb, ETHERNET).load::<4>(header + 4).map(u32::from_be_bytes)
}

/// A frame, and what is known of who sent it.
struct Sender {
    skb: *mut __sk_buff,
    sk: *mut c_void,
    interface: *mut Interface,
    index: u32,
    workload: Workload,
    /// A socket of the workload sent it.
    is_known: bool,
}

impl Sender {
    #[inline(always)]
    fn judge(&self, packet: &mut Packet) -> Verdict {
        let unreadable = walk(self.skb, ETHERNET, packet);
        if self.owns(packet.destination) || !self.is_source(packet.source) {
            return refused(if unreadable.allows() { Reason::SourceSpoofed } else { unreadable });
        }
        if !unreadable.allows() {
            let goes_on = matches!(unreadable, Reason::Fragment) && self.is_noted_fragment(packet);
            return refused(if goes_on { Reason::Allowed } else { unreadable });
        }
        if !self.is_known && packet.protocol == IPPROTO_ICMPV6 && self.is_honest_neighbour(packet) {
            return refused(Reason::Allowed);
        }
        // A query fits into one packet; the rest of one that does not has no name to be judged by.
        if packet.fragment != 0 && is_query(packet) && judges_names(&self.workload) {
            return refused(Reason::DnsMalformed);
        }
        let verdict = self.by_policy(packet);
        if packet.fragment != 0 && (verdict.reason.allows() || self.workload.is_audit()) {
            self.note_fragment(packet);
        }
        verdict
    }

    #[inline(always)]
    fn by_policy(&self, packet: &Packet) -> Verdict {
        // What egress found allowed a moment ago, for this very destination, is: it would be judged by the same ruleset.
        if let Some(socket) = stored(self.sk)
            && !self.workload.quarantined()
            && remembered(&self.workload, socket, packet, WAY_UPLINK)
        {
            return refused(Reason::Allowed);
        }
        let verdict = judge(&self.workload, packet, self.flags(packet), self.index);
        if verdict.reason.allows() {
            return verdict;
        }
        if kept_on_wire(self.skb, self.interface, &self.workload, self.is_known, packet, verdict.reason) {
            return refused(Reason::Allowed);
        }
        if self.is_known {
            return verdict;
        }
        if self.answers(packet) && (!self.workload.quarantined() || is_node(packet.destination)) {
            return refused(Reason::Reply);
        }
        if self.lives(packet) {
            let verdict = judge(&self.workload, packet, OWN_NAMESPACE | LIVES, self.index);
            if verdict.reason.allows() {
                return verdict;
            }
        }
        if self.others_allow(packet) { refused(Reason::Allowed) } else { verdict }
    }

    /// What the socket remembers, as far as this very packet fits it: one that was rewritten on its way does not.
    #[inline(always)]
    fn flags(&self, packet: &Packet) -> u32 {
        if packet.protocol == IPPROTO_UDP {
            let reply = udp_reply(self.sk, packet.destination, packet.port, packet.source_port);
            return OWN_NAMESPACE | if reply { UDP_REPLY } else { 0 };
        }
        match stored(self.sk) {
            Some(socket) if socket.flags & SOCKET_INBOUND != 0 && is_peer(self.sk, packet) => {
                OWN_NAMESPACE | SOCKET_INBOUND
            }
            _ => OWN_NAMESPACE,
        }
    }

    /// Does a packet that no socket of the workload sends answer somebody outside?
    #[inline(always)]
    fn answers(&self, packet: &Packet) -> bool {
        if packet.protocol == IPPROTO_TCP {
            return !packet.begins_tcp()
                && (noted(self.interface, packet.destination, ports_key(packet.port, packet.source_port))
                    || belongs_to_caller(self.skb, packet, self.namespace()));
        }
        if is_echo(packet, ECHO_REPLY, ECHO_REPLY_V6)
            && let Some(id) = echo_id(self.skb)
        {
            let call = note_key(packet.protocol.into(), id);
            return noted(self.interface, packet.destination, call);
        }
        false
    }

    /// Is it a segment, merged with others on its way, of a connection that may have outlived the grant by which it began?
    #[inline(always)]
    fn lives(&self, packet: &Packet) -> bool {
        knows_names()
            && packet.protocol == IPPROTO_TCP
            && !packet.begins_tcp()
            && belongs_to_allowed(self.skb, packet, self.namespace())
    }

    /// Does the policy of another workload behind the same interface allow it?
    #[inline(always)]
    fn others_allow(&self, packet: &Packet) -> bool {
        // SAFETY: a live map value.
        let slots = unsafe { (*self.interface).slots };
        for slot in &slots[1..] {
            if let Some(workload) = Workload::known(*slot)
                && judge(&workload, packet, OWN_NAMESPACE, self.index).reason.allows()
            {
                return true;
            }
        }
        false
    }

    #[inline(always)]
    fn namespace(&self) -> i32 {
        // SAFETY: a live map value.
        unsafe { (*self.interface).namespace }
    }

    /// Is it an address behind the interface?
    #[inline(always)]
    fn owns(&self, address: Address) -> bool {
        // SAFETY: a live map value.
        let (addresses, count) = unsafe { (&(*self.interface).addresses, (*self.interface).count) };
        for own in addresses {
            if Address::from_bytes(*own) == address {
                return true;
            }
        }
        count as usize > addresses.len() && !address.is_loopback() && self.workload.owns(address)
    }

    /// May a packet come from there? `::` asks the link whether an address is free.
    #[inline(always)]
    fn is_source(&self, address: Address) -> bool {
        self.owns(address) || (address.high == 0 && address.low == 0)
    }

    #[inline(always)]
    fn is_honest_arp(&self) -> bool {
        // SAFETY: a field of the program's context.
        let length = unsafe { (*self.skb).len };
        let (Some(to), Some(mac)) =
            (PacketBytes::new(self.skb, 0).load::<6>(0), PacketBytes::new(self.skb, 6).load::<6>(0))
        else {
            return false;
        };
        match arp(&PacketBytes::new(self.skb, ETHERNET), to, mac, length) {
            Some(claimed) => claimed.is_unspecified() || self.owns(claimed),
            None => false,
        }
    }

    #[inline(always)]
    fn is_honest_neighbour(&self, packet: &Packet) -> bool {
        let Some(mac) = PacketBytes::new(self.skb, 6).load::<6>(0) else { return false };
        match neighbour(&PacketBytes::new(self.skb, ETHERNET), packet, mac) {
            Some(claimed) => claimed.is_unspecified() || self.owns(claimed),
            None => false,
        }
    }

    #[inline(always)]
    fn note_fragment(&self, packet: &Packet) {
        if let Some(id) = fragment_of(&PacketBytes::new(self.skb, ETHERNET)) {
            note(self.interface, packet.destination, note_key(NOTE_FRAGMENT, id));
        }
    }

    #[inline(always)]
    fn is_noted_fragment(&self, packet: &Packet) -> bool {
        match fragment_of(&PacketBytes::new(self.skb, ETHERNET)) {
            Some(id) => noted(self.interface, packet.destination, note_key(NOTE_FRAGMENT, id)),
            None => false,
        }
    }

    /// Judges a query by its name once more, and answers one that is refused: egress, where its socket is known, left that to
    /// this program.
    #[inline(always)]
    fn ask(&self, packet: &Packet) -> i32 {
        let audit = self.workload.is_audit();
        let flags = match (audit, self.is_known) {
            (false, _) => Asked::COUNTS,
            // Egress counted it, and let it pass.
            (true, true) => 0,
            (true, false) => Asked::COUNTS | Asked::AUDIT,
        };
        let asked = Asked { base: ETHERNET, flags };
        let verdict = judge_query(&self.workload, self.skb, asked, packet, self.process());
        if verdict.reason.allows() || audit {
            return NEXT;
        }
        if answer_refused(self.skb, self.index, verdict.reason) { REDIRECT } else { DROP }
    }

    #[inline(always)]
    fn process(&self) -> Process {
        stored(self.sk).map_or(NO_PROCESS, |socket| socket.process)
    }

    /// Refuses a frame and counts it: it came past the programs of the cgroup, which would have counted it. What the kernel
    /// answers to somebody outside, and what it tells the link, is nobody's attempt.
    #[inline(always)]
    fn refuse(&self, packet: &mut Packet, verdict: Verdict) -> i32 {
        let audit = self.workload.is_audit();
        let outcome = if audit { NEXT } else { DROP };
        if !self.is_known && is_chatter(packet) {
            bump!(self.workload, replies_refused);
            return outcome;
        }
        if audit
            && let Some(socket) = stored(self.sk)
            && already_counted(socket, packet)
        {
            return outcome;
        }
        count(&self.workload, packet, &Attempt { verdict, process: self.process() }, audit);
        outcome
    }
}

/// Does this packet go to the one that the socket is connected with? (Its own port may be given back already while its last
/// packets are on their way; and a connection that was cut off has forgotten its peer by when the reset comes by here.)
#[inline(always)]
fn is_peer(sk: *mut c_void, packet: &Packet) -> bool {
    if sk.is_null() {
        return false;
    }
    let full: *const bpf_sock = sk.cast();
    // SAFETY: fields of a full socket.
    unsafe {
        let port = u16::from_be((*full).dst_port);
        if port == 0 {
            return packet.is_bare_reset();
        }
        if port != packet.port {
            return false;
        }
        match packet.destination.as_v4() {
            Some(v4) => u32::from_be((*full).dst_ip4) == v4,
            None => {
                let words = [(*full).dst_ip6[0], (*full).dst_ip6[1], (*full).dst_ip6[2], (*full).dst_ip6[3]]
                    .map(|word| u64::from(u32::from_be(word)));
                packet.destination
                    == Address { high: words[0] << 32 | words[1], low: words[2] << 32 | words[3] }
            }
        }
    }
}
