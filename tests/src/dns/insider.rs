//! A program inside the workload that does one thing at a time as a test tells it: it asks with numbers of the test's
//! choice, shows what it was answered, forges answers to itself, and connects.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hickory_proto::rr::RecordType;

use super::{errno_name, forged, message};
use crate::probe::binary;
use crate::{Namespace, sys};

/// How long it waits for a connection, or for its echo.
const PATIENCE: Duration = Duration::from_secs(1);

/// The test's end of it.
#[derive(Debug)]
pub struct Insider {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Insider {
    /// Starts one. `spawn` decides in which cgroup, or under what.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(namespace: &Namespace, spawn: impl FnOnce(Command) -> Result<Child>) -> Result<Insider> {
        let mut command = namespace.command(binary("egress-warden-names")?);
        command.arg("insider").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(command)?;
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        Ok(Insider { input: child.stdin.take(), child, output })
    }

    /// Starts one under nothing.
    ///
    /// # Errors
    /// When it does not start.
    pub fn free(namespace: &Namespace) -> Result<Insider> {
        Self::start(namespace, |mut command| Ok(command.spawn()?))
    }

    /// Asks a question from its one socket, which is not connected, and returns that socket's port.
    ///
    /// # Errors
    /// With the error that it saw.
    pub fn ask(&mut self, server: SocketAddr, id: u16, name: &str, kind: RecordType) -> Result<u16> {
        let bytes = message::question_edns(id, name, kind)?.to_vec()?;
        self.ask_raw(server, &bytes)
    }

    /// The same with any bytes.
    ///
    /// # Errors
    /// With the error that it saw.
    pub fn ask_raw(&mut self, server: SocketAddr, bytes: &[u8]) -> Result<u16> {
        let said = self.command(&format!("ask {server} {}", hex(bytes)))?;
        said.parse().with_context(|| format!("the question was not sent: {said}"))
    }

    /// What its socket receives next: from whom, and the bytes. None when nothing comes for that long.
    ///
    /// # Errors
    /// When it has ended.
    pub fn receive(&mut self, patience: Duration) -> Result<Option<(SocketAddr, Vec<u8>)>> {
        let said = self.command(&format!("receive {}", patience.as_millis()))?;
        match said.split_once(' ') {
            Some((from, bytes)) => Ok(Some((from.parse()?, unhex(bytes)?))),
            None if said == "nothing" => Ok(None),
            None => bail!("it received {said}"),
        }
    }

    /// Lets the kernel merge what comes to its one socket (UDP_GRO), which has asked before.
    ///
    /// # Errors
    /// When it has ended.
    pub fn merge(&mut self) -> Result<String> {
        self.command("merge")
    }

    /// Connects over TCP and closes: `ok` or the error's name.
    ///
    /// # Errors
    /// When it has ended.
    pub fn connect(&mut self, to: SocketAddr) -> Result<String> {
        self.command(&format!("connect {to}"))
    }

    /// Connects and keeps the connection for [`Insider::echo`].
    ///
    /// # Errors
    /// When it has ended.
    pub fn open(&mut self, to: SocketAddr) -> Result<String> {
        self.command(&format!("open {to}"))
    }

    /// Sends a line on the kept connection and waits until it comes back: `ok` or the error's name.
    ///
    /// # Errors
    /// When it has ended.
    pub fn echo(&mut self) -> Result<String> {
        self.command("echo")
    }

    /// Sends a datagram from within its own namespace in somebody else's name, by a socket that may bind anything.
    ///
    /// # Errors
    /// When it has ended.
    pub fn send_as(&mut self, source: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Result<String> {
        self.command(&format!("send {source} {to} {}", hex(bytes)))
    }

    /// Puts such a datagram on its own loopback interface as a whole frame.
    ///
    /// # Errors
    /// When it has ended.
    pub fn send_frame(&mut self, source: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Result<String> {
        self.command(&format!("frame {source} {to} {}", hex(bytes)))
    }

    fn command(&mut self, line: &str) -> Result<String> {
        let input = self.input.as_mut().context("its input is closed")?;
        writeln!(input, "{line}").context("the insider has ended")?;
        let mut said = String::new();
        self.output.read_line(&mut said)?;
        match said.strip_suffix('\n') {
            Some(said) => Ok(said.to_owned()),
            None => bail!("the insider ended at `{line}`"),
        }
    }
}

impl Drop for Insider {
    fn drop(&mut self) {
        drop(self.input.take());
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The program's end: one line of standard input at a time, one line of answer.
///
/// # Errors
/// When a line is none of its commands.
pub fn serve() -> Result<()> {
    let mut inside = Inside::default();
    for line in io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let said = match words[..] {
            ["ask", server, bytes] => inside.ask(server.parse()?, &unhex(bytes)?),
            ["receive", millis] => inside.receive(Duration::from_millis(millis.parse()?)),
            ["merge"] => inside.merge(),
            ["connect", to] => connect(to.parse()?).map(|_| "ok".to_owned()),
            ["open", to] => inside.open(to.parse()?),
            ["echo"] => inside.echo(),
            ["send", source, to, bytes] => send_as(source.parse()?, to.parse()?, &unhex(bytes)?),
            ["frame", source, to, bytes] => {
                forged::on_loopback(source.parse()?, to.parse()?, &unhex(bytes)?).map(|()| "ok".to_owned())
            }
            _ => bail!("no such command: {line}"),
        };
        println!("{}", said.unwrap_or_else(|error| errno_name(&error)));
    }
    Ok(())
}

#[derive(Default)]
struct Inside {
    socket: Option<UdpSocket>,
    kept: Option<TcpStream>,
}

impl Inside {
    fn ask(&mut self, server: SocketAddr, bytes: &[u8]) -> io::Result<String> {
        let is_other =
            |socket: &UdpSocket| socket.local_addr().map_or(true, |own| own.is_ipv4() != server.is_ipv4());
        if self.socket.as_ref().is_none_or(is_other) {
            let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
            self.socket = Some(UdpSocket::bind(any)?);
        }
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        socket.send_to(bytes, server)?;
        Ok(socket.local_addr()?.port().to_string())
    }

    fn receive(&self, patience: Duration) -> io::Result<String> {
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        socket.set_read_timeout(Some(patience))?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => Ok(format!("{from} {}", hex(&buffer[..length]))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok("nothing".to_owned()),
            Err(error) => Err(error),
        }
    }

    fn merge(&self) -> io::Result<String> {
        sys::merge_datagrams(self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?)?;
        Ok("ok".to_owned())
    }

    fn open(&mut self, to: SocketAddr) -> io::Result<String> {
        self.kept = Some(connect(to)?);
        Ok("ok".to_owned())
    }

    fn echo(&mut self) -> io::Result<String> {
        let stream = self.kept.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"echo\n")?;
        stream.read_exact(&mut [0; 5])?;
        Ok("ok".to_owned())
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&to, PATIENCE)
}

fn send_as(source: SocketAddr, to: SocketAddr, bytes: &[u8]) -> io::Result<String> {
    sys::transparent_socket(source)?.send_to(bytes, to)?;
    Ok("ok".to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_their_text() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)).unwrap(), bytes);
        assert!(unhex("0g").is_err());
    }
}
