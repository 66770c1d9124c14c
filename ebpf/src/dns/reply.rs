//! What a refused query is told. A resolver library that hears nothing waits for seconds, and one that is told of an error
//! does not ask for the next name of its search list: so a refused name does not exist, and a refused type has no records.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_l4_csum_replace, bpf_redirect, bpf_skb_store_bytes};
use egress_warden_common::Reason;
use egress_warden_common::link::ETHERNET;
use egress_warden_common::packet::Bytes;

use super::scratch::udp_offset;
use crate::shared::PacketBytes;

/// Bit of an answer.
const ANSWER: u16 = 0x8000;
/// "Recursion is available".
const RECURSION: u16 = 0x0080;
/// What is taken over from the query: its kind, "recursion desired" and "checking disabled".
const FROM_QUERY: u16 = 0x7910;
/// Name does not exist.
const NO_NAME: u16 = 3;

/// A checksum of zero says "none", and stays that.
const BPF_F_MARK_MANGLED_0: u64 = 1 << 5;

/// Is a query that was refused for this reason answered? What cannot be read cannot.
#[inline(always)]
pub(crate) const fn is_answered(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::DnsName | Reason::DnsSearch | Reason::DnsType | Reason::Expired | Reason::Quarantined
    )
}

/// Turns a refused query round and sends it back where it came from. False where it cannot; it is then dropped like any other
/// packet. `index` is the interface that it came in by.
#[inline(always)]
pub(crate) fn answer_refused(skb: *mut __sk_buff, index: u32, reason: Reason) -> bool {
    if !is_answered(reason) {
        return false;
    }
    let code = if matches!(reason, Reason::DnsType) { 0 } else { NO_NAME };
    // SAFETY: the program's context.
    unsafe { turn_round(skb, code.into()) == 0 && bpf_redirect(index, 0) == i64::from(REDIRECT) }
}

/// What a program returns for a packet that is redirected.
pub(crate) const REDIRECT: i32 = 7;

const MAC: u32 = 6;

// Checked by the verifier once, by itself: see `shared`. The result is 0 when all was written.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn turn_round(skb: *mut __sk_buff, code: u32) -> i64 {
    let udp = udp_offset(skb, ETHERNET);
    if udp == 0 {
        return -1;
    }
    // Swapped, they add up to the same checksum.
    let addresses = if udp == 20 {
        // SAFETY: the program's context.
        unsafe { swap::<4>(skb, ETHERNET + 12) }
    } else {
        // SAFETY: see above.
        unsafe { swap::<16>(skb, ETHERNET + 8) }
    };
    let udp = ETHERNET + udp;
    // SAFETY: see above.
    if !addresses || !unsafe { swap::<{ MAC as usize }>(skb, 0) && swap::<2>(skb, udp) } {
        return -1;
    }
    let Some(flags) = PacketBytes::new(skb, 0).load::<2>(udp + 8 + 2) else { return -1 };
    let flags = u16::from_be_bytes(flags);
    let (old, new) = (flags.to_be(), (flags & FROM_QUERY | ANSWER | RECURSION | code as u16).to_be());
    // SAFETY: see above; both are on the stack.
    unsafe {
        bpf_l4_csum_replace(skb, udp + 6, old.into(), new.into(), BPF_F_MARK_MANGLED_0 | 2)
            | bpf_skb_store_bytes(skb, udp + 8 + 2, (&raw const new).cast(), 2, 0)
    }
}

/// Swaps two neighbouring fields. False where they are not there.
///
/// # Safety
/// `skb` is the program's context.
#[inline(always)]
unsafe fn swap<const N: usize>(skb: *mut __sk_buff, at: u32) -> bool {
    let bytes = PacketBytes::new(skb, 0);
    let (Some(one), Some(other)) = (bytes.load::<N>(at), bytes.load::<N>(at + N as u32)) else {
        return false;
    };
    // SAFETY: the caller's promise; both are on the stack.
    unsafe {
        bpf_skb_store_bytes(skb, at, other.as_ptr().cast(), N as u32, 0) == 0
            && bpf_skb_store_bytes(skb, at + N as u32, one.as_ptr().cast(), N as u32, 0) == 0
    }
}
