//! The wrapper while CMD runs: passes signals on, lends the terminal, stops and continues with CMD, and knows how it
//! ended.

use std::fs;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stdin, dup2_stdout, getpgid, getpgrp};

use crate::exec::cgroup::Thawer;
use crate::exec::jail::{JailError, failed};
use crate::exec::message::{self, Received, Report};
use crate::exec::signals::{self, Signals};
use crate::exec::terminal::Terminal;
use crate::kernel::sys::Forked;

/// Signals by which a command is told to end. It must hear them even if it froze itself.
const ENDING: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP];

/// Other descriptors that the caller wants to be woken for.
pub trait ExtraPoll {
    /// The descriptors; polled for input.
    fn fds(&self) -> Vec<BorrowedFd<'_>>;
    /// At least one is readable.
    fn ready(&mut self);
}

/// No other descriptors.
impl ExtraPoll for () {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn ready(&mut self) {}
}

/// CMD, once init has started it.
#[derive(Debug)]
struct Started {
    process: OwnedFd,
    pid: Pid,
}

/// A jail with its init and, soon, CMD. Dropping it ends them all.
#[derive(Debug)]
pub struct Running {
    init: Forked,
    /// Set once init is no process any more.
    ended: bool,
    /// None once init has closed its end.
    socket: Option<OwnedFd>,
    signals: Signals,
    thawer: Thawer,
    terminal: Terminal,
    command: Option<Started>,
    /// Signals that came before CMD did.
    early: Vec<signals::Received>,
    failure: Option<String>,
}

/// Which of the descriptors woke us.
struct Woken {
    signals: bool,
    socket: bool,
    init: bool,
    extra: bool,
}

impl Running {
    pub(super) fn new(
        init: Forked,
        socket: OwnedFd,
        signals: Signals,
        thawer: Thawer,
    ) -> Result<Self, JailError> {
        let running = Self {
            init,
            ended: false,
            socket: Some(socket),
            signals,
            thawer,
            terminal: Terminal::open(),
            command: None,
            early: Vec::new(),
            failure: None,
        };
        // CMD has its own copies by now; ours would keep a pipe open that CMD closes.
        let null =
            File::options().read(true).write(true).open("/dev/null").map_err(failed("open /dev/null"))?;
        dup2_stdin(&null)
            .and_then(|()| dup2_stdout(&null))
            .map_err(failed("let go of standard input and output"))?;
        Ok(running)
    }

    /// Waits until CMD and everything that it left behind has ended. Returns CMD's exit code, 128+n for signal n.
    pub fn wait(&mut self, extra: &mut dyn ExtraPoll) -> Result<i32, JailError> {
        loop {
            let woken = self.poll(extra)?;
            if woken.extra {
                extra.ready();
            }
            if woken.socket {
                self.receive()?;
            }
            if woken.signals {
                while let Some(signal) = self.signals.next().map_err(failed("read a signal"))? {
                    self.pass_on(signal);
                }
            }
            if woken.init {
                break;
            }
        }
        self.receive()?;
        self.terminal.take_back();
        let code = self.reap().map_err(failed("wait for the jail's init"))?;
        match self.failure.take() {
            Some(text) => Err(JailError::Init(text)),
            None => Ok(code),
        }
    }

    fn reap(&mut self) -> nix::Result<i32> {
        loop {
            let code = match waitpid(self.init.pid, None) {
                Ok(WaitStatus::Exited(_, code)) => code,
                Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno),
            };
            self.ended = true;
            return Ok(code);
        }
    }

    fn poll(&self, extra: &dyn ExtraPoll) -> Result<Woken, JailError> {
        let entry = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![entry(self.init.process.as_fd()), entry(self.signals.as_fd())];
        fds.extend(self.socket.as_ref().map(|socket| entry(socket.as_fd())));
        let own = fds.len();
        fds.extend(extra.fds().into_iter().map(entry));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed("wait for events")(errno)),
        }
        let woken = |fds: &[PollFd<'_>]| fds.iter().any(|fd| fd.any() == Some(true));
        Ok(Woken {
            init: woken(&fds[..1]),
            signals: woken(&fds[1..2]),
            socket: woken(&fds[2..own]),
            extra: woken(&fds[own..]),
        })
    }

    fn receive(&mut self) -> Result<(), JailError> {
        while let Some(socket) = &self.socket {
            match message::receive(socket).map_err(failed("hear the jail's init"))? {
                Received::Nothing => return Ok(()),
                Received::End => self.socket = None,
                // The first one is the cause; init may fail because of it.
                Received::Report(Report::Failure(text)) => {
                    self.failure.get_or_insert(text);
                }
                Received::Report(Report::Started(process)) => self.started(process)?,
                Received::Report(Report::Stopped(signal)) => self.stopped(signal),
            }
        }
        Ok(())
    }

    fn started(&mut self, process: OwnedFd) -> Result<(), JailError> {
        let Some(pid) = host_pid(&process) else {
            // It has ended already; init will tell how.
            return Ok(());
        };
        self.command = Some(Started { process, pid });
        for signal in std::mem::take(&mut self.early) {
            self.pass_on(signal);
        }
        Ok(())
    }

    /// A key press goes to the whole group, as the terminal would have sent it; anything else to CMD alone.
    fn pass_on(&mut self, received: signals::Received) {
        let Some(command) = &self.command else {
            self.early.push(received);
            return;
        };
        if ENDING.contains(&received.signal) {
            self.thawer.thaw();
        }
        // A failure means that the receiver has ended, which is not worth a word.
        if received.from_terminal {
            let _ = killpg(self.group(), received.signal);
        } else if let Some(signal) = rustix::process::Signal::from_named_raw(received.signal as i32) {
            let _ = rustix::process::pidfd_send_signal(&command.process, signal);
        }
    }

    /// Init's group, in which CMD starts.
    fn group(&self) -> Pid {
        self.init.pid
    }

    /// CMD's group at this moment; a shell makes one of its own.
    fn command_group(&self) -> Pid {
        let current = self.command.as_ref().and_then(|command| getpgid(Some(command.pid)).ok());
        current.unwrap_or_else(|| self.group())
    }

    fn stopped(&mut self, signal: i32) {
        // Somebody may have continued it since.
        if !self.command.as_ref().is_some_and(|command| is_stopped(command.pid)) {
            return;
        }
        let wants_terminal = signal == Signal::SIGTTIN as i32 || signal == Signal::SIGTTOU as i32;
        if !(wants_terminal && self.terminal.lend(self.command_group())) {
            let had_terminal = self.terminal.take_back();
            self.stop_myself(had_terminal.is_some());
            // The caller's shell decided whether we are in the foreground again.
            if let Some(group) = had_terminal.or_else(|| wants_terminal.then(|| self.command_group())) {
                self.terminal.lend(group);
            }
        }
        let _ = killpg(self.command_group(), Signal::SIGCONT);
    }

    /// Stops this process, so that the caller's shell sees a stopped job, and returns when it is continued.
    fn stop_myself(&self, had_lent_terminal: bool) {
        if had_lent_terminal {
            // The rest of our pipeline has not seen the key that stopped CMD. It is blocked here, and the SIGCONT that
            // wakes us removes it.
            let _ = killpg(getpgrp(), Signal::SIGTSTP);
        }
        let _ = kill(Pid::this(), Signal::SIGSTOP);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            // Neither can fail while init is an unreaped child of ours.
            let _ = rustix::process::pidfd_send_signal(&self.init.process, rustix::process::Signal::KILL);
            let _ = self.reap();
        }
        self.terminal.take_back();
    }
}

/// The id, in our PID namespace, of a process that init knows by another one.
fn host_pid(process: &OwnedFd) -> Option<Pid> {
    use std::os::fd::AsRawFd;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    (pid > 0).then(|| Pid::from_raw(pid))
}

fn is_stopped(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before the state is in parentheses and may contain anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}
