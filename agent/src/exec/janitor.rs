//! The janitor: a process outside the jail that removes the cgroup when the wrapper cannot, because somebody sent it
//! SIGKILL. It holds one end of a pipe; the kernel closes the other end with the wrapper, however that ends.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;

use crate::exec::cgroup;
use crate::kernel::sys;

/// The first argument by which this program knows that it is the janitor.
pub(super) const SUBCOMMAND: &str = "__exec-janitor";

/// Longer than the wrapper itself would wait: nobody is waiting for the janitor.
const LIMIT: Duration = Duration::from_secs(30);

/// A running janitor, seen from the wrapper.
#[derive(Debug)]
pub(super) struct Janitor {
    child: Child,
    /// Nobody writes to it. It tells by being closed.
    pipe: io::PipeWriter,
}

impl Janitor {
    /// Starts one for a cgroup that may not exist yet.
    pub(super) fn start(cgroup: &Path) -> io::Result<Self> {
        // It may outlive the wrapper, and must not keep the caller's pipes and locks for that long.
        sys::close_on_exec_from(3)?;
        let (reader, pipe) = io::pipe()?;
        let child = Command::new("/proc/self/exe")
            .arg0("egress-warden")
            .args([OsStr::new(SUBCOMMAND), cgroup.as_os_str()])
            .stdin(reader)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            // Ctrl-C goes to the terminal's foreground group, which this one must survive.
            .process_group(0)
            .spawn()?;
        Ok(Self { child, pipe })
    }

    /// Ends it, once there is nothing left for it to do. Killed, not just left to end by itself: it must not find
    /// another cgroup by this name, should the process id be used again at once. Waited for, so that the caller's own
    /// cgroup holds nothing of ours when we are gone.
    pub(super) fn dismiss(mut self) {
        // Either fails only where the janitor is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.pipe);
    }
}

/// The janitor's whole life. Returns its exit code.
pub(super) fn main(arguments: &[OsString]) -> i32 {
    let [path] = arguments else { return super::FAILED };
    // Whoever ends the wrapper's session or service must not end the janitor first. SIGKILL still can.
    if SigSet::all().thread_block().is_err() {
        return super::FAILED;
    }
    // An error would also mean that there is nothing to wait for any more.
    let _ = io::stdin().lock().read_to_end(&mut Vec::new());
    match cgroup::destroy(Path::new(path), Instant::now() + LIMIT) {
        Ok(()) => 0,
        Err(_) => super::FAILED,
    }
}
