//! Requests to rtnetlink, which acts on the network namespace that the socket was opened in.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The kernel answers at once; should it not, that is an error and no hang.
const PATIENCE_SECONDS: i64 = 5;
/// A dump comes in portions of at most this size.
const PORTION: usize = 64 * 1024;

/// A socket in one network namespace.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    /// In the namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
        Ok(Self(socket))
    }

    /// Sends a request and gives the answers. `flags` are those beside "request" and "acknowledge".
    pub(super) fn ask(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.header.sequence_number = 1;
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        sendto(self.0.as_raw_fd(), &buffer, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answers = Vec::new();
        let mut portion = vec![0; PORTION];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut portion, MsgFlags::empty())?;
            if take(&portion[..length], &mut answers)? {
                return Ok(answers);
            }
        }
    }
}

/// Takes the messages of one portion. True when it was the last.
fn take(mut portion: &[u8], answers: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
    while !portion.is_empty() {
        let message =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(portion).map_err(io::Error::other)?;
        let length = (message.header.length as usize).next_multiple_of(4).max(4);
        match message.payload {
            NetlinkPayload::Error(error) => {
                return match error.code {
                    Some(code) => Err(io::Error::from_raw_os_error(code.get().saturating_neg())),
                    None => Ok(true),
                };
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::InnerMessage(answer) => answers.push(answer),
            _ => {}
        }
        portion = portion.get(length..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::NLM_F_DUMP;
    use netlink_packet_route::link::LinkMessage;

    #[test]
    fn loopback_is_among_the_links_and_a_missing_one_is_an_error() {
        let netlink = Netlink::open().unwrap();
        let links = netlink.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP).unwrap();
        let is_loopback = |link: &RouteNetlinkMessage| matches!(link, RouteNetlinkMessage::NewLink(link) if link.header.index == 1);
        assert!(links.iter().any(is_loopback));
        let mut missing = LinkMessage::default();
        missing.header.index = i32::MAX as u32;
        let error = netlink.ask(RouteNetlinkMessage::GetLink(missing), 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
