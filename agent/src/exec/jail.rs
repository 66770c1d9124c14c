//! Starts the jail: from the checks to a running init.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Pid, execv, geteuid, setpgid};

use crate::exec::caps::CapabilitySet;
use crate::exec::cgroup::Cgroup;
use crate::exec::init::Orders;
use crate::exec::signals::Signals;
use crate::exec::stdio::{self, StdioError};
use crate::exec::supervise::Running;
use crate::exec::{FAILED, message};
use crate::kernel::sys;

/// Why there is no jail, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Root alone may make namespaces and attach programs.
    #[error("exec needs root: run it as uid 0, for example with sudo")]
    NotRoot,
    /// A standard descriptor that leads out.
    #[error(transparent)]
    Stdio(#[from] StdioError),
    /// What init said.
    #[error("{0}")]
    Init(String),
    /// A step in the wrapper.
    #[error("cannot {step}: {source}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

pub(super) fn failed<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> JailError {
    move |error| JailError::Step { step, source: error.into() }
}

/// The way to a [`Running`] command.
#[derive(Debug)]
pub struct Jail;

impl Jail {
    /// What can be known before anything is made.
    pub fn check() -> Result<(), JailError> {
        if !geteuid().is_root() {
            return Err(JailError::NotRoot);
        }
        Ok(stdio::check()?)
    }

    /// Starts `command` in `cgroup`, to which the programs that enforce the policy are attached by now.
    ///
    /// To be called from the main thread of a process that has no other. Every descriptor from 3 on is marked
    /// close-on-exec, and standard input and output become /dev/null here: they are CMD's.
    pub fn spawn(
        cgroup: &Cgroup,
        command: &[OsString],
        keep_caps: &CapabilitySet,
    ) -> Result<Running, JailError> {
        Self::check()?;
        let (signals, inherited) = Signals::take().map_err(failed("take over signals"))?;
        sys::close_on_exec_from(3).map_err(failed("keep descriptors from the command"))?;
        let (ours, inits) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(failed("make a socket pair"))?;
        fcntl(inits.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).map_err(failed("pass on a socket"))?;
        let orders = Orders {
            socket: inits.as_raw_fd(),
            keep: *keep_caps,
            signals: inherited,
            command: command.to_vec(),
        };
        let arguments = orders.to_arguments().map_err(failed("pass an argument on"))?;
        let thawer = cgroup.thawer().map_err(failed("hold the cgroup"))?;
        let made = sys::fork_into(cgroup.fd())
            .map_err(failed("start the jail's init (CAP_SYS_ADMIN is needed, and clone3)"))?;
        let Some(init) = made else { become_init(inits.as_fd(), &arguments) };
        // Here and in the child, so that it is done whoever comes first.
        let _ = setpgid(init.pid, init.pid);
        drop(inits);
        Running::new(init, ours, signals, thawer)
    }
}

/// In the child. It executes this program anew, because the one that it is a copy of has files and memory that do not
/// belong into the jail.
fn become_init(socket: BorrowedFd<'_>, arguments: &[CString]) -> ! {
    // A group of its own, so that the terminal's signals go to the wrapper, to be passed on.
    let done = setpgid(Pid::from_raw(0), Pid::from_raw(0)).and_then(|()| execv(c"/proc/self/exe", arguments));
    let Err(errno) = done;
    // Nobody listens if this fails, and the exit code says it as well.
    let _ = message::send_failure(socket, &format!("cannot start the jail's init: {}", errno.desc()));
    std::process::exit(FAILED)
}
