//! Waiting for a descriptor among the agent's other business.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::unix::AsyncFd;

/// Something to wait on until this descriptor is readable. It is a duplicate: whoever owns the original goes on to use it.
pub fn readable(fd: impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let own = fd.as_fd().try_clone_to_owned()?;
    // SAFETY: the descriptor is owned by the `AsyncFd`, gives the same number for as long, and is closed only by its drop.
    unsafe { AsyncFd::register(own) }.map_err(|refused| refused.into_parts().1)
}
