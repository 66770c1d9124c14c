//! Ending connections in one network namespace.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use egress_warden_common::Route;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use super::sockets::{Netlink, Socket, Trouble};
use super::{Connection, DiagError, note};
use crate::kernel::{KernelError, namespace};

/// A network namespace that a thread of the workload is in.
#[derive(Debug)]
pub(super) struct Namespace {
    /// By which a process has it.
    pub(super) path: PathBuf,
    /// Device and number of it.
    pub(super) id: (u64, u64),
    pub(super) file: File,
}

impl Namespace {
    /// On a thread of its own: it does not come back.
    pub(super) fn visit(
        &self,
        protocols: &[u8],
        cgroups: &HashSet<u64>,
        each: &mut impl FnMut(&Netlink, &Socket, &Connection) -> Result<(), Trouble>,
        problems: &mut Vec<DiagError>,
    ) -> Result<(), DiagError> {
        let failed = |what| {
            move |errno: Errno| DiagError::Namespace {
                what,
                namespace: self.path.clone(),
                source: errno.into(),
            }
        };
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(failed("run"))?;
        let place = Place::of_thread(self.id.1).map_err(|error| DiagError::Namespace {
            what: "list the addresses",
            namespace: self.path.clone(),
            source: io::Error::other(error),
        })?;
        let netlink = Netlink::open().map_err(failed("open netlink"))?;
        let families = [libc::AF_INET as u8, libc::AF_INET6 as u8];
        for (protocol, family) in protocols.iter().flat_map(|one| families.map(|family| (*one, family))) {
            let sockets = netlink.dump(family, protocol).map_err(|error| match error {
                // What answers is a module on many kernels.
                Trouble::Kernel(Errno::ENOENT) => DiagError::Unsupported,
                Trouble::Kernel(errno) => failed("list the sockets")(errno),
                Trouble::Answer(what) => DiagError::Answer(what),
            })?;
            for socket in sockets.iter().filter(|socket| cgroups.contains(&socket.cgroup)) {
                if let Err(error) = each(&netlink, socket, &place.connection(socket)) {
                    note(
                        problems,
                        match error {
                            Trouble::Kernel(Errno::EOPNOTSUPP) => DiagError::Unsupported,
                            Trouble::Kernel(errno) => failed("end a connection")(errno),
                            Trouble::Answer(what) => DiagError::Answer(what),
                        },
                    );
                }
            }
        }
        Ok(())
    }
}

/// What is needed of a namespace to tell a connection's facts.
#[derive(Debug)]
struct Place {
    addresses: Vec<IpAddr>,
    is_host: bool,
}

impl Place {
    fn of_thread(number: u64) -> Result<Self, KernelError> {
        Ok(Self { addresses: namespace::addresses()?, is_host: namespace::is_host_of(number)? })
    }

    fn connection(&self, socket: &Socket) -> Connection {
        let (local, remote) = (socket.local(), socket.remote());
        // A packet to an address of the own namespace takes the loopback interface, whichever address it is.
        let stays = remote.is_loopback()
            || remote.is_unspecified()
            || remote == local
            || self.addresses.binary_search(&remote).is_ok();
        Connection {
            local,
            local_port: socket.port(0),
            remote,
            remote_port: socket.port(2),
            protocol: socket.protocol,
            cookie: socket.cookie(),
            established: socket.is_established(),
            cgroup: socket.cgroup,
            route: if stays { Route::Loopback } else { Route::Uplink },
            host_namespace: self.is_host,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sockets::tests::id;
    use super::*;

    #[test]
    fn what_stays_in_the_namespace_is_loopback() {
        let place = Place { addresses: vec!["10.0.0.1".parse().unwrap()], is_host: false };
        let route = |local, remote| {
            let socket = Socket {
                family: libc::AF_INET as u8,
                protocol: 6,
                state: 1,
                cgroup: 1,
                id: id(local, remote),
            };
            place.connection(&socket).route
        };
        assert_eq!(route("127.0.0.1:1", "127.0.0.9:2"), Route::Loopback);
        assert_eq!(route("127.0.0.1:1", "10.0.0.1:2"), Route::Loopback);
        assert_eq!(route("10.9.9.9:1", "10.9.9.9:2"), Route::Loopback);
        assert_eq!(route("10.0.0.1:1", "10.0.0.2:2"), Route::Uplink);
    }
}
