//! The near end of the benchmark: does one operation again and again, and tells how long one took.

pub mod dns;

use std::hint::black_box;
use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::sys;

/// Payload of a datagram, and of each way of a round trip.
const PAYLOAD: [u8; 64] = [7; 64];
/// Begins a stream that is not sent back.
const BULK: &[u8] = b"bulk";
/// The first destination of datagrams; the others follow it.
pub const DATAGRAMS_TO: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Where every variant is asked to let something out that it should not.
pub const REFUSED: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);

/// Reads commands, one a line, and answers each with one: `udp DESTINATIONS COUNT`, `connect PLACE COUNT` and
/// `trip PLACE COUNT`, `bulk PLACE COUNT` and `ask RESOLVER COUNT` with nanoseconds for one operation; `refused`, or `reaches PLACE`,
/// with `refused` or `sent` for a datagram to [`REFUSED`] or there.
///
/// # Errors
/// When an operation fails that should not.
pub fn serve_commands(cpu: usize) -> Result<()> {
    sys::pin(cpu)?;
    println!("ready");
    io::stdout().flush()?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["udp", destinations, count] => datagrams(destinations.parse()?, count.parse()?)?.to_string(),
            ["connect", place, count] => connects(place.parse()?, count.parse()?)?.to_string(),
            ["trip", place, count] => trips(place.parse()?, count.parse()?)?.to_string(),
            ["bulk", place, count] => bulk(place.parse()?, count.parse()?)?.to_string(),
            ["ask", resolver, count] => dns::asks(resolver.parse()?, count.parse()?)?.to_string(),
            ["refused"] => reaches(SocketAddrV4::new(REFUSED, 9))?,
            ["reaches", place] => reaches(place.parse()?)?,
            _ => bail!("no such command: {line}"),
        };
        println!("{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}

fn each(count: u32, mut operation: impl FnMut(u32) -> io::Result<()>) -> Result<u128> {
    let start = Instant::now();
    for number in 0..count {
        operation(number).context("an operation that is measured failed")?;
    }
    Ok(start.elapsed().as_nanos() / u128::from(count.max(1)))
}

fn datagrams(destinations: u32, count: u32) -> Result<u128> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let first = u32::from(DATAGRAMS_TO);
    each(count, |number| {
        let to = SocketAddrV4::new(Ipv4Addr::from(first + number % destinations), 9);
        socket.send_to(black_box(&PAYLOAD), to).map(drop)
    })
}

fn connects(place: SocketAddrV4, count: u32) -> Result<u128> {
    each(count, |_| {
        let stream = TcpStream::connect(place)?;
        // Reset, so that no port waits for its time to run out.
        let reset = libc::linger { l_onoff: 1, l_linger: 0 };
        sys::set_linger(&stream, reset)
    })
}

fn trips(place: SocketAddrV4, count: u32) -> Result<u128> {
    let mut stream = TcpStream::connect(place)?;
    stream.set_nodelay(true)?;
    let mut answer = PAYLOAD;
    each(count, |_| {
        stream.write_all(black_box(&PAYLOAD))?;
        stream.read_exact(&mut answer)
    })
}

/// One way; the far end sends nothing back before the end.
fn bulk(place: SocketAddrV4, count: u32) -> Result<u128> {
    let mut stream = TcpStream::connect(place)?;
    let block = vec![7; 1 << 16];
    stream.write_all(BULK)?;
    let taken = each(count, |_| stream.write_all(black_box(&block)))?;
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(taken)
}

fn reaches(place: SocketAddrV4) -> Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    match socket.send_to(&PAYLOAD, place) {
        Ok(_) => Ok("sent".to_owned()),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok("refused".to_owned()),
        Err(error) => Err(error).with_context(|| format!("a datagram to {place}")),
    }
}

/// Accepts on `listener` and sends back what it is sent, one connection at a time, until a connection sends nothing and
/// `stop` says so.
pub fn echo(listener: &TcpListener, stop: impl Fn() -> bool) {
    let mut buffer = [0; 4096];
    while let Ok((mut stream, _)) = listener.accept() {
        if stop() {
            return;
        }
        stream.set_nodelay(true).ok();
        while let Ok(length) = stream.read(&mut buffer) {
            if buffer[..length].starts_with(BULK) {
                io::copy(&mut stream, &mut io::sink()).ok();
                break;
            }
            if length == 0 || stream.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        stream.shutdown(Shutdown::Both).ok();
    }
}
