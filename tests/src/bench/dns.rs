//! Both ends of a resolver's work, as small as they can be.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Result;

use super::each;

/// Number, flags (recursion desired) and counts of a query; then its only question: A of [`NAME`].
const QUERY: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x05files\x05index\x04test\0\0\x01\0\x01";
/// What is asked for.
pub const NAME: &str = "files.index.test";
const HEADER: usize = 12;
/// Flags of an answer, then the counts: one question, five answers.
const ANSWER: [u8; 10] = [0x81, 0x80, 0, 1, 0, 5, 0, 0, 0, 0];
/// An alias, `cdn` before the question's last two labels, and where it stands.
const ALIAS: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03cdn\xc0\x12";
const ALIAS_AT: u8 = (QUERY.len() + 12) as u8;
/// Addresses of the alias: the first of [`super::DATAGRAMS_TO`].
const ADDRESSES: u8 = 4;

/// Asks again and again, and waits for each answer; nanoseconds for one.
///
/// # Errors
/// Where there is none, or another one.
pub fn asks(resolver: SocketAddr, count: u32) -> Result<u128> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(resolver)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (mut query, mut answer) = (QUERY.to_vec(), [0; 512]);
    each(count, |number| {
        let id = (number as u16).to_be_bytes();
        query[..2].copy_from_slice(&id);
        socket.send(&query)?;
        let length = socket.recv(&mut answer)?;
        let addresses = u16::from_be_bytes([answer[6], answer[7]]);
        if length < HEADER || answer[..2] != id || addresses != u16::from(ADDRESSES) + 1 {
            return Err(io::Error::other("another answer"));
        }
        Ok(())
    })
}

/// Answers whatever is asked with an alias and its addresses, until what comes is too short for a query.
pub fn resolve(socket: &UdpSocket) {
    let mut records = ALIAS.to_vec();
    let [a, b, c, first] = super::DATAGRAMS_TO.octets();
    for number in 0..ADDRESSES {
        records.extend([0xc0, ALIAS_AT, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, a, b, c, first + number]);
    }
    let (mut query, mut answer) = ([0; 512], Vec::new());
    while let Ok((length, from)) = socket.recv_from(&mut query) {
        if length < QUERY.len() {
            return;
        }
        answer.clear();
        answer.extend_from_slice(&query[..2]);
        answer.extend(ANSWER);
        // What stands behind the question, EDNS, is left out.
        answer.extend_from_slice(&query[HEADER..QUERY.len()]);
        answer.extend_from_slice(&records);
        socket.send_to(&answer, from).ok();
    }
}
