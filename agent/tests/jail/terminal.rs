//! A terminal: the wrapper under a pseudo-terminal of its own, typed at as a person would.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, tcgetpgrp};

use super::support::{PROGRAM, UNDER, UNDER_ARGUMENTS, eventually, processes_with};

/// A session on a pseudo-terminal. Everything that was shown is kept.
struct Session {
    master: File,
    child: Child,
    shown: String,
}

impl Session {
    /// `setsid --ctty` makes the terminal the controlling one and then becomes the program.
    fn start(arguments: &[&str]) -> Self {
        let pty = openpty(None, None).expect("a pseudo-terminal");
        // Held by the session itself, it would keep the terminal from hanging up.
        fcntl(&pty.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("close-on-exec");
        let slave = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        let child = Command::new("setsid")
            .args(["--ctty"])
            .args(arguments)
            .env("PS1", "prompt> ")
            .env("TERM", "dumb")
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .expect("start");
        Self { master: pty.master.into(), child, shown: String::new() }
    }

    fn exec(arguments: &[&str]) -> Self {
        Self::start(&[&["env"], &PROGRAM[..], &["exec"], &UNDER_ARGUMENTS[..], &["--"], arguments].concat())
    }

    fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("type");
    }

    /// Reads until a text is shown, and forgets what came before its end.
    fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(at) = self.shown.find(text) {
                let rest = self.shown.split_off(at + text.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            assert!(Instant::now() < deadline, "`{text}` is not shown, but: {}", self.shown);
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(100_u8)).expect("poll") > 0 {
                let mut bytes = [0; 4096];
                let count = self.master.read(&mut bytes).unwrap_or(0);
                self.shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        }
    }

    /// The id of the program that `setsid` became.
    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn foreground(&self) -> Pid {
        tcgetpgrp(&self.master).expect("a foreground group")
    }

    fn wait_for_stop(&self) {
        eventually("the wrapper is stopped", || {
            let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
            matches!(waitid(Id::Pid(self.pid()), flags), Ok(WaitStatus::Stopped(..)))
        });
    }

    fn exit_code(mut self) -> Option<i32> {
        let mut code = None;
        eventually("the end", || {
            code = self.child.try_wait().expect("wait");
            code.is_some()
        });
        code.expect("an end").code()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A failed test leaves nothing behind; the janitor does the rest.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_stopped(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process").contains(") T ")
}

#[test]
fn an_interactive_shell_has_job_control() {
    let mut session = Session::exec(&["bash", "--norc", "-i"]);
    let greeting = session.expect("prompt> ");
    assert!(!greeting.contains("job control"), "{greeting}");
    session.type_in("sleep 2001.1\n");
    eventually("sleep runs", || !processes_with("sleep 2001.1").is_empty());
    session.type_in("\x1a");
    session.expect("Stopped");
    session.expect("prompt> ");
    session.type_in("fg\n");
    session.expect("sleep 2001.1");
    eventually("sleep is continued", || !is_stopped(processes_with("sleep 2001.1")[0]));
    session.type_in("\x03");
    session.expect("prompt> ");
    session.type_in("echo code $?\n");
    session.expect("code 130");
    session.expect("prompt> ");
    session.type_in("cat -u\n");
    eventually("cat runs", || !processes_with("cat -u").is_empty());
    session.type_in("echoed\n");
    session.expect("echoed\r\nechoed");
    session.type_in("\x04exit 3\n");
    assert_eq!(session.exit_code(), Some(3));
}

#[test]
fn ctrl_c_ends_the_command() {
    let mut session = Session::exec(&["sh", "-c", "echo ready; sleep 2002.2; echo not reached"]);
    session.expect("ready");
    eventually("sleep runs", || !processes_with("sleep 2002.2").is_empty());
    assert_eq!(session.foreground(), session.pid(), "the terminal is not lent unasked");
    session.type_in("\x03");
    assert_eq!(session.exit_code(), Some(130));
    assert_eq!(processes_with("sleep 2002.2"), Vec::<i32>::new());
}

#[test]
fn ctrl_z_stops_the_wrapper_and_sigcont_resumes() {
    let mut session = Session::exec(&["sh", "-c", "echo ready; sleep 2003.3; echo after"]);
    session.expect("ready");
    eventually("sleep runs", || !processes_with("sleep 2003.3").is_empty());
    session.type_in("\x1a");
    session.wait_for_stop();
    kill(session.pid(), Signal::SIGCONT).expect("continue");
    let sleeper = processes_with("sleep 2003.3")[0];
    eventually("sleep is continued", || !is_stopped(sleeper));
    session.type_in("\x03");
    assert_eq!(session.exit_code(), Some(130));
}

#[test]
fn a_reader_gets_the_terminal_and_gives_it_back() {
    let mut session =
        Session::exec(&["sh", "-c", "read line; echo got $line; kill -STOP $$; read line; echo $line"]);
    session.type_in("first\n");
    session.expect("got first");
    session.wait_for_stop();
    assert_eq!(session.foreground(), session.pid());
    kill(session.pid(), Signal::SIGCONT).expect("continue");
    session.type_in("second\n");
    session.expect("second\r\nsecond");
    assert_eq!(session.exit_code(), Some(0));
}

#[test]
fn under_a_shell_with_job_control() {
    let program = env!("CARGO_BIN_EXE_egress-warden");
    let mut session = Session::start(&["env", "--default-signal", "bash", "--norc", "-i"]);
    session.expect("prompt> ");
    session.type_in(&format!("{program} exec {UNDER} -- sh -c 'read line; echo got $line; sleep 2005.5'\n"));
    session.type_in("hello\n");
    session.expect("got hello");
    eventually("sleep runs", || !processes_with("sleep 2005.5").is_empty());
    session.type_in("\x1a");
    session.expect("Stopped");
    session.expect("prompt> ");
    assert_eq!(session.foreground(), session.pid(), "the shell has its terminal back");
    session.type_in("fg\n");
    session.expect("exec");
    eventually("the terminal is lent", || session.foreground() != session.pid());
    session.type_in("\x03");
    session.expect("prompt> ");
    session.type_in("echo code $?\n");
    session.expect("code 130");
    session.type_in("exit\n");
    assert_eq!(session.exit_code(), Some(0));
}

#[test]
fn a_hangup_ends_the_command() {
    let mut session = Session::exec(&["sleep", "2006.6"]);
    eventually("sleep runs", || !processes_with("sleep 2006.6").is_empty());
    session.master = File::open("/dev/null").expect("open");
    assert_eq!(session.exit_code(), Some(128 + 1));
}

#[test]
fn typing_into_the_terminal_is_refused() {
    let script = "import fcntl\n\
        for request in (0x5412, 0x541c, 0x5412 | 1 << 32):\n\
        \x20   try:\n\
        \x20       fcntl.ioctl(0, request & 0xffffffff, b'x')\n\
        \x20       print('typed')\n\
        \x20   except OSError as error:\n\
        \x20       print('errno', error.errno)\n";
    let mut session = Session::exec(&["python3", "-c", script]);
    let shown = session.expect("errno 1\r\nerrno 1\r\nerrno 1");
    assert!(!shown.contains("typed"));
    assert_eq!(session.exit_code(), Some(0));
}
