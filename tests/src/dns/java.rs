//! A resolver of the kind that Java programs carry: A and AAAA at once from one socket that is not connected, numbers
//! used again for other questions, and a UDP socket connected to every address only to sort them.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use serde_json::json;

use super::{Family, errno_name, message};

/// How long it waits for the answers to both questions.
const PATIENCE: Duration = Duration::from_secs(3);
/// The numbers that it has.
const IDS: [u16; 2] = [0x1000, 0x1001];

/// Resolves, connects and tells, as the clients in `tests/clients` do.
///
/// # Errors
/// When it cannot even begin.
pub fn lookup(resolver: SocketAddr, name: &str, port: u16, family: Option<Family>) -> Result<()> {
    let kinds: &[RecordType] = match family {
        Some(Family::V4) => &[RecordType::A],
        Some(Family::V6) => &[RecordType::AAAA],
        None => &[RecordType::A, RecordType::AAAA],
    };
    let any: SocketAddr = if resolver.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    let start = Instant::now();
    let mut found = Vec::new();
    let mut error = None;
    // The second time every number stands for the other question.
    for ids in [IDS, [IDS[1], IDS[0]]] {
        match exchange(
            &socket,
            resolver,
            name,
            &ids.into_iter().zip(kinds.iter().copied()).collect::<Vec<_>>(),
        )? {
            Ok(addresses) => found.extend(addresses),
            Err(word) => error = Some(word),
        }
    }
    let resolving = start.elapsed();
    found.sort_unstable();
    found.dedup();
    let start = Instant::now();
    for address in &found {
        // Nothing is sent: the kernel is asked only whether there is a route.
        UdpSocket::bind(any_like(*address))?.connect((*address, 9)).ok();
    }
    let connect = connect_one_by_one(&found, port);
    let told = json!({
        "resolve_us": resolving.as_micros(), "error": error.filter(|_| found.is_empty()), "addresses": found,
        "connect": connect, "connect_us": start.elapsed().as_micros(),
    });
    println!("{told}");
    Ok(())
}

fn connect_one_by_one(found: &[IpAddr], port: u16) -> Option<String> {
    let mut outcome = None;
    for address in found {
        let connected = TcpStream::connect_timeout(&(*address, port).into(), PATIENCE);
        outcome = Some(connected.map_or_else(|error| errno_name(&error), |_| "ok".to_owned()));
        if outcome.as_deref() == Some("ok") {
            break;
        }
    }
    outcome
}

/// Asks all questions, then takes the answers in any order. The inner error is why there are none.
fn exchange(
    socket: &UdpSocket,
    resolver: SocketAddr,
    name: &str,
    questions: &[(u16, RecordType)],
) -> Result<Result<Vec<IpAddr>, String>> {
    let end = Instant::now() + PATIENCE;
    for (id, kind) in questions {
        if let Err(error) = socket.send_to(&message::question(*id, name, *kind)?.to_vec()?, resolver) {
            return Ok(Err(errno_name(&error)));
        }
    }
    let (mut open, mut found) = (questions.to_vec(), Vec::new());
    let mut buffer = [0; 4096];
    while !open.is_empty() {
        socket.set_read_timeout(Some(
            end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)),
        ))?;
        let length = match socket.recv_from(&mut buffer) {
            Ok((length, from)) if from == resolver => length,
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Err("timeout".to_owned())),
            Err(error) => return Ok(Err(errno_name(&error))),
        };
        let answer = Message::from_vec(&buffer[..length]).context("no message")?;
        let asked = answer.queries.first().map(|query| (answer.metadata.id, query.query_type));
        open.retain(|question| Some(*question) != asked);
        if answer.metadata.response_code == ResponseCode::NXDomain {
            return Ok(Err("NXDOMAIN".to_owned()));
        }
        found.extend(message::addresses_in(&answer));
    }
    Ok(Ok(found))
}

fn any_like(address: IpAddr) -> SocketAddr {
    if address.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() }
}
