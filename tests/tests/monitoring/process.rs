//! A server of the distribution, on loopback, for as long as it is held.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, bail};
use egress_warden_tests::wait::{DEADLINE, until};
use serde_json::Value;

use super::PATIENCE;

/// A running server.
pub(crate) struct Service {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Service {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(program: &str, address: SocketAddr, room: &Path, args: &[String]) -> Result<Service> {
        let log = room.join(format!("{program}.log"));
        let file = File::create(&log)?;
        // Killed with this thread, also where that gets no chance to clean up.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program])
            .args(args)
            .current_dir(room)
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("cannot start setpriv")?;
        let service = Service { child, address, log };
        until(program, PATIENCE, || answer(address, "/-/ready").ok()).with_context(|| service.log())?;
        Ok(service)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it said, for a test that fails.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Both fail only where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of the loopback address that nobody had a moment ago.
pub(crate) fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// The JSON at a path.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<Value> {
    Ok(serde_json::from_str(&answer(address, path)?)?)
}

/// The body at a path.
pub(crate) fn answer(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    // HTTP/1.0, so that the body ends with the connection and comes in one piece.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    let status = head.split(' ').nth(1);
    if status != Some("200") {
        bail!("{path}: {head}");
    }
    Ok(body.to_owned())
}
