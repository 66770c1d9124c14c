//! What is done with a workload in quarantine, beside what the kernel refuses: nothing more, or it is frozen, or killed.
//!
//! Everything goes through a descriptor of the cgroup: by the time it is done the path may be another cgroup's.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use rustix::fs::{CWD, Mode, OFlags};

use super::cut::Cut;
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

    /// Has connections ended, which takes its time: what came of it is told later.
    ///
    /// # Errors
    /// When nobody is there to do it.
    fn end_connections(&self, cut: Cut) -> io::Result<()>;
}

/// The real ones.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Where cgroup2 is mounted.
    pub mount: PathBuf,
    /// Who ends connections: [`super::cut::start`].
    pub cuts: Sender<Cut>,
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

    fn end_connections(&self, cut: Cut) -> io::Result<()> {
        self.cuts
            .send(cut)
            .map_err(|_| io::Error::other("the thread that does it has ended; start the agent again"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// Remembers what was asked of it.
    #[derive(Debug, Default)]
    pub(in crate::quarantine) struct Told {
        pub(in crate::quarantine) done: RefCell<Vec<String>>,
        pub(in crate::quarantine) fails: Cell<Option<i32>>,
        pub(in crate::quarantine) paths: RefCell<BTreeMap<PathBuf, u64>>,
        /// Number and cgroup of each cut that was asked for, and whether it was called off since.
        pub(in crate::quarantine) cuts: RefCell<Vec<(u64, u64, Arc<AtomicBool>)>>,
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

        fn end_connections(&self, cut: Cut) -> io::Result<()> {
            self.tell("end connections")?;
            self.cuts.borrow_mut().push((cut.number, cut.cgroup, cut.called_off));
            Ok(())
        }
    }

    #[test]
    fn a_path_that_is_another_cgroups_now_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("job")).unwrap();
        let kernel = Kernel { mount: directory.path().to_owned(), cuts: std::sync::mpsc::channel().0 };
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
