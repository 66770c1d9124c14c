//! Standard input, output and error are the only descriptors that CMD gets from outside. What they are is checked: some
//! things, once open, are a way out that no namespace closes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;
use rustix::net::AddressFamily;

// From linux/magic.h.
const CGROUP_MAGIC: u64 = 0x0027_e0eb;
const CGROUP2_MAGIC: u64 = 0x6367_7270;
const BPF_MAGIC: u64 = 0xcafe_4a11;

/// Why a standard descriptor cannot be given to CMD.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// Neither a file, a pipe, a device nor a local socket.
    #[error("{name} is {what}: {why}; redirect it to a file, a pipe or /dev/null")]
    Refused {
        /// Which of the three.
        name: &'static str,
        /// What it is.
        what: &'static str,
        /// What CMD could do with it.
        why: &'static str,
    },
    /// It could not be examined.
    #[error("cannot examine {name}: {source}")]
    Examine {
        /// Which of the three.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Checks the three standard descriptors of this process.
pub(super) fn check() -> Result<(), StdioError> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for (name, fd) in [
        ("standard input", stdin.as_fd()),
        ("standard output", stdout.as_fd()),
        ("standard error", stderr.as_fd()),
    ] {
        if let Some((what, why)) =
            objection(fd).map_err(|source| StdioError::Examine { name, source: source.into() })?
        {
            return Err(StdioError::Refused { name, what, why });
        }
    }
    Ok(())
}

fn objection(fd: BorrowedFd<'_>) -> rustix::io::Result<Option<(&'static str, &'static str)>> {
    let file_type = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
    Ok(match file_type {
        FileType::Socket if rustix::net::sockopt::socket_domain(fd)? != AddressFamily::UNIX => {
            Some(("a network socket", "it was made outside, and its packets would not be judged"))
        }
        FileType::Directory => Some(("a directory", "it leads to files that CMD must not see")),
        FileType::RegularFile => match rustix::fs::fstatfs(fd)?.f_type.cast_unsigned() {
            CGROUP_MAGIC | CGROUP2_MAGIC => {
                Some(("a control file of a cgroup", "CMD could leave its cgroup with it"))
            }
            BPF_MAGIC => Some(("a pinned BPF object", "CMD could change what is enforced with it")),
            _ => None,
        },
        FileType::Socket | FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => None,
        // Namespaces, processes, event counters, BPF objects: nobody reads text from them.
        _ => Some(("not a file", "it stands for something outside the jail")),
    })
}
