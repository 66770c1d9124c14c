//! Who is at the other end of a connection, and may they be served?
//!
//! Only root, and nobody out of a workload that is enforced: whoever is held by a policy must not lift it. A peer whose
//! cgroup cannot be told for certain is treated as one of those.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

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
    /// Its cgroup, from the root of the hierarchy.
    cgroup: PathBuf,
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
        let cgroup = absolute(&membership(&memberships)?)?;
        Ok(Placed { cgroup, comm: comm.trim_end_matches('\n').to_owned() })
    }

    fn has_ended(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? != 0)
    }
}

impl Placed {
    /// Is it outside of all of these workloads?
    pub(super) fn outside<'w>(&self, paths: impl IntoIterator<Item = &'w Path>) -> Result<(), Refused> {
        match paths.into_iter().find(|path| self.cgroup.starts_with(path)) {
            Some(path) => Err(Refused::Enforced(path.display().to_string())),
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
    fn paths_are_compared_by_their_parts() {
        let at = |cgroup: &str| Placed { cgroup: cgroup.into(), comm: "sh".into() };
        let enforced = [Path::new("/jobs/a"), Path::new("/pods/b")];
        for inside in ["/jobs/a", "/jobs/a/b", "/pods/b/c/d", "/jobs//a"] {
            assert!(matches!(at(inside).outside(enforced), Err(Refused::Enforced(_))), "{inside}");
        }
        for outside in ["/", "/jobs", "/jobs/ab", "/jobs/b/jobs/a", "/x/jobs/a"] {
            assert_eq!(at(outside).outside(enforced), Ok(()), "{outside}");
        }
    }

    #[test]
    fn who_asks_does_not_hide_behind_a_claim() {
        let placed = Placed { cgroup: "/".into(), comm: "egress-warden".into() };
        assert_eq!(placed.who(None), "uid 0 (egress-warden)");
        assert_eq!(placed.who(Some("ann")), "ann, uid 0 (egress-warden)");
        assert_eq!(placed.who(Some(" ")), "uid 0 (egress-warden)");
    }
}
