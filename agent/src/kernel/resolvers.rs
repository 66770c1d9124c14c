//! The resolvers that a workload's own `resolv.conf` names.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

/// In every root.
const FILE: &str = "etc/resolv.conf";
/// No honest one is larger.
const LARGEST: u64 = 64 << 10;

/// Those of a process, as it sees its files. None where it names none, or they cannot be read.
pub(super) fn of_process(pid: u32) -> Vec<IpAddr> {
    of_root(Path::new(&format!("/proc/{pid}/root")))
}

/// Those of the calling process.
pub(super) fn of_caller() -> Vec<IpAddr> {
    of_root(Path::new("/"))
}

fn of_root(root: &Path) -> Vec<IpAddr> {
    read(root).map(|text| parse(&text)).unwrap_or_default()
}

/// Root inside made the file: links stay below its root, and what is no plain file is not waited for.
fn read(root: &Path) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let root = openat(CWD, root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(openat2(&root, FILE, flags, Mode::empty(), resolve)?);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// The `nameserver` lines. Only private addresses count: a public one would be a way out that nobody wrote down.
fn parse(text: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .map(|address: IpAddr| address.to_canonical())
        .filter(is_private)
        .collect();
    found.dedup();
    // As many as resolver libraries read.
    found.truncate(3);
    found
}

fn is_private(address: &IpAddr) -> bool {
    match address {
        // 100.64.0.0/10 is shared by the customers of a carrier, and by the nodes of a cloud.
        IpAddr::V4(v4) => {
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_nameservers_count() {
        let text = "# nameserver 10.0.0.9\nsearch a.test\nnameserver 10.96.0.10\n nameserver\tfd00::10 \n\
                    nameserver 198.51.100.1\nnameserver 2001:db8::1\nnameserver 127.0.0.53\nnameserver nonsense\n\
                    nameserver 192.168.0.1\noptions ndots:5\n";
        let expected: Vec<IpAddr> =
            ["10.96.0.10", "fd00::10", "127.0.0.53"].map(|address| address.parse().unwrap()).into();
        assert_eq!(parse(text), expected);
        assert!(parse("nameserver 8.0.0.8\n").is_empty());
    }

    #[test]
    fn links_stay_below_the_root_and_what_is_no_file_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::create_dir(root.path().join("run")).unwrap();
        let file = root.path().join(FILE);
        std::os::unix::fs::symlink("/run/resolv.conf", &file).unwrap();
        assert!(of_root(root.path()).is_empty());
        std::fs::write(root.path().join("run/resolv.conf"), "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(of_root(root.path()), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        std::fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(of_root(root.path()).is_empty());
    }
}
