//! The live connections of a workload, and ending them, so that it hears an error at once where it would wait for answers
//! that no longer come: `NETLINK_SOCK_DIAG`, inside every network namespace that its processes use.
//!
//! Found is what belongs to the workload's cgroup or one below it: the kernel notes a socket's cgroup when it is made, and
//! tells it (`INET_DIAG_CGROUP_ID`). So three kinds of connections are not found; what they send is judged all the same:
//!
//! - in a network namespace in which no thread of the workload is any more,
//! - made in a cgroup below that was removed since, by a process that lives on elsewhere,
//! - half-open ones that a peer began and the workload has not accepted (the kernel does not tell whose they are).
//!
//! A connection that the workload was handed by a process outside is that process's, here as everywhere. In quarantine UDP
//! needs nothing: who sends hears `EPERM`.
//!
//! Written by hand, because netlink-packet-sock-diag, the crate for it, can build no `SOCK_DESTROY` and leaves the cgroup
//! to its caller to parse.

mod members;
mod namespace;
mod sockets;

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::thread;

use egress_warden_common::Route;
use egress_warden_common::reason::{IPPROTO_TCP, IPPROTO_UDP};
use thiserror::Error;

use nix::errno::Errno;

use members::Members;
use sockets::{Netlink, Socket, Trouble};

/// Whose connections are looked for: TCP.
pub const TCP: &[u8] = &[IPPROTO_TCP];
/// TCP, and UDP sockets that are connected.
pub const TCP_AND_UDP: &[u8] = &[IPPROTO_TCP, IPPROTO_UDP];

/// A live connection of a workload: of TCP, or a UDP socket that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its own address.
    pub local: IpAddr,
    /// Its own port.
    pub local_port: u16,
    /// Where it sends.
    pub remote: IpAddr,
    /// The port there.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// The kernel's number for the socket, never used twice.
    pub cookie: u64,
    /// Did both ends agree to it? Half-open ones are none yet.
    pub established: bool,
    /// Id of the cgroup that the socket was made in.
    pub cgroup: u64,
    /// By which way its packets leave.
    pub route: Route,
    /// Is it in the host's network namespace?
    pub host_namespace: bool,
}

/// What came of ending connections.
#[derive(Debug, Default)]
pub struct Ended {
    /// Ended.
    pub ended: usize,
    /// Not to be ended.
    pub kept: usize,
    /// To be ended, and still there.
    pub failed: usize,
    /// Why some failed, or could not be looked for; each reason once.
    pub problems: Vec<DiagError>,
}

/// The connections of a workload, as far as they could be found.
#[derive(Debug, Default)]
pub struct Found {
    /// Those.
    pub connections: Vec<Connection>,
    /// Why some could not be looked for; each reason once.
    pub problems: Vec<DiagError>,
}

fn note(problems: &mut Vec<DiagError>, problem: DiagError) {
    if problems.iter().all(|known| known.to_string() != problem.to_string()) {
        problems.push(problem);
    }
}

/// Why connections could not be ended.
#[derive(Debug, Error)]
pub enum DiagError {
    /// The kernel was built without it, or lacks the module.
    #[error(
        "this kernel cannot end connections (CONFIG_INET_DIAG_DESTROY, module tcp_diag): they hang until they time out"
    )]
    Unsupported,
    /// The cgroups of the workload could not be listed.
    #[error("cannot list the cgroups and processes of the workload: {0}")]
    Cgroups(#[source] io::Error),
    /// A process of the workload is outside the agent's PID namespace.
    #[error("a process of the workload is not visible here: run the agent in the host's PID namespace")]
    Invisible,
    /// The network namespace of a process cannot be opened.
    #[error("not permitted to open the network namespaces of the workload: the agent needs CAP_SYS_PTRACE")]
    NotPermitted,
    /// A network namespace could not be entered or asked.
    #[error("cannot {what} in network namespace {}: {source}", namespace.display())]
    Namespace {
        /// What was tried.
        what: &'static str,
        /// A path by which a process has the namespace.
        namespace: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer makes no sense.
    #[error("the kernel's answer about sockets cannot be read: {0}")]
    Answer(&'static str),
}

/// Ends every TCP connection of a workload for which `judge` says so. `cgroup` is its directory.
///
/// It takes system calls for every thread and every socket in sight: not for a thread on which others wait.
///
/// # Errors
/// When the workload's cgroups cannot be listed. What fails later stands in the result, so that the rest is ended.
pub fn end_connections(
    cgroup: BorrowedFd<'_>,
    judge: impl Fn(&Connection) -> bool + Sync,
) -> Result<Ended, DiagError> {
    end_connections_of(cgroup, TCP, judge)
}

/// The same for these protocols.
///
/// # Errors
/// See [`end_connections`].
pub fn end_connections_of(
    cgroup: BorrowedFd<'_>,
    protocols: &[u8],
    judge: impl Fn(&Connection) -> bool + Sync,
) -> Result<Ended, DiagError> {
    let mut result = Ended::default();
    let problems = visit(cgroup, protocols, |netlink, socket, connection| {
        if !judge(connection) {
            result.kept += 1;
            return Ok(());
        }
        match netlink.destroy(socket) {
            Ok(()) => result.ended += 1,
            // It ended by itself.
            Err(Trouble::Kernel(Errno::ENOENT)) => {}
            Err(error) => {
                result.failed += 1;
                return Err(error);
            }
        }
        Ok(())
    })?;
    result.problems = problems;
    Ok(result)
}

/// The connections that a workload has. `cgroup` is its directory.
///
/// # Errors
/// When the workload's cgroups cannot be listed. What fails later stands in the result.
pub fn connections(cgroup: BorrowedFd<'_>, protocols: &[u8]) -> Result<Found, DiagError> {
    let mut connections = Vec::new();
    let problems = visit(cgroup, protocols, |_, _, connection| {
        connections.push(connection.clone());
        Ok(())
    })?;
    Ok(Found { connections, problems })
}

/// Shows every connection of a workload; tells what did not work, each reason once.
fn visit(
    cgroup: BorrowedFd<'_>,
    protocols: &[u8],
    mut each: impl FnMut(&Netlink, &Socket, &Connection) -> Result<(), Trouble> + Send,
) -> Result<Vec<DiagError>, DiagError> {
    let members = Members::of(cgroup)?;
    let mut problems = Vec::new();
    if members.invisible {
        note(&mut problems, DiagError::Invisible);
    }
    for namespace in members.namespaces(&mut problems) {
        // setns moves a thread: one that nobody needs afterwards.
        let done = thread::scope(|scope| {
            scope.spawn(|| namespace.visit(protocols, &members.cgroups, &mut each, &mut problems)).join()
        });
        match done {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => note(&mut problems, problem),
            Err(_) => note(&mut problems, DiagError::Answer("the thread that read it panicked")),
        }
    }
    Ok(problems)
}
