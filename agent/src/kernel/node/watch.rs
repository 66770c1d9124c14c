//! Word of cgroups that are made and removed.

use std::os::fd::{AsFd, BorrowedFd};

use aya::Ebpf;
use aya::maps::{Array, MapData, RingBuf};
use aya::programs::raw_trace_point::RawTracePointLink;
use aya::programs::{Program, ProgramError, RawTracePoint};
use egress_warden_common::state::CgroupEvent;

use crate::kernel::maps::Wire;
use crate::kernel::object::{drain, take, take_ring};

const PROGRAMS: [(&str, &str); 2] = [("watch_mkdir", "cgroup_mkdir"), ("watch_rmdir", "cgroup_rmdir")];

/// The two programs that tell, and the ring that they write into. They belong to this agent and end with it.
pub(super) struct Watch {
    ring: RingBuf<MapData>,
    lost: Array<MapData, u64>,
    _links: Vec<RawTracePointLink>,
}

impl Watch {
    /// `None` where the kernel refuses: nothing depends on it but how soon a cgroup is seen.
    pub(super) fn start(ebpf: &mut Ebpf) -> Option<Self> {
        let mut links = Vec::new();
        for (program, tracepoint) in PROGRAMS {
            let Some(Program::RawTracePoint(program)) = ebpf.program_mut(program) else { return None };
            links.push(attach(program, tracepoint).ok()?);
        }
        let ring = take_ring(ebpf, "CGROUPS").ok()?;
        let lost = take(ebpf, "CGROUPS_LOST").ok()?.try_into().ok()?;
        Some(Self { ring, lost, _links: links })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    pub(super) fn drain(&mut self, mut each: impl FnMut(&CgroupEvent)) {
        drain(&mut self.ring, |event: &Wire<CgroupEvent>| each(&event.0));
    }

    pub(super) fn lost(&self) -> Option<u64> {
        self.lost.get(&0, 0).ok()
    }
}

fn attach(program: &mut RawTracePoint, tracepoint: &str) -> Result<RawTracePointLink, ProgramError> {
    program.load()?;
    let id = program.attach(tracepoint)?;
    program.take_link(id)
}
