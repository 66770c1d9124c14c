//! The wrapper's signals: taken as events, passed on to CMD, and kept from changing what CMD starts with.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::kernel::sys::{self, Disposition};

/// What a person, a shell or a service manager sends to a command.
const FORWARDED: [Signal; 10] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// What the caller passed on about signals, for CMD to find it as if there were no wrapper. SIGPIPE is not in it: the
/// Rust runtime changes that one before `main`; CMD gets the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inherited {
    /// Blocked signals, bit n-1 for signal n.
    pub(super) mask: u64,
    /// Whether SIGCHLD was ignored, which would keep us from waiting for anybody.
    pub(super) ignores_children: bool,
}

impl Inherited {
    /// Sets it again, in the process that becomes CMD.
    pub(super) fn restore(self) -> io::Result<()> {
        if self.ignores_children {
            sys::set_disposition(Signal::SIGCHLD, Disposition::Ignore)?;
        }
        sys::set_disposition(Signal::SIGPIPE, Disposition::Default)?;
        sys::set_signal_mask(self.mask)
    }
}

/// One signal that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) signal: Signal,
    /// Sent by the terminal, to the whole foreground group; CMD's own group would have got it.
    pub(super) from_terminal: bool,
}

/// The wrapper's signals as a descriptor.
#[derive(Debug)]
pub(super) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the forwarded signals and takes them as events from now on. Those that the caller ignores (`nohup`,
    /// background jobs of a shell without job control) stay ignored here and in CMD.
    pub(super) fn take() -> io::Result<(Self, Inherited)> {
        let status = fs::read_to_string("/proc/self/status")?;
        let ignored = mask(&status, "SigIgn:")?;
        let inherited = Inherited {
            mask: mask(&status, "SigBlk:")?,
            ignores_children: contains(ignored, Signal::SIGCHLD),
        };
        sys::set_disposition(Signal::SIGCHLD, Disposition::Default)?;
        let taken: SigSet = FORWARDED.into_iter().filter(|signal| !contains(ignored, *signal)).collect();
        taken.thread_block()?;
        // Otherwise taking the terminal back from the background would stop us.
        SigSet::from(Signal::SIGTTOU).thread_block()?;
        let fd = SignalFd::with_flags(&taken, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok((Self { fd }, inherited))
    }

    /// The next one, if there is one.
    pub(super) fn next(&mut self) -> io::Result<Option<Received>> {
        let info = match self.fd.read_signal() {
            Ok(Some(info)) => info,
            Ok(None) | Err(Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let number = i32::try_from(info.ssi_signo).map_err(io::Error::other)?;
        let signal = Signal::try_from(number)?;
        Ok(Some(Received { signal, from_terminal: info.ssi_code == libc::SI_KERNEL }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn contains(mask: u64, signal: Signal) -> bool {
    mask >> (signal as i32 - 1) & 1 == 1
}

fn mask(status: &str, key: &str) -> io::Result<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key));
    value
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .ok_or_else(|| io::Error::other(format!("no {key} in /proc/self/status")))
}
