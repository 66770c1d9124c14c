//! The controlling terminal, lent to CMD only when CMD asks for it. So `exec -- job | less` leaves the terminal to
//! `less`, and an interactive shell still gets it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// The terminal, if the caller has one.
#[derive(Debug)]
pub(super) struct Terminal {
    tty: Option<File>,
    own_group: Pid,
    lent: bool,
}

impl Terminal {
    pub(super) fn open() -> Self {
        let tty =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/tty").ok();
        Self { tty, own_group: getpgrp(), lent: false }
    }

    fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(self.tty.as_ref()?).ok()
    }

    /// Whether it is ours to lend.
    pub(super) fn is_ours(&self) -> bool {
        self.foreground() == Some(self.own_group)
    }

    /// Lends it to a group. False where that was not possible.
    pub(super) fn lend(&mut self, group: Pid) -> bool {
        let lent = self.is_ours() && self.tty.as_ref().is_some_and(|tty| tcsetpgrp(tty, group).is_ok());
        self.lent |= lent;
        lent
    }

    /// Takes back what was lent. Returns the group that had it last: CMD may have passed it on to a job of its own.
    pub(super) fn take_back(&mut self) -> Option<Pid> {
        if !std::mem::take(&mut self.lent) {
            return None;
        }
        let last = self.foreground().filter(|group| *group != self.own_group);
        // Where it fails the terminal is gone, and nobody can type into it.
        let _ = tcsetpgrp(self.tty.as_ref()?, self.own_group);
        last
    }
}
