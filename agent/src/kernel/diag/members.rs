//! Whose connections they are: the cgroups of a workload, its processes, and the network namespaces that these use.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::namespace::Namespace;
use super::{DiagError, note};
use crate::kernel::tree::{open, read_to_string, walk};

/// How long listing a workload's cgroups may take.
const WALK_WITHIN: Duration = Duration::from_secs(5);

/// The cgroups of a workload and the processes in them.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) cgroups: HashSet<u64>,
    processes: Vec<u32>,
    /// One of its processes has no number here.
    pub(super) invisible: bool,
}

impl Members {
    pub(super) fn of(cgroup: BorrowedFd<'_>) -> Result<Self, DiagError> {
        let failed = |errno: rustix::io::Errno| DiagError::Cgroups(errno.into());
        let mut members = Self::default();
        members.add(cgroup).map_err(failed)?;
        let deadline = Instant::now() + WALK_WITHIN;
        walk(cgroup, deadline, |below| members.add(below), |_, _| Ok(())).map_err(failed)?;
        Ok(members)
    }

    fn add(&mut self, cgroup: BorrowedFd<'_>) -> rustix::io::Result<()> {
        self.cgroups.insert(rustix::fs::fstat(cgroup)?.st_ino);
        let mut text = String::new();
        // The processes of a threaded cgroup are listed by the one above it that is not.
        match read_to_string(open(cgroup, c"cgroup.procs", OFlags::RDONLY)?, &mut text) {
            Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
            other => other?,
        }
        for number in text.lines().filter_map(|line| line.parse().ok()) {
            if number == 0 {
                self.invisible = true;
            } else {
                self.processes.push(number);
            }
        }
        Ok(())
    }

    /// The network namespaces in which a thread of theirs is. Who ends meanwhile needs nothing.
    pub(super) fn namespaces(&self, problems: &mut Vec<DiagError>) -> Vec<Namespace> {
        let mut found: Vec<Namespace> = Vec::new();
        for process in &self.processes {
            let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
            for thread in threads.flatten() {
                let path = thread.path().join("ns/net");
                let known = |id: &(u64, u64)| found.iter().any(|namespace| namespace.id == *id);
                if fs::metadata(&path).is_ok_and(|data| known(&(data.dev(), data.ino()))) {
                    continue;
                }
                let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
                let (data, file) = match opened {
                    Ok(opened) => opened,
                    Err(source) => {
                        // Without CAP_SYS_PTRACE the link is there and cannot be followed.
                        if source.kind() == io::ErrorKind::PermissionDenied {
                            note(problems, DiagError::NotPermitted);
                        }
                        continue;
                    }
                };
                let id = (data.dev(), data.ino());
                if !known(&id) {
                    found.push(Namespace { path, id, file });
                }
            }
        }
        found
    }
}
