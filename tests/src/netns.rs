//! Network namespaces without a name.
//!
//! A name would be a mount that somebody has to remove. These are held by a descriptor alone, so the kernel takes the
//! namespace and both ends of every wire in it away when this process is gone, whatever ended it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::process::{self, Command, Output};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::sys;

/// A network namespace, with `lo` up. It lives as long as one of its clones, or a process in it.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    /// Makes one.
    ///
    /// # Errors
    /// Without root.
    pub fn new() -> Result<Namespace> {
        if !sys::is_root() {
            bail!("tests on a real kernel make network namespaces: run them as root");
        }
        let made = thread::spawn(|| sys::unshare_net().and_then(|()| File::open("/proc/thread-self/ns/net")));
        let file = made.join().map_err(|_| anyhow::anyhow!("the namespace's thread panicked"))?;
        let namespace = Namespace { file: Arc::new(file.context("cannot make a network namespace")?) };
        namespace.run(["ip", "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Runs `body` on a thread inside, and returns its value. Sockets opened there stay there. A panic passes on.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                sys::set_net(self.file.as_fd()).expect("a namespace that we hold can be entered");
                body()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// A command that will run inside. Mounts stay the host's, so cgroup and bpf file systems are in sight.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = Arc::clone(&self.file);
        // SAFETY: between fork and exec only setns is called, which is async-signal-safe; nothing is allocated.
        unsafe { command.pre_exec(move || sys::set_net(file.as_fd())) };
        command
    }

    /// Runs a command inside and returns what it printed.
    ///
    /// # Errors
    /// When it does not start or does not succeed, with what it said.
    pub fn run<S: AsRef<OsStr>>(&self, line: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut words = line.into_iter();
        let program = words.next().context("an empty command")?;
        let mut command = self.command(program);
        let output = command.args(words).output().with_context(|| format!("cannot start {command:?}"))?;
        if !output.status.success() {
            bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(output)
    }

    /// A path by which other programs can name it while this process lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd())
    }

    /// The kernel's number for it, the one that `/proc/PID/ns/net` shows.
    ///
    /// # Errors
    /// None in practice.
    pub fn id(&self) -> Result<u64> {
        Ok(std::os::unix::fs::MetadataExt::ino(&self.file.metadata()?))
    }
}
