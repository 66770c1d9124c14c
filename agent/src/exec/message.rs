//! What the jail's init tells the wrapper, one packet a message over a socket pair.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

const FAILURE: u8 = b'F';
const STARTED: u8 = b'P';
const STOPPED: u8 = b'S';

/// Longer texts are cut; a path is at most 4096 bytes.
const LIMIT: usize = 16 * 1024;

/// A message of init.
#[derive(Debug)]
pub(super) enum Report {
    /// Setting up the jail or starting CMD failed, with the text for the person.
    Failure(String),
    /// CMD runs; a descriptor of its process.
    Started(OwnedFd),
    /// CMD was stopped by this signal.
    Stopped(i32),
}

/// Tells that set-up or start failed.
pub(super) fn send_failure(socket: BorrowedFd<'_>, text: &str) -> io::Result<()> {
    let text = &text.as_bytes()[..text.len().min(LIMIT - 1)];
    send(socket, &[&[FAILURE], text].concat(), None)
}

/// Tells that CMD runs.
pub(super) fn send_started(socket: BorrowedFd<'_>, process: BorrowedFd<'_>) -> io::Result<()> {
    send(socket, &[STARTED], Some(process))
}

/// Tells that CMD was stopped.
pub(super) fn send_stopped(socket: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    send(socket, &[&[STOPPED][..], &signal.to_ne_bytes()].concat(), None)
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// What can come out of the socket.
#[derive(Debug)]
pub(super) enum Received {
    /// A message.
    Report(Report),
    /// Nothing for now.
    Nothing,
    /// Nothing any more: nobody holds the other end.
    End,
}

/// Reads one message without waiting. Init has CMD's rights, no more, so what does not parse is an error, not a panic.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Received> {
    let mut bytes = vec![0; LIMIT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let length = match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)
    {
        Ok(message) => message.bytes,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(Received::Nothing),
        Err(rustix::io::Errno::CONNRESET) => return Ok(Received::End),
        Err(error) => return Err(error.into()),
    };
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let malformed = || io::Error::other("a malformed message from the jail's init");
    let report = match bytes[..length] {
        [] => return Ok(Received::End),
        [FAILURE, ref text @ ..] => Report::Failure(String::from_utf8_lossy(text).into_owned()),
        [STARTED] => Report::Started(fd.ok_or_else(malformed)?),
        [STOPPED, ref signal @ ..] => {
            Report::Stopped(i32::from_ne_bytes(signal.try_into().map_err(|_| malformed())?))
        }
        _ => return Err(malformed()),
    };
    Ok(Received::Report(report))
}
