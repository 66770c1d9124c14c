//! Ending connections, freezing, killing.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use egress_warden_common::decide::{Clock, UNSYNCHRONISED};
use egress_warden_common::reason::IPPROTO_TCP;
use egress_warden_common::{Address, Facts, Route, decide};

use super::Begin;
use crate::allowlist::Action;
use crate::kernel::KernelError;
use crate::kernel::diag::{Connection, end_connections};
use crate::workload::cgroup_tree;

/// What could not be done. The quarantine holds all the same.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// A file of the cgroup.
    #[error("{}: {source}", path.display())]
    Cgroup {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its connections.
    #[error("its connections go on until they time out: {0}")]
    Connections(#[from] KernelError),
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ActionError {
    move |source| ActionError::Cgroup { path: path.to_owned(), source }
}

/// Does what follows a quarantine. What is killed or frozen first cannot open connections while they are ended.
pub(super) fn begin(begin: &Begin<'_>) -> Result<(), ActionError> {
    match begin.action {
        Action::Isolate => {}
        Action::Freeze => write(begin.directory, "cgroup.freeze", "1")?,
        Action::Kill => write(begin.directory, "cgroup.kill", "1")?,
    }
    end_live(begin)
}

/// Lets a frozen workload go on.
pub(super) fn thaw(directory: &Path) -> Result<(), ActionError> {
    write(directory, "cgroup.freeze", "0")
}

fn write(directory: &Path, file: &str, value: &str) -> Result<(), ActionError> {
    let path = directory.join(file);
    fs::write(&path, value).map_err(failed(&path))
}

/// Ends the connections that quarantine cuts, so that whoever waits on one is told at once instead of after many minutes.
fn end_live(begin: &Begin<'_>) -> Result<(), ActionError> {
    let cgroups: HashSet<u64> = cgroup_tree::ids(begin.directory).map_err(failed(begin.directory))?;
    let ends =
        |connection: &Connection| cgroups.contains(&connection.cgroup) && is_cut(begin, connection.remote);
    for namespace in namespaces(begin.directory).map_err(failed(begin.directory))? {
        end_connections(&namespace, ends)?;
    }
    Ok(())
}

/// Would a packet of this connection be refused now? By the same verdict as in the kernel.
fn is_cut(begin: &Begin<'_>, remote: SocketAddr) -> bool {
    let destination = Address::from(remote.ip());
    let own = begin.namespace.is_some_and(|namespace| namespace.addresses.contains(&remote.ip()));
    let Some(ruleset) = begin.ruleset else { return !(own || destination.is_loopback()) };
    let facts = Facts {
        destination,
        protocol: IPPROTO_TCP,
        port: remote.port(),
        route: if own || destination.is_loopback() { Route::Loopback } else { Route::Uplink },
        host_namespace: begin.namespace.is_none_or(|namespace| namespace.is_host),
        reply: false,
        quarantined: true,
    };
    !decide(&ruleset.ruleset(), &NoTime, &facts).reason.allows()
}

/// What has a deadline may go on a little: the kernel, which knows the time, still judges its packets.
struct NoTime;

impl Clock for NoTime {
    fn unix_seconds(&self) -> u64 {
        const { assert!(UNSYNCHRONISED == u64::MAX) };
        0
    }
}

/// Every network namespace that its processes are in.
fn namespaces(directory: &Path) -> io::Result<Vec<File>> {
    let mut found = HashMap::new();
    for process in cgroup_tree::processes(directory)? {
        // One that ended meanwhile has none.
        let Ok(namespace) = File::open(format!("/proc/{process}/ns/net")) else { continue };
        let number = namespace.metadata()?.ino();
        found.entry(number).or_insert(namespace);
    }
    Ok(found.into_values().collect())
}
