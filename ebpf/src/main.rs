//! The kernel programs. Each entry point is thin: it reads its context, asks [`egress_warden_common::decide`], and
//! counts. `maps` holds what they share with the agent, `workload` finds whose packet it is, `memory` what is remembered
//! with a socket, `shared` asks for the verdict, `violation` counts.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "see `atomic`")]
#![expect(clippy::needless_pass_by_value, reason = "aya's macros hand over the context by value")]

mod atomic;
mod backends;
mod backstop;
mod cgroups;
mod chatter;
mod connect;
mod dns;
mod egress;
mod ingress;
mod kept;
mod maps;
mod memory;
mod notes;
mod rewritten;
mod rules;
mod shared;
mod socket;
mod tuple;
mod violation;
mod workload;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
