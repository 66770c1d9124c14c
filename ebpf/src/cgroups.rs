//! Tells the agent of cgroups that were made or removed, so that it need not look for them.
//!
//! Of every hierarchy: the agent knows its own by the path. These two enforce nothing, and the agent does without them
//! where they do not load.

use aya_ebpf::helpers::bpf_probe_read_kernel_str_bytes;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use egress_warden_common::state::{CGROUP_MADE, CGROUP_PATH, CGROUP_REMOVED, CgroupEvent};

use crate::atomic;
use crate::maps::{CGROUPS, CGROUPS_LOST};
use crate::rules::boot_ns;

/// A cgroup was made. It can be opened a moment later.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub(crate) fn watch_mkdir(ctx: RawTracePointContext) -> i32 {
    tell(&ctx, CGROUP_MADE)
}

/// A cgroup was removed.
#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
pub(crate) fn watch_rmdir(ctx: RawTracePointContext) -> i32 {
    tell(&ctx, CGROUP_REMOVED)
}

#[inline(always)]
fn tell(ctx: &RawTracePointContext, kind: u32) -> i32 {
    let path: *const u8 = ctx.arg(1);
    let Some(mut entry) = CGROUPS.reserve::<CgroupEvent>(0) else {
        lost();
        return 0;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the ring gave room for one event, of which every field is written here or below.
    let read = unsafe {
        (*event).time = boot_ns();
        (*event).kind = kind;
        bpf_probe_read_kernel_str_bytes(path, &mut (*event).path)
    };
    match read {
        // One byte less than there is room for: a path that fills it may have been cut.
        Ok(read) if read.len() < CGROUP_PATH - 1 => {
            // SAFETY: see above.
            unsafe { (*event).length = read.len() as u32 };
            entry.submit(0);
        }
        _ => {
            entry.discard(0);
            lost();
        }
    }
    0
}

#[inline(always)]
fn lost() {
    if let Some(counter) = CGROUPS_LOST.get_ptr_mut(0) {
        // SAFETY: a live map value.
        unsafe { atomic::add(counter, 1) };
    }
}
