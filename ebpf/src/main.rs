//! The kernel programs.
#![no_std]
#![no_main]

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;

/// Lets everything pass.
#[cgroup_skb]
fn egress(_ctx: SkBuffContext) -> i32 {
    1
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
