//! Data hidden in what looks like a question: it stays on the node.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use egress_warden_tests::dns::hickory_proto::rr::RecordType;
use egress_warden_tests::dns::{Family, Resolver, message, zone};
use egress_warden_tests::wait::DEADLINE;

use crate::ground::{FILES, Ground, RESOLVERS};

/// What would be carried out.
const SECRET: &[u8] = b"the-weights-of-the-model";
const NAME: &str = "files.index.test";

/// An EDNS record with one option of a private kind, with the secret in it and as many bytes as that.
fn with_option(bytes: usize) -> Result<Vec<u8>> {
    let mut question = message::question(7, NAME, RecordType::A)?.to_vec()?;
    question[11] = 1;
    let content = u16::try_from(bytes)?;
    question.extend([0, 0, 41, 4, 208, 0, 0, 0, 0]);
    question.extend((content + 4).to_be_bytes());
    question.extend(65_001_u16.to_be_bytes());
    question.extend(content.to_be_bytes());
    question.extend(SECRET.iter().cycle().take(bytes));
    Ok(question)
}

fn question(name: &str, kind: RecordType) -> Result<Vec<u8>> {
    Ok(message::question(7, name, kind)?.to_vec()?)
}

/// Each with the reason that counts it.
fn shapes() -> Result<Vec<(&'static str, &'static str, Vec<u8>)>> {
    let secret = std::str::from_utf8(SECRET)?;
    let behind = [question(NAME, RecordType::A)?, SECRET.to_vec()].concat();
    let mut second = question(NAME, RecordType::A)?;
    second[5] = 2;
    second.extend_from_slice(&question(&format!("{secret}.test"), RecordType::A)?[12..]);
    let mut operation = [question(NAME, RecordType::A)?, SECRET.to_vec()].concat();
    operation[2] = 0x28;
    Ok(vec![
        (
            "a name that is not allowed",
            "dns_name",
            question(&format!("{secret}.refused.test"), RecordType::A)?,
        ),
        ("a name below an allowed one", "dns_name", question(&format!("{secret}.{NAME}"), RecordType::A)?),
        ("a type", "dns_type", question(&format!("{secret}.wild.test"), RecordType::TXT)?),
        ("bytes behind the question", "dns_malformed", behind),
        ("a second question", "dns_malformed", second),
        ("another operation", "dns_malformed", operation),
        ("an option that is too long", "dns_malformed", with_option(61)?),
        ("no question at all", "dns_malformed", SECRET.to_vec()),
        ("an answer", "dns_malformed", [&[0, 7, 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0], SECRET].concat()),
    ])
}

#[test]
fn what_is_no_allowed_question_never_leaves() -> Result<()> {
    let names = "domains: [files.index.test, \"*.wild.test\"], ports: [443]";
    for family in Family::ALL {
        let ground = Ground::new(&[names], &[RESOLVERS])?;
        let mut expected = BTreeMap::new();
        for (what, reason, bytes) in shapes()? {
            let mut insider = ground.insider()?;
            // Whether it is told so by an error, by an answer or not at all is not the point here.
            insider.ask_raw(Resolver::Unbound.place(family), &bytes).ok();
            ground.assert_never_carried(SECRET).with_context(|| format!("{what}, {family:?}"))?;
            *expected.entry(reason).or_default() += 1;
            let counted: Vec<(&str, u64)> =
                expected.iter().map(|(reason, count)| (*reason, *count)).collect();
            ground.assert_counted(&counted).with_context(|| format!("{what}, {family:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_a_frame_never_leaves() -> Result<()> {
    for family in Family::ALL {
        // One that could be read in one piece, and one that is longer than any question or answer that is read.
        for bytes in [SECRET.repeat(125), SECRET.repeat(500)] {
            let ground = Ground::new(&[FILES], &[RESOLVERS])?;
            let mut insider = ground.insider()?;
            insider.ask_raw(Resolver::Unbound.place(family), &bytes).ok();
            ground
                .assert_never_carried(SECRET)
                .with_context(|| format!("{} bytes, {family:?}", bytes.len()))?;
            ground.assert_counted(&[("dns_malformed", 1)])?;
        }
    }
    Ok(())
}

#[test]
fn what_an_allowed_question_carries() -> Result<()> {
    let ground = Ground::new(&[FILES], &[RESOLVERS])?;
    let mut insider = ground.insider()?;
    insider.ask_raw(Resolver::Unbound.place(Family::V4), &with_option(60)?)?;
    ensure!(ground.assert_never_carried(SECRET).is_err(), "sixty bytes of an option are let through");
    ground.assert_counted(&[])
}

#[test]
fn an_address_that_a_name_opened_is_no_resolver() -> Result<()> {
    let ground = Ground::new(&["domains: [files.index.test]"], &[RESOLVERS])?;
    for (family, kind) in [(Family::V4, RecordType::A), (Family::V6, RecordType::AAAA)] {
        let mut insider = ground.insider()?;
        insider.ask(Resolver::Unbound.place(family), 7, NAME, kind)?;
        insider.receive(DEADLINE)?.context("no answer")?;
        let address = zone::served(family, 1);
        ensure!(insider.connect((address, 443).into())? == "ok");
        ensure!(insider.ask((address, 53).into(), 8, NAME, kind).is_err(), "{address} was asked");
        ensure!(insider.connect((address, 53).into())? == "EPERM", "{address} was asked by TCP");
    }
    ground.assert_counted(&[("dns_server", 2), ("dns_tcp", 2)])
}
