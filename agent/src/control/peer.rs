//! Who is at the other end of a connection, and may they be served?
//!
//! Only root, and nobody out of a workload that is enforced: whoever is held by a policy must not lift it. A peer whose
//! cgroup cannot be told for certain is treated as one of those.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::workload::mount::CgroupMount;

/// The inode of the namespace in which the machine started: a constant of the kernel's interface.
const INITIAL_CGROUP_NAMESPACE: &str = "cgroup:[4026531835]";

/// A peer that is root. Where it is, is not known yet.
#[derive(Debug)]
pub(super) struct Peer {
    pid: i32,
    process: OwnedFd,
}

/// Why a peer is not served, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("only root is served; the peer is uid {0}")]
    NotRoot(u32),
    #[error(
        "the peer cannot be placed ({0}); ask from a running process of this host, outside enforced workloads"
    )]
    NotPlaced(String),
    #[error("the peer runs in the workload {0}, which is enforced; ask from outside of it")]
    Enforced(String),
}

/// What is known of a peer that may be served.
#[derive(Debug)]
pub(super) struct Placed {
    /// Ids of its cgroup and of all above it.
    cgroups: Vec<u64>,
    comm: String,
}

impl Peer {
    /// Of a connection. From here on its id stands for the same process, or for none.
    pub(super) fn of(connection: &impl AsFd) -> Result<Self, Refused> {
        let unknown = |errno: Errno| Refused::NotPlaced(errno.to_string());
        let credentials = getsockopt(connection, PeerCredentials).map_err(unknown)?;
        if credentials.uid() != 0 {
            return Err(Refused::NotRoot(credentials.uid()));
        }
        let pid = credentials.pid();
        let process = match getsockopt(connection, PeerPidfd) {
            Ok(process) => process,
            // Linux before 6.5 tells the id only. What is opened by it may be a successor, if the peer ended just now.
            Err(Errno::ENOPROTOOPT) => open(pid)?,
            Err(errno) => return Err(unknown(errno)),
        };
        Ok(Self { pid, process })
    }

    /// Where it is now.
    pub(super) fn place(&self) -> Result<Placed, Refused> {
        let read = |what: &str| {
            let path = format!("/proc/{}/{what}", self.pid);
            fs::read_to_string(&path).map_err(|error| Refused::NotPlaced(format!("{path}: {error}")))
        };
        let (memberships, comm) = (read("cgroup")?, read("comm")?);
        // Asked last: while it lives, nobody else has its id, so what was read is its own.
        if self.has_ended().map_err(|error| Refused::NotPlaced(error.to_string()))? {
            return Err(Refused::NotPlaced("its process has ended".into()));
        }
        let cgroups = ids(&absolute(&membership(&memberships)?)?)?;
        Ok(Placed { cgroups, comm: comm.trim_end_matches('\n').to_owned() })
    }

    fn has_ended(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? != 0)
    }
}

impl Placed {
    /// Is it outside of all of these workloads? Each is the id of its cgroup and its label.
    pub(super) fn outside<'w>(
        &self,
        workloads: impl IntoIterator<Item = (u64, &'w str)>,
    ) -> Result<(), Refused> {
        match workloads.into_iter().find(|(cgroup, _)| self.cgroups.contains(cgroup)) {
            Some((_, label)) => Err(Refused::Enforced(label.to_owned())),
            None => Ok(()),
        }
    }

    /// Who asks, with what they say of themselves.
    pub(super) fn who(&self, claim: Option<&str>) -> String {
        let known = format!("uid 0 ({})", self.comm);
        match claim.map(str::trim) {
            Some(claim) if !claim.is_empty() => format!("{claim}, {known}"),
            _ => known,
        }
    }
}

fn open(pid: i32) -> Result<OwnedFd, Refused> {
    let id = Pid::from_raw(pid).ok_or_else(|| Refused::NotPlaced("it is in another PID namespace".into()))?;
    pidfd_open(id, PidfdFlags::empty()).map_err(|error| Refused::NotPlaced(error.to_string()))
}

/// The cgroup2 line of `/proc/<pid>/cgroup`.
fn membership(text: &str) -> Result<PathBuf, Refused> {
    let found = text.lines().find_map(|line| line.strip_prefix("0::"));
    let path =
        PathBuf::from(found.ok_or_else(|| Refused::NotPlaced("it is in no cgroup2 hierarchy".into()))?);
    // Beginning with `/..` it is outside of what the agent's cgroup namespace shows.
    if path.components().any(|part| part == Component::ParentDir) || !path.is_absolute() {
        return Err(Refused::NotPlaced(format!("its cgroup is {} as seen by the agent", path.display())));
    }
    Ok(path)
}

/// The same path from the root of the hierarchy, from where the paths of workloads count.
fn absolute(path: &Path) -> Result<PathBuf, Refused> {
    let told = |error: io::Error| Refused::NotPlaced(error.to_string());
    if fs::read_link("/proc/self/ns/cgroup").map_err(told)? == Path::new(INITIAL_CGROUP_NAMESPACE) {
        return Ok(path.to_owned());
    }
    // In a namespace of its own the agent sees paths from there on and does not know what stands before them. A
    // process in its own cgroup is in no workload, because the agent never enforces itself.
    let own = membership(&fs::read_to_string("/proc/self/cgroup").map_err(told)?)?;
    if path == own {
        return Ok(PathBuf::from("/"));
    }
    let what = format!("its cgroup is {}, and the agent is in a cgroup namespace of its own", path.display());
    Err(Refused::NotPlaced(what))
}

/// The ids of a cgroup and of all above it, as far as they are in view: workloads are. By ids, because a path is as the
/// mount shows it, and one that an earlier agent left enforced may be known by its id alone.
fn ids(cgroup: &Path) -> Result<Vec<u64>, Refused> {
    let mount = CgroupMount::find(None).map_err(|error| Refused::NotPlaced(error.to_string()))?;
    let in_view = cgroup.ancestors().filter_map(|path| mount.below(path));
    in_view
        .map(|path| {
            let found = fs::metadata(mount.directory(&path));
            found.map(|found| found.ino()).map_err(|error| Refused::NotPlaced(error.to_string()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_from_the_root_places_a_peer() {
        let text = "12:cpu:/a\n1:name=systemd:/b\n0::/c/d\n";
        assert_eq!(membership(text), Ok("/c/d".into()));
        assert!(membership("12:cpu:/a\n").is_err());
        assert!(membership("0::/../c\n").is_err());
        assert!(membership("0::c\n").is_err());
        assert!(membership("").is_err());
    }

    #[test]
    fn whoever_is_in_a_workload_or_below_it_is_inside() {
        let at = |cgroups: &[u64]| Placed { cgroups: cgroups.to_vec(), comm: "sh".into() };
        let enforced = [(7, "/jobs/a"), (9, "/cgroup-9")];
        for inside in [&[7, 3, 1][..], &[12, 7, 3, 1], &[9, 1]] {
            assert!(matches!(at(inside).outside(enforced), Err(Refused::Enforced(_))), "{inside:?}");
        }
        for outside in [&[1][..], &[3, 1], &[77, 3, 1], &[]] {
            assert_eq!(at(outside).outside(enforced), Ok(()), "{outside:?}");
        }
    }

    #[test]
    fn the_ids_lead_from_the_cgroup_up_to_the_root() {
        let own = absolute(&membership(&fs::read_to_string("/proc/self/cgroup").unwrap()).unwrap()).unwrap();
        let found = ids(&own).unwrap();
        let root = fs::metadata(CgroupMount::find(None).unwrap().point()).unwrap().ino();
        assert_eq!(found.last(), Some(&root));
        assert!(matches!(ids(Path::new("/there-is-none")), Err(Refused::NotPlaced(_))));
    }

    #[test]
    fn who_asks_does_not_hide_behind_a_claim() {
        let placed = Placed { cgroups: vec![1], comm: "egress-warden".into() };
        assert_eq!(placed.who(None), "uid 0 (egress-warden)");
        assert_eq!(placed.who(Some("ann")), "ann, uid 0 (egress-warden)");
        assert_eq!(placed.who(Some(" ")), "uid 0 (egress-warden)");
    }
}
