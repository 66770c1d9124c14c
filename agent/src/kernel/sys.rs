//! The few system calls of `exec` for which no safe wrapper exists. Everything else goes through `nix` and `rustix`.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{ForkResult, Pid};

/// From linux/sched.h; the constant of `libc` is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// How long a thread that was joined may take to be gone; on a busy machine with one processor, tens of milliseconds.
const THREADS_END_WITHIN: Duration = Duration::from_secs(2);

/// `fork(2)`. Refused in a process with threads: the child of one may do next to nothing before `execve`.
pub fn fork() -> io::Result<ForkResult> {
    only_thread()?;
    // SAFETY: the process has this one thread, so no lock can be held by a thread that the child does not have.
    Ok(unsafe { nix::unistd::fork() }?)
}

/// A child made by [`fork_into`], seen from its parent.
#[derive(Debug)]
pub struct Forked {
    /// Its id here.
    pub pid: Pid,
    /// A descriptor of it.
    pub process: OwnedFd,
}

/// `fork(2)` into a cgroup and a new PID namespace; `None` in the child. The child never runs in the caller's cgroup,
/// and there is no wait for the grace period that moving a process between cgroups costs (6 to 10 ms here).
pub fn fork_into(cgroup: BorrowedFd<'_>) -> io::Result<Option<Forked>> {
    only_thread()?;
    let mut process: RawFd = -1;
    let flags = [libc::CLONE_NEWPID, libc::CLONE_PIDFD].into_iter().map(i32::cast_unsigned).map(u64::from);
    // SAFETY: a record of integers, for which all zeros is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags.fold(CLONE_INTO_CGROUP, |all, flag| all | flag);
    arguments.pidfd = (&raw mut process) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: as in `fork`: one thread, and neither memory nor a stack is shared with the child. The kernel reads the
    // record and writes one descriptor where `pidfd` points; both live until after the call.
    let child = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match Errno::result(child)? {
        0 => Ok(None),
        pid => {
            let pid = Pid::from_raw(libc::pid_t::try_from(pid).map_err(io::Error::other)?);
            // SAFETY: the kernel has just opened it for this process.
            let process = unsafe { OwnedFd::from_raw_fd(process) };
            Ok(Some(Forked { pid, process }))
        }
    }
}

/// A thread that was joined may still be listed for a moment: its joiner is woken before it is gone. So this looks again
/// for a while.
fn only_thread() -> io::Result<()> {
    let end = Instant::now() + THREADS_END_WITHIN;
    while fs::read_dir("/proc/self/task")?.count() != 1 {
        if Instant::now() >= end {
            return Err(io::Error::other("fork in a process with several threads"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Marks every descriptor from `first` on close-on-exec. Nothing is closed here, so no owner is surprised.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // By number, because the C library's wrapper is younger than the kernels and C libraries we run on.
    // SAFETY: three integers; no memory is touched, and with CLOSE_RANGE_CLOEXEC no descriptor is closed.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(done)?;
    Ok(())
}

/// Leaves the session keyring, which no namespace does, for a new one without a name. A kernel without keyrings has
/// nothing to leave; where a container's filter forbids the call, it forbids it to every child as well.
pub fn join_new_session_keyring() -> io::Result<()> {
    let name = std::ptr::null::<libc::c_char>();
    // SAFETY: the operation reads a name only where the pointer is not null.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name) };
    match Errno::result(done) {
        Ok(_) | Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Sets the thread's signal mask to exactly `mask`, bit n-1 for signal n, as `/proc` writes it. Real-time signals are
/// included, which `nix::sys::signal::SigSet` cannot express.
pub fn set_signal_mask(mask: u64) -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set that it is given.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in (1..=64).filter(|signal| mask >> (signal - 1) & 1 == 1) {
        // SAFETY: `set` is initialised; a number that the C library keeps for itself is refused, not undefined.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: `set` is initialised and the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// What happens with a signal for which no handler is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// `SIG_DFL`.
    Default,
    /// `SIG_IGN`.
    Ignore,
}

/// Sets a signal's disposition.
pub fn set_disposition(signal: nix::sys::signal::Signal, disposition: Disposition) -> io::Result<()> {
    let handler = match disposition {
        Disposition::Default => nix::sys::signal::SigHandler::SigDfl,
        Disposition::Ignore => nix::sys::signal::SigHandler::SigIgn,
    };
    // SAFETY: neither disposition runs code in this process, so there is no handler that could be unsound.
    unsafe { nix::sys::signal::signal(signal, handler) }?;
    Ok(())
}

/// Takes over a descriptor that the parent process left open for this one, and keeps it from the next program.
///
/// To be called once for a number, at the start of a program, before anything else is opened.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::Error::other("a standard descriptor has an owner"));
    }
    // SAFETY: the parent process opened it for this one to own; a wrong number fails in the next call.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)) {
        Ok(_) => Ok(fd),
        Err(errno) => {
            // Not ours after all, so not ours to close.
            let _ = fd.into_raw_fd();
            Err(errno.into())
        }
    }
}

/// Returns to the system what the allocator keeps for later.
pub fn give_back_memory() {
    // SAFETY: no pointers; the call moves no live allocation.
    unsafe { libc::malloc_trim(0) };
}
