//! The caller's network namespace: its cookie, its addresses, its uplinks.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use std::thread;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{Interface, if_nameindex};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};

use super::interface::{self, NetworkInterface};
use super::{KernelError, Probe, resolvers};

/// Linux's `SO_NETNS_COOKIE`; the libc crate does not name it on every target.
const SO_NETNS_COOKIE: libc::c_int = 71;
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";
pub(super) const LOOPBACK_INDEX: u32 = 1;

/// Facts about the network namespace that a workload runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnNamespace {
    /// The kernel's number for it, never used twice.
    pub cookie: u64,
    /// Is it the host's, in which loopback reaches the node's own services?
    pub is_host: bool,
    /// Its addresses, loopback included.
    pub addresses: Vec<IpAddr>,
    /// Those of its interfaces, by index, at whose other end somebody outside can be: inbound flows are learnt on these.
    pub uplinks: Vec<u32>,
    /// All its interfaces but loopback, with where each of them ends; empty where nobody asked.
    pub interfaces: Vec<NetworkInterface>,
    /// The agent's own namespace's number for it; -1 where it has none.
    pub number: i32,
    /// The private resolvers that `resolv.conf` names there.
    pub resolvers: Vec<IpAddr>,
}

impl OwnNamespace {
    /// Examines the network namespace of a process. `None` where it is not a namespace that whoever started the workload
    /// gave it: one that was made inside, in a user namespace of its own, would open loopback to its maker.
    pub fn of_process(pid: u32) -> Result<Option<Self>, KernelError> {
        let path = format!("/proc/{pid}/ns/net");
        let found = Self::of_file(File::open(&path).map_err(failed("a process's network namespace"))?)?;
        Ok(found.map(|found| Self { resolvers: resolvers::of_process(pid), ..found }))
    }

    /// The same of one that is open.
    pub fn of_file(file: File) -> Result<Option<Self>, KernelError> {
        if !belongs_to_own_user_namespace(&file)? {
            return Ok(None);
        }
        let own = File::open(OWN_NAMESPACE).map_err(failed(OWN_NAMESPACE))?;
        let number = if is_same(&file, &own)? {
            -1
        } else {
            interface::number_for(&file).map_err(failed("rtnetlink"))?
        };
        // On a thread of its own, which ends there: this one stays where it is.
        let thread = thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).map_err(|error| failed("setns")(error.into()))?;
            let interfaces = interface::interfaces(&own).map_err(failed("rtnetlink"))?;
            let uplinks = interface::uplinks(&interfaces);
            Ok(Self { interfaces, uplinks, number, ..Self::of_caller()? })
        });
        thread.join().map_err(|_| KernelError::Missing("a thread"))?.map(Some)
    }

    /// A socket that becomes readable when an address or an interface of a process's network namespace changes.
    pub fn changes_of(pid: u32) -> Result<OwnedFd, KernelError> {
        let path = format!("/proc/{pid}/ns/net");
        let file = File::open(&path).map_err(failed("a process's network namespace"))?;
        let thread = thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).map_err(|error| failed("setns")(error.into()))?;
            subscribe().map_err(failed("rtnetlink"))
        });
        thread.join().map_err(|_| KernelError::Missing("a thread"))?
    }

    /// The same for the network namespace of the calling thread.
    pub fn changes_of_caller() -> Result<OwnedFd, KernelError> {
        subscribe().map_err(failed("rtnetlink"))
    }

    /// The addresses of the calling thread's network namespace.
    pub fn addresses_of_caller() -> Result<Vec<IpAddr>, KernelError> {
        addresses()
    }

    /// Examines the network namespace of the calling thread.
    pub fn of_caller() -> Result<Self, KernelError> {
        let addresses = addresses()?;
        let interfaces = if_nameindex().map_err(|error| failed("if_nameindex")(error.into()))?;
        let uplinks =
            interfaces.iter().map(Interface::index).filter(|index| *index != LOOPBACK_INDEX).collect();
        Ok(Self {
            cookie: cookie()?,
            is_host: is_host()?,
            addresses,
            uplinks,
            interfaces: Vec::new(),
            number: -1,
            resolvers: resolvers::of_caller(),
        })
    }
}

// The groups of linux/rtnetlink.h: links, and addresses of either family.
const RTMGRP_LINK: u32 = 1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;

fn subscribe() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    let groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

fn is_same(one: &File, other: &File) -> Result<bool, KernelError> {
    let number =
        |file: &File| file.metadata().map(|found| found.ino()).map_err(failed("a network namespace"));
    Ok(number(one)? == number(other)?)
}

fn belongs_to_own_user_namespace(namespace: &File) -> Result<bool, KernelError> {
    /// `NS_GET_USERNS` of linux/nsfs.h.
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: no pointers; the result is checked before it becomes an owned descriptor.
    let owner = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
    if owner < 0 {
        // Owned by a user namespace that is not below the caller's, so not by its own.
        return match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EPERM) => Ok(false),
            error => Err(failed("NS_GET_USERNS")(error)),
        };
    }
    // SAFETY: the kernel has just opened it for this process.
    let owner = File::from(unsafe { OwnedFd::from_raw_fd(owner) });
    let number =
        |found: io::Result<fs::Metadata>| found.map(|found| found.ino()).map_err(failed("user namespace"));
    Ok(number(owner.metadata())? == number(fs::metadata("/proc/self/ns/user"))?)
}

/// The addresses of the calling thread's network namespace, in order.
pub(super) fn addresses() -> Result<Vec<IpAddr>, KernelError> {
    let mut addresses: Vec<IpAddr> = getifaddrs()
        .map_err(|error| failed("getifaddrs")(error.into()))?
        .filter_map(|interface| {
            let address = interface.address?;
            if let Some(v4) = address.as_sockaddr_in() {
                return Some(IpAddr::V4(v4.ip()));
            }
            address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> KernelError {
    move |source| KernelError::Namespace { what, source }
}

/// Number of the first network namespace, fixed since [`FIXED_NUMBERS`] (include/uapi/linux/nsfs.h).
const FIRST_NUMBER: u64 = 0xEFFF_FFF9;
/// The first release with fixed numbers.
const FIXED_NUMBERS: (u32, u32) = (6, 18);

// Where the number does not tell, process 1's namespace stands for the host's; inside a container that is the
// container's own. Where that cannot be read either, the answer is "host": then loopback needs a word in the policy
// although it need not, which is the safe way to be wrong.
fn is_host() -> Result<bool, KernelError> {
    is_host_of(fs::metadata(OWN_NAMESPACE).map_err(failed(OWN_NAMESPACE))?.ino())
}

/// Is the namespace with this number the host's?
pub(super) fn is_host_of(own: u64) -> Result<bool, KernelError> {
    let first = fs::metadata("/proc/1/ns/net").ok().map(|namespace| namespace.ino());
    Ok(is_host_number(own, first, Probe::new()?.version()))
}

fn is_host_number(own: u64, of_process_1: Option<u64>, kernel: (u32, u32)) -> bool {
    if own == FIRST_NUMBER {
        return true;
    }
    match of_process_1 {
        Some(first) => own == first,
        None => kernel < FIXED_NUMBERS,
    }
}

fn cookie() -> Result<u64, KernelError> {
    // SAFETY: no pointers; the result is checked before it becomes an owned descriptor.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(failed("socket")(io::Error::last_os_error()));
    }
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` and `length` outlive the call, and `length` is the size of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(failed("SO_NETNS_COOKIE")(io::Error::last_os_error()));
    }
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_the_host() {
        assert!(is_host_number(FIRST_NUMBER, None, (6, 18)));
        assert!(is_host_number(4_026_531_840, Some(4_026_531_840), (6, 1)));
        assert!(!is_host_number(4_026_532_300, Some(4_026_531_840), (6, 1)));
        assert!(!is_host_number(4_026_532_300, None, (6, 18)));
        assert!(is_host_number(4_026_532_300, None, (6, 1)));
    }
}
