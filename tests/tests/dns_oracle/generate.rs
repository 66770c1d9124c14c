//! Well-formed messages of many shapes.

use std::collections::BTreeSet;

use egress_warden_common::dns::{MAX_ADDRESSES, MAX_HOPS, MAX_MESSAGE, MAX_NAME, Problem};

use crate::random::Random;
use crate::writer::{Labels, Writer};

pub(crate) const A: u16 = 1;
pub(crate) const CNAME: u16 = 5;
pub(crate) const AAAA: u16 = 28;
pub(crate) const OPT: u16 = 41;
pub(crate) const SVCB: u16 = 64;
pub(crate) const HTTPS: u16 = 65;
const NS: u16 = 2;
const TXT: u16 = 16;
const RRSIG: u16 = 46;
const ANY: u16 = 255;
const IN: u16 = 1;
const CHAOS: u16 = 3;

const QUESTION: usize = 0;
const ANSWER: usize = 1;
const AUTHORITY: usize = 2;
const ADDITIONAL: usize = 3;

/// A message, and what is wrong with it for the walker, well-formed as it is.
#[derive(Debug)]
pub(crate) struct Generated {
    pub(crate) bytes: Vec<u8>,
    pub(crate) problem: Problem,
}

/// A record of the answer section, until its place is known.
#[derive(Debug)]
struct Entry {
    owner: Labels,
    kind: u16,
    class: u16,
    ttl: u32,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Name(Labels),
    Bytes(Vec<u8>),
    /// Priority, name, parameters.
    Service(u16, Labels, Vec<u8>),
}

/// Names of one message: no two are the same. Those that are asked for are in this zone.
struct Names(BTreeSet<Labels>, Labels);

impl Names {
    /// One that a policy can name.
    fn asked(&mut self, random: &mut Random) -> Labels {
        const CHARACTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-_";
        let label = |random: &mut Random, longest: usize| -> Vec<u8> {
            (0..=random.below(longest)).map(|_| random.of(CHARACTERS)).collect()
        };
        let longest = random.of(&[3, 8, 8, 12, 44]);
        let mut name: Labels = (0..=random.below(5)).map(|_| label(random, longest)).collect();
        name.extend(self.1.iter().cloned());
        self.0.insert(name.clone());
        name
    }

    /// Another one that looks like one of those that are there.
    fn other(&mut self, random: &mut Random) -> Labels {
        loop {
            let known = self.0.iter().nth(random.below(self.0.len())).cloned();
            let mut name = known.unwrap_or_default();
            let place = random.below(name.len().max(1)).min(name.len().saturating_sub(1));
            match random.below(7) {
                0 => name.insert(0, vec![random.of(b"abx")]),
                1 if name.len() > 1 => drop(name.remove(0)),
                2 => name = self.asked(random),
                3 if !name.is_empty() => name[place].push(random.of(b"az-")),
                4 if !name.is_empty() && name[place].len() > 1 => drop(name[place].pop()),
                5 if !name.is_empty() => *name[place].last_mut().expect("no label is empty") ^= 1,
                6 if !name.is_empty() => {
                    let length = 1 + random.below(4);
                    name[place] = random.bytes(length);
                }
                _ => {}
            }
            name.iter_mut().for_each(|label| label.make_ascii_lowercase());
            let wire = name.iter().map(|label| label.len() + 1).sum::<usize>();
            if wire < 255 && name.iter().all(|label| label.len() < 64) && self.0.insert(name.clone()) {
                return name;
            }
        }
    }
}

fn ttl(random: &mut Random) -> u32 {
    let any = random.next() as u32;
    random.of(&[0, 1, 60, 300, 3600, 86400, 0x7fff_ffff, 0x8000_0000, any])
}

fn address(random: &mut Random, size: usize) -> Vec<u8> {
    let mut bytes = random.bytes(size);
    if size == 16 && random.one_in(16) {
        bytes[..12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    }
    bytes
}

fn parameter(into: &mut Vec<u8>, key: u16, value: &[u8]) {
    into.extend(key.to_be_bytes());
    into.extend((value.len() as u16).to_be_bytes());
    into.extend(value);
}

/// The parameters of a service with so many addresses.
fn parameters(random: &mut Random, addresses: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let narrow = random.below(addresses + 1);
    let mut hint =
        |size: usize, count: usize| -> Vec<u8> { (0..count).flat_map(|_| address(random, size)).collect() };
    let (v4, v6) = (hint(4, narrow), hint(16, addresses - narrow));
    if random.one_in(2) {
        parameter(&mut bytes, 1, b"\x02h2\x02h3");
    }
    if random.one_in(4) {
        parameter(&mut bytes, 3, &443_u16.to_be_bytes());
    }
    if !v4.is_empty() {
        parameter(&mut bytes, 4, &v4);
    }
    if !v6.is_empty() {
        parameter(&mut bytes, 6, &v6);
    }
    if random.one_in(4) {
        parameter(&mut bytes, 7, b"\x10/dns-query{?dns}");
    }
    bytes
}

/// Records of this kind with so many addresses.
fn addresses(random: &mut Random, owner: &Labels, kind: u16, count: usize, names: &mut Names) -> Vec<Entry> {
    let entry = |random: &mut Random, data: Data| Entry {
        owner: owner.clone(),
        kind,
        class: IN,
        ttl: ttl(random),
        data,
    };
    match kind {
        A | AAAA => {
            let size = if kind == A { 4 } else { 16 };
            let one = |_| {
                let data = Data::Bytes(address(random, size));
                entry(random, data)
            };
            (0..count).map(one).collect()
        }
        SVCB | HTTPS => {
            let target = if random.one_in(3) { names.other(random) } else { Labels::new() };
            let priority = 1 + random.below(3) as u16;
            let data = Data::Service(priority, target, parameters(random, count));
            vec![entry(random, data)]
        }
        _ => Vec::new(),
    }
}

/// What may stand beside what counts, and does not count.
fn decoy(random: &mut Random, names: &mut Names, chain: &[Labels], asked: u16) -> Entry {
    let on_chain = chain[random.below(chain.len())].clone();
    let (stranger, elsewhere) = (names.other(random), names.other(random));
    let of = |owner, kind, class, data| Entry { owner, kind, class, ttl: 60, data };
    let size = if asked == A { 4 } else { 16 };
    let bytes = Data::Bytes(address(random, size));
    match random.below(7) {
        0 if asked == A || asked == AAAA => of(stranger, asked, IN, bytes),
        0 | 1 => of(stranger, CNAME, IN, Data::Name(on_chain)),
        2 => of(stranger, CNAME, IN, Data::Name(elsewhere)),
        3 => of(on_chain, CNAME, CHAOS, Data::Name(stranger)),
        4 => of(on_chain, TXT, IN, Data::Bytes(b"\x04text".to_vec())),
        5 => of(on_chain, RRSIG, IN, Data::Bytes(random.bytes(40))),
        _ => {
            let (kind, size) = if asked == A { (AAAA, 16) } else { (A, 4) };
            let data = Data::Bytes(address(random, size));
            of(on_chain, kind, IN, data)
        }
    }
}

/// The records of an answer section, and what is wrong with them.
fn section(random: &mut Random, names: &mut Names, asked: &Labels, kind: u16) -> (Vec<Entry>, Problem) {
    let hops = random.of(&[0, 0, 0, 1, 1, 2, 3, MAX_HOPS, MAX_HOPS + 1, MAX_HOPS + 3]);
    let mut chain = vec![asked.clone()];
    (0..hops).for_each(|_| chain.push(names.other(random)));
    let mut entries: Vec<Entry> = chain
        .windows(2)
        .map(|pair| {
            let data = Data::Name(pair[1].clone());
            Entry { owner: pair[0].clone(), kind: CNAME, class: IN, ttl: ttl(random), data }
        })
        .collect();
    let circle = random.one_in(24);
    if circle {
        let data = Data::Name(chain[random.below(chain.len())].clone());
        let owner = chain[hops as usize].clone();
        entries.push(Entry { owner, kind: CNAME, class: IN, ttl: 60, data });
    }
    let is_long = circle || hops > MAX_HOPS;
    let most = if !is_long && random.one_in(24) { MAX_ADDRESSES + 3 } else { 7 };
    let count = if most > 7 { most - random.below(6) } else { random.below(most) };
    entries.extend(addresses(random, &chain[hops as usize], kind, count, names));
    for _ in 0..random.of(&[0, 0, 1, 2, 5]) {
        let decoy = decoy(random, names, &chain, kind);
        entries.push(decoy);
    }
    if random.one_in(2) {
        for index in 1..entries.len() {
            entries.swap(index, random.below(index + 1));
        }
    }
    let has_addresses = matches!(kind, A | AAAA | SVCB | HTTPS);
    let problem = match () {
        () if is_long => Problem::LongChain,
        () if has_addresses && count > MAX_ADDRESSES => Problem::TooMany,
        () => Problem::None,
    };
    (entries, problem)
}

/// An answer to a question for a name in this zone.
pub(crate) fn answer(random: &mut Random, zone: &[Vec<u8>]) -> Generated {
    let mut names = Names(BTreeSet::new(), zone.to_vec());
    let kind = random.of(&[A, A, A, AAAA, AAAA, AAAA, HTTPS, HTTPS, SVCB, TXT, CNAME, ANY]);
    let code = random.of(&[0, 0, 0, 0, 0, 0, 0, 2, 3, 5]);
    let flags = random.of(&[0x8180, 0x8580, 0x81a0, 0x8190, 0x8380]) | code;
    let mut writer = Writer::new(random, flags);
    let asked = names.asked(random);
    question(random, &mut writer, &asked, kind);
    let (entries, mut problem) = section(random, &mut names, &asked, kind);
    for Entry { owner, kind, class, ttl, data } in entries {
        writer.record(random, ANSWER, &owner, (kind, class, ttl), |writer, random| match data {
            Data::Name(labels) => writer.name(random, &labels),
            Data::Bytes(bytes) => writer.bytes.extend(bytes),
            Data::Service(priority, target, parameters) => {
                writer.number(priority);
                writer.plain_name(random, &target);
                writer.bytes.extend(parameters);
            }
        });
    }
    others(random, &mut writer, &mut names, &asked);
    if code != 0 {
        problem = Problem::None;
    }
    if writer.bytes.len() > MAX_MESSAGE {
        problem = Problem::TooLarge;
    }
    Generated { bytes: writer.bytes, problem }
}

fn question(random: &mut Random, writer: &mut Writer, asked: &Labels, kind: u16) {
    writer.count(QUESTION);
    writer.name(random, asked);
    writer.number(kind);
    writer.number(IN);
}

/// The sections behind the answer.
fn others(random: &mut Random, writer: &mut Writer, names: &mut Names, asked: &Labels) {
    let server = names.other(random);
    for _ in 0..random.of(&[0, 0, 1, 2]) {
        let zone = asked[random.below(asked.len())..].to_vec();
        writer.record(random, AUTHORITY, &zone, (NS, IN, 60), |writer, random| writer.name(random, &server));
        writer.record(random, ADDITIONAL, asked, (A, IN, 60), |writer, _| writer.bytes.extend([9; 4]));
    }
    if !random.one_in(3) {
        edns(random, writer);
    }
}

fn edns(random: &mut Random, writer: &mut Writer) {
    let length = random.of(&[0, 0, 8, 16, 40]);
    writer.record(random, ADDITIONAL, &Labels::new(), (OPT, 1232, 0x8000), |writer, random| {
        if length > 0 {
            // A cookie, or what has no meaning yet.
            writer.number(if length < 40 { 10 } else { 65001 });
            writer.number(length as u16);
            writer.bytes.extend(random.bytes(length));
        }
    });
}

/// A query for a name in this zone.
pub(crate) fn query(random: &mut Random, zone: &[Vec<u8>]) -> Generated {
    let flags = random.of(&[0x0100, 0x0100, 0x0120, 0x0130, 0]);
    let mut writer = Writer::new(random, flags);
    let mut names = Names(BTreeSet::new(), zone.to_vec());
    let mut asked = names.asked(random);
    while random.one_in(8) {
        asked.extend(names.asked(random));
    }
    // As long as a name in text may be, with the first label's length and the closing zero.
    while asked.iter().map(|label| label.len() + 1).sum::<usize>() + 1 > MAX_NAME + 2 {
        asked.pop();
    }
    let kind = random.of(&[A, AAAA, HTTPS, TXT, ANY]);
    question(random, &mut writer, &asked, kind);
    if random.one_in(2) {
        edns(random, &mut writer);
    }
    Generated { bytes: writer.bytes, problem: Problem::None }
}
