//! A query on its way to a resolver: is it one, and may its name be asked for?

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_loop};
use core::ffi::c_void;
use egress_warden_common::Verdict;
use egress_warden_common::decide::DNS_PORT;
use egress_warden_common::limits::{MAX_NAME, NAME_ROOM};
use egress_warden_common::names::NO_CLASS;
use egress_warden_common::packet::Packet;
use egress_warden_common::reason::{IPPROTO_UDP, Reason};
use egress_warden_common::ruleset::Ruleset;
use egress_warden_common::state::Process;

use super::pending;
use super::reply::is_answered;
use super::scratch::{Scratch, give_back, lend, lent_at, look_up, read_message, walk_query};
use crate::rules::{KernelClock, KernelWords};
use crate::shared::refused;
use crate::violation::{Attempt, count, count_named};
use crate::workload::{Workload, bump};

/// Is it a query, where queries are judged? That its server may be asked was found before.
#[inline(always)]
pub(crate) const fn is_query(packet: &Packet) -> bool {
    packet.protocol == IPPROTO_UDP && packet.port == DNS_PORT
}

/// Who asks [`judge_query`], and what becomes of what it refuses.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    /// Bytes in front of the IP header.
    pub(crate) base: u32,
    /// [`Asked::COUNTS`], [`Asked::NOTES`], [`Asked::AUDIT`].
    pub(crate) flags: u32,
}

impl Asked {
    /// What it refuses is counted here. Elsewhere somebody behind does.
    pub(crate) const COUNTS: u32 = 1;
    /// What it lets through is noted, so that the answer is believed.
    pub(crate) const NOTES: u32 = 2;
    /// What it refuses passes all the same.
    pub(crate) const AUDIT: u32 = 4;
    /// The backstop comes behind: it counts what it can answer.
    pub(crate) const ANSWERED: u32 = 8;
}

/// Judges the query that a packet carries, and counts what it refuses as the attempt of this process.
#[inline(always)]
pub(crate) fn judge_query(
    workload: &Workload,
    skb: *mut __sk_buff,
    asked: Asked,
    packet: &Packet,
    process: Process,
) -> Verdict {
    let place = u64::from(workload.ruleset) << 32 | u64::from(workload.slot);
    let mut attempt = Attempt { verdict: refused(Reason::DnsMalformed), process };
    // SAFETY: the program's context, and what is on its stack.
    let lent = unsafe { judge_in_scratch(skb, place, asked.base, asked.flags, &raw mut attempt.verdict) };
    let scratch = lent_at(lent);
    // SAFETY: takes numbers.
    if matches!(attempt.verdict.reason, Reason::DnsName) && unsafe { is_search(lent, workload.ruleset) } != 0
    {
        attempt.verdict = refused(Reason::DnsSearch);
    }
    let verdict = attempt.verdict;
    let is_left = asked.flags & Asked::ANSWERED != 0 && is_answered(verdict.reason);
    if asked.flags & Asked::COUNTS != 0 && !verdict.reason.allows() && !is_left {
        if matches!(verdict.reason, Reason::DnsSearch) {
            bump!(workload, dns.search);
        } else {
            count_query(workload, asked, packet, &attempt, scratch);
        }
    }
    // SAFETY: lent by the function above, or null.
    unsafe { give_back(scratch) };
    verdict
}

#[inline(always)]
fn count_query(workload: &Workload, asked: Asked, packet: &Packet, attempt: &Attempt, scratch: *mut Scratch) {
    let audit = asked.flags & Asked::AUDIT != 0;
    if scratch.is_null() {
        return count(workload, packet, attempt, audit);
    }
    // SAFETY: a live map value that is lent.
    let name = unsafe { &(*scratch).query.name };
    count_named(workload, packet, attempt, audit, name, pending::refused_before(workload, name.hash));
}

// Checked by the verifier once, by itself: see `shared`. The result is which scratch is lent, from 1, with the name in it.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn judge_in_scratch(
    skb: *mut __sk_buff,
    place: u64,
    base: u32,
    flags: u32,
    verdict: *mut Verdict,
) -> u32 {
    // SAFETY: the verifier checked the size of what it points at.
    let Some(verdict) = (unsafe { verdict.as_mut() }) else { return 0 };
    let Some(workload) = Workload::at(place as u32) else { return 0 };
    let lent = lend();
    let scratch = lent_at(lent);
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: a live map value that nobody else has.
    let scratch = unsafe { &mut *scratch };
    *verdict = judge(skb, base, &workload, (place >> 32) as u32, scratch);
    let allowed = matches!(verdict.reason, Reason::Allowed);
    // In audit the answer to a refused one comes as well, and is no surprise.
    if flags & Asked::NOTES != 0 && (allowed || flags & Asked::AUDIT != 0) {
        // SAFETY: the program's context.
        let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
        pending::note(&workload, cookie, &scratch.query);
    }
    if flags & Asked::NOTES != 0 && allowed {
        bump!(workload, dns.allowed);
    }
    lent
}

#[inline(always)]
fn judge(
    skb: *mut __sk_buff,
    base: u32,
    workload: &Workload,
    ruleset: u32,
    scratch: &mut Scratch,
) -> Verdict {
    scratch.query.reset();
    // SAFETY: a field of the program's context. Several datagrams in one piece would be judged by the first.
    if unsafe { (*skb).gso_size } != 0 || !read_message(skb, base, scratch) {
        return refused(Reason::DnsMalformed);
    }
    walk_query(scratch);
    if scratch.query.problem != 0 {
        return refused(Reason::DnsMalformed);
    }
    let (class, kind) = (scratch.class_of_query(workload, ruleset), scratch.query.kind);
    let quarantined = workload.quarantined();
    Ruleset::new(&KernelWords, ruleset).query(&KernelClock, class, kind, quarantined)
}

/// Labels of a suffix that a resolver library may have put behind a name.
const SEARCH_LABELS: u32 = 6;

/// Suffixes that are taken away, one by one.
struct Suffix {
    scratch: *mut Scratch,
    /// Characters that are left.
    length: u32,
    labels: u32,
    ruleset: u32,
    found: u32,
}

/// Is the name in the scratch with this number an allowed one with something behind it, as resolver libraries put there by
/// themselves?
// Checked by the verifier once, by itself: see `shared`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn is_search(lent: u32, ruleset: u32) -> u32 {
    let scratch = lent_at(lent);
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: a live map value that is lent to the caller.
    let length = unsafe { (*scratch).query.name.length };
    let mut suffix = Suffix { scratch, length, labels: 0, ruleset, found: NO_CLASS };
    // SAFETY: `suffix_step` has the signature that `bpf_loop` calls, with the pointer given here.
    unsafe { bpf_loop(MAX_NAME as u32, suffix_step as *mut c_void, (&raw mut suffix).cast(), 0) };
    u32::from(suffix.found != NO_CLASS)
}

unsafe extern "C" fn suffix_step(_: u64, suffix: *mut c_void) -> i64 {
    // SAFETY: `is_search` passes a `Suffix` that outlives the loop, as its scratch does.
    let suffix = unsafe { &mut *suffix.cast::<Suffix>() };
    // SAFETY: see above.
    let scratch = unsafe { &mut *suffix.scratch };
    if suffix.length == 0 || suffix.labels >= SEARCH_LABELS {
        return 1;
    }
    suffix.length -= 1;
    let text = &raw const scratch.query.name.text;
    // SAFETY: inside the text.
    let character = unsafe { (*text)[suffix.length as usize % NAME_ROOM] };
    if character != b'.' {
        return 0;
    }
    suffix.labels += 1;
    // SAFETY: both are in the scratch.
    suffix.found = unsafe { look_up(&raw mut scratch.lookup, text, suffix.length, suffix.ruleset) };
    i64::from(suffix.found != NO_CLASS)
}
