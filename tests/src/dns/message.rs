//! DNS messages, made and read with a library that shares nothing with the code under test.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamValue};
use hickory_proto::rr::rdata::{CNAME, SVCB};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::EDNS_LIMIT;
use crate::Namespace;

/// A question as stub resolvers ask it.
///
/// # Errors
/// When it is no name.
pub fn question(id: u16, name: &str, kind: RecordType) -> Result<Message> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(parse(name)?, kind));
    Ok(message)
}

/// The same, by somebody who can take large answers.
///
/// # Errors
/// When it is no name.
pub fn question_edns(id: u16, name: &str, kind: RecordType) -> Result<Message> {
    let mut message = question(id, name, kind)?;
    let mut edns = Edns::new();
    edns.set_max_payload(EDNS_LIMIT);
    message.set_edns(edns);
    Ok(message)
}

/// An answer to a question, without records yet: add them with [`Message::add_answer`].
#[must_use]
pub fn answer_to(question: &Message) -> Message {
    let mut message = Message::response(question.metadata.id, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.add_queries(question.queries.iter().cloned());
    message
}

/// An A or AAAA record.
///
/// # Errors
/// When it is no name.
pub fn address_record(name: &str, seconds: u32, address: IpAddr) -> Result<Record> {
    let data = match address {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    };
    Ok(Record::from_rdata(parse(name)?, seconds, data))
}

/// A CNAME record.
///
/// # Errors
/// When either is no name.
pub fn alias_record(name: &str, seconds: u32, target: &str) -> Result<Record> {
    Ok(Record::from_rdata(parse(name)?, seconds, RData::CNAME(CNAME(parse(target)?))))
}

/// Every address that an answer holds, hints of HTTPS and SVCB records included.
#[must_use]
pub fn addresses_in(answer: &Message) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for record in &answer.answers {
        match &record.data {
            RData::A(address) => found.push(IpAddr::V4(address.0)),
            RData::AAAA(address) => found.push(IpAddr::V6(address.0)),
            RData::HTTPS(record) => found.extend(hints(&record.0)),
            RData::SVCB(record) => found.extend(hints(record)),
            _ => {}
        }
    }
    found
}

fn hints(record: &SVCB) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (_, value) in &record.svc_params {
        match value {
            SvcParamValue::Ipv4Hint(IpHint(hints)) => found.extend(hints.iter().map(|one| IpAddr::V4(one.0))),
            SvcParamValue::Ipv6Hint(IpHint(hints)) => found.extend(hints.iter().map(|one| IpAddr::V6(one.0))),
            _ => {}
        }
    }
    found
}

/// Asks a server from a namespace, under no policy, and returns its answer.
///
/// # Errors
/// When there is none in time.
pub fn ask(
    namespace: &Namespace,
    server: SocketAddr,
    name: &str,
    kind: RecordType,
    patience: Duration,
) -> Result<Message> {
    Ok(Message::from_vec(&ask_bytes(namespace, server, name, kind, patience)?)?)
}

/// The same; the answer as it came.
///
/// # Errors
/// When there is none in time.
pub fn ask_bytes(
    namespace: &Namespace,
    server: SocketAddr,
    name: &str,
    kind: RecordType,
    patience: Duration,
) -> Result<Vec<u8>> {
    let question = question_edns(4711, name, kind)?.to_vec()?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let length = namespace.enter(|| {
        let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(patience))?;
        socket.send(&question)?;
        socket.recv(&mut buffer)
    });
    buffer.truncate(length.with_context(|| format!("{server} does not answer"))?);
    Ok(buffer)
}

fn parse(name: &str) -> Result<Name> {
    let mut name = Name::from_ascii(name).with_context(|| format!("{name} is no name"))?;
    name.set_fqdn(true);
    Ok(name)
}
