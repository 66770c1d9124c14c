//! The janitor: a process outside the jail that makes the cgroup, and removes it when the wrapper cannot, because
//! somebody sent it SIGKILL. It holds one end of a pipe; the kernel closes the other end with the wrapper, however that
//! ends. Maker and remover are one, so that there is no moment in which nobody, or the wrong one, is responsible.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;

use crate::exec::remove::destroy;
use crate::kernel::sys;
use crate::text::complain;

/// The first argument by which this program knows that it is the janitor.
pub(super) const SUBCOMMAND: &str = "__exec-janitor";

/// How the name of every cgroup of `exec` begins.
pub(super) const NAME_PREFIX: &str = "egress-warden-exec.";

/// Longer than the wrapper itself would wait: nobody is waiting for the janitor.
const LIMIT: Duration = Duration::from_secs(30);

/// Wrappers in several PID namespaces can have the same process id, and share a parent cgroup.
const NAMESAKES: u32 = 100;

/// A running janitor, seen from the wrapper.
#[derive(Debug)]
pub(super) struct Janitor {
    child: Child,
    /// Nobody writes to it. It tells by being closed.
    pipe: io::PipeWriter,
}

impl Janitor {
    /// Starts one and has it make a cgroup by this name, or by one that is close. Returns its path.
    pub(super) fn start(wanted: &Path) -> io::Result<(PathBuf, Self)> {
        // It may outlive the wrapper, and must not keep the caller's pipes and locks for that long.
        sys::close_on_exec_from(3)?;
        let (reader, pipe) = io::pipe()?;
        let (answers, writer) = io::pipe()?;
        let child = Command::new("/proc/self/exe")
            .arg0("egress-warden")
            .args([OsStr::new(SUBCOMMAND), wanted.as_os_str()])
            .stdin(reader)
            .stdout(writer)
            .stderr(Stdio::null())
            .current_dir("/")
            // Ctrl-C goes to the terminal's foreground group, which this one must survive.
            .process_group(0)
            .spawn()?;
        let janitor = Self { child, pipe };
        let mut answer = String::new();
        BufReader::new(answers).read_line(&mut answer)?;
        match answer.trim_end().split_once(' ') {
            Some(("made", number)) => {
                Ok((candidate(wanted, number.parse().map_err(io::Error::other)?), janitor))
            }
            Some(("errno", number)) => {
                janitor.dismiss();
                Err(io::Error::from_raw_os_error(number.parse().map_err(io::Error::other)?))
            }
            _ => Err(io::Error::other("the janitor ended before it was made")),
        }
    }

    /// Ends it, once there is nothing left for it to do. Killed, not just left to end by itself: nobody shall wait for
    /// it long. Waited for, so that the caller's own cgroup holds nothing of ours when we are gone.
    pub(super) fn dismiss(mut self) {
        // Either fails only where the janitor is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.pipe);
    }
}

/// The name that is tried after so many that exist.
fn candidate(wanted: &Path, number: u32) -> PathBuf {
    let mut name = wanted.as_os_str().to_owned();
    if number > 0 {
        name.push(format!(".{number}"));
    }
    name.into()
}

/// Makes the first of the candidates that does not exist. One that exists is somebody's, who may be running in it.
fn make(wanted: &Path) -> io::Result<(u32, PathBuf, File)> {
    for number in 0..NAMESAKES {
        let path = candidate(wanted, number);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return File::open(&path).map(|dir| (number, path, dir)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// The janitor's whole life. Returns its exit code.
pub(super) fn main(arguments: &[OsString]) -> i32 {
    match live(arguments) {
        Ok(()) => 0,
        Err(error) => {
            complain(format_args!("{SUBCOMMAND}: {error}"));
            super::FAILED
        }
    }
}

fn live(arguments: &[OsString]) -> io::Result<()> {
    let ours = |path: &Path| {
        path.file_name().is_some_and(|name| name.as_bytes().starts_with(NAME_PREFIX.as_bytes()))
    };
    let wanted = match arguments {
        [path] if ours(Path::new(path)) => Path::new(path),
        _ => return Err(io::Error::other(format!("started by exec alone, for a cgroup {NAME_PREFIX}PID"))),
    };
    // Whoever ends the wrapper's session or service must not end the janitor first. SIGKILL still can.
    SigSet::all().thread_block()?;
    let made = make(wanted);
    let answer = match &made {
        Ok((number, ..)) => format!("made {number}\n"),
        Err(error) => format!("errno {}\n", error.raw_os_error().unwrap_or(libc::EEXIST)),
    };
    // If nobody hears it, the wrapper is gone, which the next read tells as well.
    let _ = io::stdout().write_all(answer.as_bytes());
    let (_, path, dir) = made?;
    // An error would also mean that there is nothing to wait for any more.
    let _ = io::stdin().lock().read_to_end(&mut Vec::new());
    destroy(dir.as_fd(), &path, Instant::now() + LIMIT).map_err(io::Error::other)
}
