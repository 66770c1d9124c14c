//! The jail's init: process 1 of CMD's PID namespace. It builds the jail around itself, starts CMD, reaps what is left
//! behind and ends as CMD ended; its end is the end of every process in there.

use std::convert::Infallible;
use std::ffi::{CString, NulError, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, execvp};
use rustix::process::PidfdFlags;

use crate::exec::caps::{self, CapabilitySet};
use crate::exec::signals::Inherited;
use crate::exec::{FAILED, message, mounts, seccomp};
use crate::kernel::sys;
use crate::text::visible;

/// The first argument by which this program knows that it is init.
pub(super) const SUBCOMMAND: &str = "__exec-init";

/// What init is told on its command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Orders {
    /// The number of its socket to the wrapper.
    pub(super) socket: RawFd,
    /// What CMD keeps.
    pub(super) keep: CapabilitySet,
    /// What CMD finds about signals.
    pub(super) signals: Inherited,
    /// CMD and its arguments.
    pub(super) command: Vec<OsString>,
}

impl Orders {
    /// The whole command line, the program's name included.
    pub(super) fn to_arguments(&self) -> Result<Vec<CString>, NulError> {
        let Inherited { mask, ignores_children } = self.signals;
        let header = format!("{} {:x} {mask:x} {ignores_children}", self.socket, self.keep.bits());
        let own = ["egress-warden", SUBCOMMAND, &header].map(CString::new).into_iter();
        own.chain(self.command.iter().map(|argument| CString::new(argument.as_bytes()))).collect()
    }

    fn from_arguments(arguments: &[OsString]) -> Option<Self> {
        let [header, command @ ..] = arguments else { return None };
        let [socket, keep, mask, ignores_children] =
            header.to_str()?.split(' ').collect::<Vec<_>>().try_into().ok()?;
        Some(Self {
            socket: socket.parse().ok()?,
            keep: CapabilitySet::from_bits(u64::from_str_radix(keep, 16).ok()?),
            signals: Inherited {
                mask: u64::from_str_radix(mask, 16).ok()?,
                ignores_children: ignores_children.parse().ok()?,
            },
            command: command.to_vec(),
        })
    }
}

/// A step that failed, as the person is told.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("cannot {step}: {source}")]
    Step { step: String, source: io::Error },
    #[error(transparent)]
    Mounts(#[from] mounts::MountError),
    #[error(
        "the current directory {path} does not exist in the jail ({source}); change to another before exec"
    )]
    Directory { path: PathBuf, source: io::Error },
    #[error("the wrapper is gone")]
    Orphaned,
    #[error("cannot run {command}: {reason}")]
    Command { command: String, reason: String },
}

fn failed<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> InitError {
    move |error| InitError::Step { step: step.into(), source: error.into() }
}

/// Init's whole life. Returns its exit code.
pub(super) fn main(arguments: &[OsString]) -> i32 {
    let Some(orders) = Orders::from_arguments(arguments) else { return FAILED };
    let Ok(socket) = sys::take_inherited(orders.socket) else { return FAILED };
    let socket = socket.as_fd();
    run(&orders, socket).unwrap_or_else(|error| report_failure(socket, &error))
}

fn report_failure(socket: BorrowedFd<'_>, error: &InitError) -> i32 {
    // Without a wrapper there is nobody to tell.
    let _ = message::send_failure(socket, &error.to_string());
    FAILED
}

fn run(orders: &Orders, socket: BorrowedFd<'_>) -> Result<i32, InitError> {
    die_with_wrapper(socket)?;
    build_jail()?;
    lock_down(orders.keep)?;
    let child = match sys::fork().map_err(failed("fork"))? {
        ForkResult::Child => {
            let Err(error) = become_command(orders);
            std::process::exit(report_failure(socket, &error));
        }
        ForkResult::Parent { child } => child,
    };
    let process = rustix::process::Pid::from_raw(child.as_raw()).expect("a child's id is positive");
    let process =
        rustix::process::pidfd_open(process, PidfdFlags::empty()).map_err(failed("open the process"))?;
    message::send_started(socket, process.as_fd()).map_err(failed("reach the wrapper"))?;
    drop(process);
    step_back()?;
    reap(child, socket)
}

fn die_with_wrapper(socket: BorrowedFd<'_>) -> Result<(), InitError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed("bind init to the wrapper"))?;
    // CMD has our uid; this keeps it from our descriptors and memory.
    prctl::set_dumpable(false).map_err(failed("protect init"))?;
    // The wrapper may have died before the first call. Its parent's id says nothing across PID namespaces.
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    let ready = poll(&mut fds, PollTimeout::ZERO).map_err(failed("look for the wrapper"))?;
    if ready == 0 { Ok(()) } else { Err(InitError::Orphaned) }
}

fn build_jail() -> Result<(), InitError> {
    let directory =
        std::env::current_dir().map_err(failed("find the current directory; change to another first"))?;
    // The root of the new cgroup namespace is the cgroup that this process was made in.
    unshare(CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC)
        .map_err(failed("make new namespaces (CAP_SYS_ADMIN is needed)"))?;
    mounts::isolate()?;
    // By its name, because the directory that we are still in may be on a mount that is gone from the view.
    std::env::set_current_dir(&directory).map_err(|source| InitError::Directory { path: directory, source })
}

fn lock_down(keep: CapabilitySet) -> Result<(), InitError> {
    caps::reduce(keep).map_err(failed("drop capabilities (CAP_SETPCAP is needed)"))?;
    // Sets no_new_privs as well; said here all the same, because the jail rests on it.
    prctl::set_no_new_privs().map_err(failed("set no_new_privs"))?;
    sys::join_new_session_keyring().map_err(failed("leave the caller's session keyring"))?;
    seccomp::refuse_ways_around()
        .map_err(|error| failed("install the seccomp filter")(io::Error::other(error)))
}

/// In the child: CMD, or the reason why not.
fn become_command(orders: &Orders) -> Result<Infallible, InitError> {
    orders.signals.restore().map_err(failed("restore the signals"))?;
    sys::close_on_exec_from(3).map_err(failed("close descriptors"))?;
    let arguments: Vec<CString> = orders
        .command
        .iter()
        .map(|argument| CString::new(argument.as_bytes()))
        .collect::<Result<_, _>>()
        .map_err(failed("pass an argument"))?;
    let name = arguments
        .first()
        .ok_or_else(|| failed("run nothing")(io::Error::from(io::ErrorKind::InvalidInput)))?;
    execvp(name, &arguments).map_err(|errno| {
        let name = &orders.command[0];
        InitError::Command { command: visible(&name.to_string_lossy()), reason: explain(name, errno) }
    })
}

/// What `execvp` means by an error, said so that a person knows what to change.
fn explain(name: &OsStr, errno: Errno) -> String {
    let is_path = name.as_bytes().contains(&b'/');
    match errno {
        Errno::ENOENT if !is_path => "command not found in PATH".to_owned(),
        Errno::ENOENT if Path::new(name).exists() => "the interpreter that it names is missing".to_owned(),
        Errno::ENOENT => "no such file".to_owned(),
        Errno::EACCES if Path::new(name).is_dir() => "it is a directory".to_owned(),
        Errno::EACCES => "permission denied (is it executable, and its directory accessible?)".to_owned(),
        Errno::ENOEXEC => "not a program for this machine".to_owned(),
        other => other.desc().to_owned(),
    }
}

/// From here on init needs no rights, and holds nothing open that CMD may want to see closed.
fn step_back() -> Result<(), InitError> {
    caps::give_up().map_err(failed("drop init's capabilities"))?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(failed("open /dev/null"))?;
    dup2_stdin(&null)
        .and_then(|()| dup2_stdout(&null))
        .and_then(|()| dup2_stderr(&null))
        .map_err(failed("let go"))
}

/// Waits for every process that ends in here, until CMD has.
fn reap(command: Pid, socket: BorrowedFd<'_>) -> Result<i32, InitError> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => return Ok(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => return Ok(128 + signal as i32),
            Ok(WaitStatus::Stopped(pid, signal)) if pid == command => {
                message::send_stopped(socket, signal as i32).map_err(failed("reach the wrapper"))?;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed("wait for the command")(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn orders_survive_the_command_line() {
        let orders = Orders {
            socket: 7,
            keep: CapabilitySet::default(),
            signals: Inherited { mask: 0x8000_0000_0000_0001, ignores_children: true },
            command: vec!["sh".into(), "-c".into(), "true".into()],
        };
        let arguments = orders.to_arguments().unwrap().into_iter().skip(2);
        let arguments: Vec<OsString> = arguments.map(|text| OsString::from_vec(text.into_bytes())).collect();
        assert_eq!(Orders::from_arguments(&arguments), Some(orders));
    }
}
