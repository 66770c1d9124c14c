//! What is done with a workload in quarantine, beside what the kernel refuses: nothing more, or it is frozen, or killed.
//!
//! Everything goes through a descriptor of the cgroup: by the time it is done the path may be another cgroup's.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use crate::kernel::diag::{Connection, DiagError, Ended, end_connections};
use crate::kernel::tree::write;

/// What a quarantine does to a cgroup.
pub trait Actions {
    /// Opens the cgroup at this path under the mount, if it is still the one with this id.
    ///
    /// # Errors
    /// `NotFound` where it is not.
    fn open(&self, path: &Path, cgroup: u64) -> io::Result<OwnedFd>;

    /// Stops everything in the cgroup and below, or lets it go on.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn freeze(&self, cgroup: BorrowedFd<'_>, frozen: bool) -> io::Result<()>;

    /// Kills everything in the cgroup and below. It is dying when this returns, not gone.
    ///
    /// # Errors
    /// When something may live on.
    fn kill(&self, cgroup: BorrowedFd<'_>) -> io::Result<()>;

    /// Ends the connections for which `judge` says so.
    ///
    /// # Errors
    /// As [`end_connections`].
    fn end_connections(&self, cgroup: BorrowedFd<'_>, judge: Judge<'_>) -> Result<Ended, DiagError>;
}

/// Says whether a connection is to be ended.
pub type Judge<'a> = &'a (dyn Fn(&Connection) -> bool + Sync);

/// The real ones.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Where cgroup2 is mounted.
    pub mount: PathBuf,
}

impl Actions for Kernel {
    fn open(&self, path: &Path, cgroup: u64) -> io::Result<OwnedFd> {
        let path = self.mount.join(path.strip_prefix("/").unwrap_or(path));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        if rustix::fs::fstat(&directory)?.st_ino == cgroup {
            Ok(directory)
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, "another cgroup has its path"))
        }
    }

    fn freeze(&self, cgroup: BorrowedFd<'_>, frozen: bool) -> io::Result<()> {
        Ok(write(cgroup, c"cgroup.freeze", if frozen { b"1" } else { b"0" })?)
    }

    fn kill(&self, cgroup: BorrowedFd<'_>) -> io::Result<()> {
        // There since Linux 5.14; the oldest that is supported is 6.1.
        Ok(write(cgroup, c"cgroup.kill", b"1")?)
    }

    fn end_connections(&self, cgroup: BorrowedFd<'_>, judge: Judge<'_>) -> Result<Ended, DiagError> {
        end_connections(cgroup, judge)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::os::fd::AsFd;

    use super::*;

    /// Remembers what was asked of it.
    #[derive(Debug, Default)]
    pub(in crate::quarantine) struct Told {
        pub(in crate::quarantine) done: RefCell<Vec<String>>,
        pub(in crate::quarantine) fails: Cell<Option<i32>>,
        pub(in crate::quarantine) paths: RefCell<BTreeMap<PathBuf, u64>>,
    }

    impl Told {
        fn tell(&self, what: &str) -> io::Result<()> {
            self.done.borrow_mut().push(what.to_owned());
            self.fails.get().map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
        }

        /// What was done since the last call.
        pub(in crate::quarantine) fn take(&self) -> Vec<String> {
            self.done.take()
        }
    }

    /// Any descriptor.
    pub(in crate::quarantine) fn descriptor() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    impl Actions for &Told {
        fn open(&self, path: &Path, cgroup: u64) -> io::Result<OwnedFd> {
            match self.paths.borrow().get(path) {
                Some(id) if *id == cgroup => Ok(descriptor()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }

        fn freeze(&self, _: BorrowedFd<'_>, frozen: bool) -> io::Result<()> {
            self.tell(if frozen { "freeze" } else { "thaw" })
        }

        fn kill(&self, _: BorrowedFd<'_>) -> io::Result<()> {
            self.tell("kill")
        }

        fn end_connections(&self, _: BorrowedFd<'_>, _: Judge<'_>) -> Result<Ended, DiagError> {
            self.tell("end connections").map_err(DiagError::Cgroups)?;
            Ok(Ended { ended: 2, ..Ended::default() })
        }
    }

    #[test]
    fn a_path_that_is_another_cgroups_now_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("job")).unwrap();
        let kernel = Kernel { mount: directory.path().to_owned() };
        let id =
            std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(directory.path().join("job")).unwrap());
        assert!(kernel.open(Path::new("/job"), id).is_ok());
        let wrong = kernel.open(Path::new("/job"), id + 1).unwrap_err();
        assert_eq!(wrong.kind(), io::ErrorKind::NotFound);
        assert_eq!(kernel.open(Path::new("/gone"), id).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::os::unix::fs::symlink("job", directory.path().join("link")).unwrap();
        assert!(kernel.open(Path::new("/link"), id).is_err());
        let file = kernel.open(Path::new("/job"), id).unwrap();
        assert!(kernel.freeze(file.as_fd(), true).is_err(), "a file that is not there is not made");
    }
}
