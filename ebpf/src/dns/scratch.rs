//! Memory for one message and the walks over it: too much for a program's stack.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_skb_load_bytes};
use core::ffi::c_void;
use egress_warden_common::dns::{ANSWER_STEPS, Answer, MAX_MESSAGE, Message, Name, QUERY_STEPS, Query};
use egress_warden_common::grant::{Grant, GrantedName};
use egress_warden_common::limits::NAME_ROOM;
use egress_warden_common::names::{LOOKUP_STEPS, Lookup};
use egress_warden_common::packet::Bytes;
use egress_warden_common::reason::IPPROTO_UDP;
use egress_warden_common::ruleset::Ruleset;

use crate::atomic;
use crate::maps::SCRATCH;
use crate::rules::KernelWords;
use crate::shared::PacketBytes;
use crate::workload::Workload;

/// How many of them each processor has. A program that is interrupted by another keeps its own.
pub(crate) const SCRATCHES: u32 = 4;

/// One of them.
#[repr(C)]
pub(crate) struct Scratch {
    /// 1 while it is lent.
    lent: u64,
    pub(crate) message: Message,
    pub(crate) query: Query,
    pub(crate) answer: Answer,
    pub(crate) lookup: Lookup,
    last: Last,
    pub(crate) grant: Grant,
    pub(crate) name: GrantedName,
    /// Class of the name that an answer is for.
    pub(crate) class: u32,
    /// What is wrong with an answer.
    pub(crate) rejected: u32,
    /// 1 if there is something in the answer to be kept, else 0.
    pub(crate) tells: u64,
}

/// What the last lookup came to: a query, the same one at the backstop, and its answer are all for one name.
#[repr(C)]
struct Last {
    hash: u64,
    slot: u32,
    serial: u32,
    generation: u32,
    class: u32,
    /// Characters of the text, or [`NO_LENGTH`] where it does not count.
    length: u32,
    /// What the length is to be once the class is known.
    noted: u32,
    text: [u8; NAME_ROOM],
}

/// No name is that long.
const NO_LENGTH: u32 = u32::MAX;

/// Lends one: its number, from 1, or 0 where a processor was interrupted as often as there are.
#[inline(always)]
pub(crate) fn lend() -> u32 {
    for index in 0..SCRATCHES {
        let Some(scratch) = SCRATCH.get_ptr_mut(index) else { break };
        // SAFETY: an aligned field of a live map value.
        if unsafe { atomic::replace(&raw mut (*scratch).lent, 0, 1) } {
            return index + 1;
        }
    }
    0
}

/// The one with this number, or null.
#[inline(always)]
pub(crate) fn lent_at(number: u32) -> *mut Scratch {
    match SCRATCH.get_ptr_mut(number.wrapping_sub(1)) {
        Some(scratch) => scratch,
        None => core::ptr::null_mut(),
    }
}

/// Takes it back.
///
/// # Safety
/// `scratch` is null, or came from [`lend`].
#[inline(always)]
pub(crate) unsafe fn give_back(scratch: *mut Scratch) {
    if !scratch.is_null() {
        // SAFETY: the caller's promise.
        unsafe { atomic::store(&raw mut (*scratch).lent, 0) };
    }
}

const UDP_HEADER: u32 = 8;

/// Offset of the UDP header behind the IP header's first byte, where it directly follows a fixed header; 0 elsewhere.
#[inline(always)]
pub(crate) fn udp_offset(skb: *mut __sk_buff, base: u32) -> u32 {
    let bytes = PacketBytes::new(skb, base);
    let Some([first]) = bytes.load::<1>(0) else { return 0 };
    match first {
        0x45 => match bytes.load::<1>(9) {
            Some([IPPROTO_UDP]) => 20,
            _ => 0,
        },
        0x60..=0x6f => match bytes.load::<1>(6) {
            Some([IPPROTO_UDP]) => 40,
            _ => 0,
        },
        _ => 0,
    }
}

/// Copies the message behind the UDP header into the scratch. False where there is none, or it is longer than is read; then
/// its length says which.
#[inline(always)]
pub(crate) fn read_message(skb: *mut __sk_buff, base: u32, scratch: &mut Scratch) -> bool {
    let offset = udp_offset(skb, base);
    if offset == 0 {
        return false;
    }
    let Some(length) = PacketBytes::new(skb, base).load::<2>(offset + 4) else { return false };
    let length = u32::from(u16::from_be_bytes(length)).wrapping_sub(UDP_HEADER);
    scratch.message.length = length;
    if length == 0 || length > MAX_MESSAGE as u32 {
        return false;
    }
    // The same number. The mask is for the verifier of Linux 6.1, which loses what the comparison said on the way.
    let known = (core::hint::black_box(length).wrapping_sub(1) & (MAX_MESSAGE as u32 - 1)) + 1;
    let (from, to) = (base + offset + UDP_HEADER, (&raw mut scratch.message.bytes).cast());
    // SAFETY: the program's context, and as many bytes as there is room for.
    unsafe { bpf_skb_load_bytes(skb.cast(), from, to, known) == 0 }
}

/// Walks the message as a query, which was [`Query::reset`] before.
#[inline(always)]
pub(crate) fn walk_query(scratch: &mut Scratch) {
    let mut place: *mut Scratch = scratch;
    // SAFETY: `query_step` has the signature that `bpf_loop` calls, with the pointer given here.
    unsafe { bpf_loop(QUERY_STEPS, query_step as *mut c_void, (&raw mut place).cast(), 0) };
}

unsafe extern "C" fn query_step(_: u64, place: *mut c_void) -> i64 {
    // SAFETY: `walk_query` passes the place of a scratch that outlives the loop.
    let scratch = unsafe { &mut **place.cast::<*mut Scratch>() };
    i64::from(scratch.query.step(&scratch.message))
}

/// Walks the message as an answer.
#[inline(always)]
pub(crate) fn walk_answer(scratch: &mut Scratch) {
    scratch.answer.reset();
    let mut place: *mut Scratch = scratch;
    // SAFETY: `answer_step` has the signature that `bpf_loop` calls, with the pointer given here.
    unsafe { bpf_loop(ANSWER_STEPS, answer_step as *mut c_void, (&raw mut place).cast(), 0) };
}

unsafe extern "C" fn answer_step(_: u64, place: *mut c_void) -> i64 {
    // SAFETY: `walk_answer` passes the place of a scratch that outlives the loop.
    let scratch = unsafe { &mut **place.cast::<*mut Scratch>() };
    i64::from(scratch.answer.step(&scratch.message))
}

/// A lookup on its way.
struct Search {
    lookup: *mut Lookup,
    text: *const [u8; NAME_ROOM],
    ruleset: u32,
}

/// The class of the first `length` characters of a text, by the ruleset that begins there.
///
/// # Safety
/// `lookup` and `text` point into live map values.
#[inline(always)]
pub(crate) unsafe fn look_up(
    lookup: *mut Lookup,
    text: *const [u8; NAME_ROOM],
    length: u32,
    ruleset: u32,
) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { (*lookup).start(length) };
    let mut search = Search { lookup, text, ruleset };
    // SAFETY: `lookup_step` has the signature that `bpf_loop` calls, with the pointer given here.
    unsafe { bpf_loop(LOOKUP_STEPS, lookup_step as *mut c_void, (&raw mut search).cast(), 0) };
    // SAFETY: the caller's promise.
    unsafe { (*lookup).found() }
}

unsafe extern "C" fn lookup_step(_: u64, search: *mut c_void) -> i64 {
    // SAFETY: `look_up` passes a `Search` that outlives the loop, as what it points to does.
    unsafe {
        let search = &*search.cast::<Search>();
        let ruleset = Ruleset::new(&KernelWords, search.ruleset);
        i64::from((*search.lookup).step(&ruleset, &*search.text))
    }
}

/// The class of this name for this workload, by the ruleset that begins there.
///
/// # Safety
/// `lookup`, `last` and `name` are those of one scratch.
#[inline(always)]
unsafe fn class_of(
    (lookup, last): (*mut Lookup, *mut Last),
    name: *const Name,
    workload: &Workload,
    ruleset: u32,
) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let (hash, length) = ((*name).hash, (*name).length);
        let (text, last_text) = (&raw const (*name).text, &raw const (*last).text);
        let whose = (workload.slot, workload.binding.serial, workload.generation);
        // In the moment of a swap the packet may still be judged by the ruleset before, of another generation.
        let is_current = workload.ruleset == ruleset;
        // A hash is no proof: the text decides.
        if is_current
            && (*last).hash == hash
            && (*last).length == length
            && ((*last).slot, (*last).serial, (*last).generation) == whose
            && is_same(text, last_text, length)
        {
            return (*last).class;
        }
        // Whatever can be is written before the lookup: what is kept across it takes the stack that Linux 6.1 has not.
        (*last).length = NO_LENGTH;
        (*last).noted = if is_current { length } else { NO_LENGTH };
        (*last).hash = hash;
        ((*last).slot, (*last).serial, (*last).generation) = whose;
        let (from, to) = (text.cast::<u64>(), (&raw mut (*last).text).cast::<u64>());
        for index in 0..NAME_ROOM / 8 {
            if index * 8 >= length as usize {
                break;
            }
            to.add(index).write(from.add(index).read());
        }
        (*last).class = look_up(lookup, text, length, ruleset);
        (*last).length = (*last).noted;
        (*last).class
    }
}

impl Scratch {
    /// The class of the name that the query in it asks for.
    #[inline(always)]
    pub(crate) fn class_of_query(&mut self, workload: &Workload, ruleset: u32) -> u32 {
        let (memory, name) = ((&raw mut self.lookup, &raw mut self.last), &raw const self.query.name);
        // SAFETY: all are its own.
        unsafe { class_of(memory, name, workload, ruleset) }
    }

    /// The class of the name that the answer in it is for.
    #[inline(always)]
    pub(crate) fn class_of_answer(&mut self, workload: &Workload, ruleset: u32) -> u32 {
        let (memory, name) = ((&raw mut self.lookup, &raw mut self.last), &raw const self.answer.name);
        // SAFETY: all are its own.
        unsafe { class_of(memory, name, workload, ruleset) }
    }
}

/// Are these the same text, as far as its length goes?
///
/// # Safety
/// Both point into live map values, are aligned to 8 and end with zeros.
#[inline(always)]
pub(crate) unsafe fn is_same(
    one: *const [u8; NAME_ROOM],
    other: *const [u8; NAME_ROOM],
    length: u32,
) -> bool {
    let (one, other) = (one.cast::<u64>(), other.cast::<u64>());
    for index in 0..NAME_ROOM / 8 {
        if index * 8 >= length as usize {
            break;
        }
        // SAFETY: inside both texts.
        if unsafe { one.add(index).read() != other.add(index).read() } {
            return false;
        }
    }
    true
}
