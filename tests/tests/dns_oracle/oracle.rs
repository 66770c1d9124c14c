//! What somebody else's parser says of the same bytes.

use std::cmp::min;
use std::net::Ipv4Addr;

use egress_warden_common::dns::Answer;
use hickory_proto::op::{Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{HTTPS, SVCB};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

/// An address in network order, whether an IPv6 record spelled it as a mapped one, and its time to live.
pub(crate) type Granted = ([u8; 16], bool, u32);

/// What the walk found.
pub(crate) fn found(answer: &Answer) -> Vec<Granted> {
    answer.found().iter().map(|found| (found.address, found.mapped != 0, found.ttl)).collect()
}

/// What the answer names for the asked name, all of the message being read; or why it cannot be read.
pub(crate) fn whole(bytes: &[u8]) -> Result<Vec<Granted>, DecodeError> {
    let Message { metadata, queries, answers, .. } = Message::from_vec(bytes)?;
    let is_answer = metadata.message_type == MessageType::Response && metadata.op_code == OpCode::Query;
    let ([query], true, ResponseCode::NoError) = (&queries[..], is_answer, metadata.response_code) else {
        return Ok(Vec::new());
    };
    Ok(granted(query, &answers))
}

/// The same, of a message of which only what counts is read: data of records that are of no use may be anything, as may the
/// parameters of services beside the hints, and one that says it is truncated may end behind any record. `None` where that cannot be read either.
pub(crate) fn parts(bytes: &[u8]) -> Option<Vec<Granted>> {
    let mut decoder = BinDecoder::new(bytes);
    let Header { metadata, counts } = Header::read(&mut decoder).ok()?;
    if metadata.message_type != MessageType::Response || counts.queries != 1 {
        return None;
    }
    let query = Query::read(&mut decoder).ok()?;
    let mut answers = Vec::new();
    let all = [counts.answers, counts.authorities, counts.additionals].map(u32::from);
    for number in 0..all.iter().sum() {
        if metadata.truncation && decoder.is_empty() {
            break;
        }
        let at = u16::try_from(decoder.index()).ok()?;
        Name::read(&mut decoder).ok()?;
        let kind = RecordType::read(&mut decoder).ok()?;
        decoder.read_slice(6).ok()?;
        let length = decoder.read_u16().ok()?.unverified();
        decoder.read_slice(length.into()).ok()?;
        let mut record = decoder.clone(at);
        match kind {
            _ if number >= all[0] || (kind != RecordType::CNAME && kind != query.query_type) => {}
            RecordType::HTTPS | RecordType::SVCB => answers.extend(service(&mut record)),
            _ => answers.extend(Record::read(&mut record)),
        }
    }
    let is_good = metadata.response_code == ResponseCode::NoError && decoder.is_empty();
    Some(if is_good { granted(&query, &answers) } else { Vec::new() })
}

/// The record of a service, of whose parameters only the hints are read.
fn service(decoder: &mut BinDecoder<'_>) -> Option<Record> {
    let owner = Name::read(decoder).ok()?;
    let kind = RecordType::read(decoder).ok()?;
    let dns_class = DNSClass::read(decoder).ok()?;
    let ttl = decoder.read_u32().ok()?.unverified();
    let end = usize::from(decoder.read_u16().ok()?.unverified()) + decoder.index();
    let priority = decoder.read_u16().ok()?.unverified();
    let target = Name::read(decoder).ok()?;
    let mut hints = Vec::new();
    while decoder.index() < end {
        let key = SvcParamKey::read(decoder).ok()?;
        let length = decoder.read_u16().ok()?.unverified();
        let mut value = BinDecoder::new(decoder.read_slice(length.into()).ok()?.unverified());
        match key {
            SvcParamKey::Ipv4Hint => {
                hints.push((key, SvcParamValue::Ipv4Hint(IpHint::read(&mut value).ok()?)));
            }
            SvcParamKey::Ipv6Hint => {
                hints.push((key, SvcParamValue::Ipv6Hint(IpHint::read(&mut value).ok()?)));
            }
            _ => {}
        }
    }
    let service = SVCB::new(priority, target, hints);
    let data = if kind == RecordType::HTTPS { RData::HTTPS(HTTPS(service)) } else { RData::SVCB(service) };
    let mut record = Record::from_rdata(owner, ttl, data);
    record.dns_class = dns_class;
    Some(record).filter(|_| decoder.index() == end)
}

/// The addresses of all names that aliases lead to from the asked one, each for the longest that any way to it allows.
fn granted(query: &Query, answers: &[Record]) -> Vec<Granted> {
    let answers: Vec<&Record> = answers.iter().filter(|record| record.dns_class == DNSClass::IN).collect();
    if query.query_class != DNSClass::IN {
        return Vec::new();
    }
    let mut names: Vec<(&Name, u32)> = vec![(&query.name, u32::MAX)];
    let mut changed = true;
    while changed {
        changed = false;
        for record in &answers {
            let RData::CNAME(alias) = &record.data else { continue };
            let Some(&(_, until)) = names.iter().find(|(name, _)| *name == &record.name) else { continue };
            let ttl = min(until, ttl(record));
            match names.iter_mut().find(|(name, _)| *name == &alias.0) {
                Some((_, known)) if *known >= ttl => continue,
                Some((_, known)) => *known = ttl,
                None => names.push((&alias.0, ttl)),
            }
            changed = true;
        }
    }
    let of_a_name = |record: &&Record| {
        let (_, until) = names.iter().find(|(name, _)| *name == &record.name)?;
        let ttl = min(*until, ttl(record));
        let addresses = addresses(query.query_type, &record.data);
        Some(addresses.into_iter().map(move |(address, mapped)| (address, mapped, ttl)))
    };
    answers.iter().filter_map(of_a_name).flatten().collect()
}

/// RFC 2181: one with the top bit set counts as none.
fn ttl(record: &Record) -> u32 {
    if record.ttl >> 31 == 0 { record.ttl } else { 0 }
}

fn addresses(asked: RecordType, data: &RData) -> Vec<([u8; 16], bool)> {
    match data {
        RData::A(address) if asked == RecordType::A => vec![v4(address.0)],
        RData::AAAA(address) if asked == RecordType::AAAA => vec![v6(address.0.octets())],
        RData::HTTPS(service) if asked == RecordType::HTTPS => hints(&service.0),
        RData::SVCB(service) if asked == RecordType::SVCB => hints(service),
        _ => Vec::new(),
    }
}

fn v4(address: Ipv4Addr) -> ([u8; 16], bool) {
    (address.to_ipv6_mapped().octets(), false)
}

fn v6(address: [u8; 16]) -> ([u8; 16], bool) {
    (address, address[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff])
}

fn hints(service: &SVCB) -> Vec<([u8; 16], bool)> {
    if service.svc_priority == 0 {
        return Vec::new();
    }
    let of_a_parameter = |value: &SvcParamValue| match value {
        SvcParamValue::Ipv4Hint(hint) => hint.0.iter().map(|address| v4(address.0)).collect(),
        SvcParamValue::Ipv6Hint(hint) => hint.0.iter().map(|address| v6(address.0.octets())).collect(),
        _ => Vec::new(),
    };
    service.svc_params.iter().flat_map(|(_, value)| of_a_parameter(value)).collect()
}

/// What a query asks for: the name in text, and the type; `None` for anything but one question of the internet and at most
/// one record, which is EDNS.
pub(crate) fn asked(bytes: &[u8]) -> Option<(Vec<u8>, u16)> {
    let mut decoder = BinDecoder::new(bytes);
    let Header { metadata, counts } = Header::read(&mut decoder).ok()?;
    let (kind, code) = (metadata.message_type, metadata.op_code);
    let others = (counts.answers, counts.authorities);
    if (kind, code) != (MessageType::Query, OpCode::Query) || counts.queries != 1 || others != (0, 0) {
        return None;
    }
    let query = Query::read(&mut decoder).ok()?;
    for _ in 0..counts.additionals {
        Name::read(&mut decoder).ok().filter(Name::is_root)?;
        RecordType::read(&mut decoder).ok().filter(|kind| *kind == RecordType::OPT)?;
        decoder.read_slice(6).ok()?;
        let length = decoder.read_u16().ok()?.unverified();
        decoder.read_slice(length.into()).ok()?;
    }
    if query.query_class != DNSClass::IN || counts.additionals > 1 || !decoder.is_empty() {
        return None;
    }
    let text = query.name.iter().map(<[u8]>::to_ascii_lowercase).collect::<Vec<_>>().join(&b'.');
    Some((text, query.query_type.into()))
}
