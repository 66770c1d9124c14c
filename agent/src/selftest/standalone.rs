//! The self-test on a node without an agent: with programs loaded for it.

use std::os::fd::AsFd;

use egress_warden_common::state::State;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{Report, SelftestError, Subject};
use crate::enforce::trial::Trial;
use crate::kernel::{Node, NodeOptions, Probe, Sizes};
use crate::workload::mount::CgroupMount;

/// Where programs are pinned on every machine. Here something else is mounted over it, in a mount namespace of its own.
const BPFFS: &str = "/sys/fs/bpf";

/// Loads the programs, tests them and takes them out again. They are in the kernel for as long as this process lives,
/// however it ends: nothing but its own mount namespace holds them. To be called before any thread is started.
pub fn run() -> Result<Report, SelftestError> {
    let subject = |error: &dyn std::fmt::Display| SelftestError::Subject(error.to_string());
    Probe::new().and_then(|probe| probe.check()).map_err(|error| subject(&error))?;
    let found = CgroupMount::find(None).map_err(|error| subject(&error))?;
    let nowhere: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(nowhere, "/", nowhere, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nowhere))
        .and_then(|()| mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), nowhere))
        .map_err(|errno| subject(&format!("no BPF file system of its own: {errno}")))?;
    let sizes = Sizes { words: 1 << 12, workloads: 4, refused_destinations: 64, names: false };
    let options = NodeOptions { bpffs: BPFFS.into(), sizes, ..NodeOptions::default() };
    let (node, _) = Node::open(&options).map_err(|error| subject(&error))?;
    super::run(&mut Own(node), found.point(), false)
}

struct Own(Node);

impl Subject for Own {
    fn enforce(&mut self, trial: Trial) -> Result<(), String> {
        let Trial { cgroup, directory, path, words, namespace } = trial;
        self.0
            .enforce(cgroup, directory.as_fd(), &path, &words, Some(&namespace))
            .map_err(|error| error.to_string())
    }

    fn state(&mut self, cgroup: u64) -> Result<Box<State>, String> {
        self.0.state(cgroup).map(Box::new).map_err(|error| error.to_string())
    }

    fn release(&mut self, cgroup: u64) -> Result<(), String> {
        self.0.release(cgroup).map_err(|error| error.to_string())
    }
}
