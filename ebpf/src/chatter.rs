//! What a kernel sends by itself, because of somebody outside or to join a group: nobody's attempt.

use aya_ebpf::bindings::bpf_sock;
use core::ffi::c_void;
use egress_warden_common::packet::Packet;
use egress_warden_common::reason::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP};

const SOCK_RAW: u32 = 3;
const IPPROTO_IGMP: u8 = 2;
const ECHO: u16 = 8;
const ECHO_V6: u16 = 128;

/// Is it a socket of the kernel's own, by which it tells the link and answers errors? One that was made with a network
/// namespace belongs to the cgroup of whoever made that. Of raw ones that an application makes something is remembered.
#[inline(always)]
pub(crate) fn is_kernels(sk: *mut c_void) -> bool {
    let full: *const bpf_sock = sk.cast();
    // SAFETY: a field of a full socket.
    sk.is_null() || unsafe { (*full).type_ } == SOCK_RAW
}

/// Is this what a kernel sends by itself, because of somebody outside or to join a group?
#[inline(always)]
pub(crate) fn is_chatter(packet: &Packet) -> bool {
    match packet.protocol {
        IPPROTO_TCP => !packet.begins_tcp(),
        IPPROTO_ICMP => !matches!(packet.port, ECHO),
        IPPROTO_ICMPV6 => !matches!(packet.port, ECHO_V6),
        IPPROTO_IGMP => true,
        _ => false,
    }
}
