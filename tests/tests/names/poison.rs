//! Answers that lie. Without a policy every one of them reaches the socket that it is meant for.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_warden_tests::dns::hickory_proto::op::Message;
use egress_warden_tests::dns::hickory_proto::rr::RecordType;
use egress_warden_tests::dns::{
    Family, Insider, Lab, Question, Reply, Resolver, Scripted, message, odd, send_as,
};
use egress_warden_tests::wait::DEADLINE;

const NAME: &str = "files.index.test";
const ID: u16 = 0x1234;
/// Where a lie leads: an address that no allowed name has.
const POISON: &str = "11.77.9.9";

fn lie(question: &Message, name: &str) -> Result<Message> {
    let mut answer = message::answer_to(question);
    answer.add_answer(message::address_record(name, 300, POISON.parse()?)?);
    Ok(answer)
}

fn question() -> Result<Message> {
    message::question(ID, NAME, RecordType::A)
}

/// The job's own address.
fn own(lab: &Lab, family: Family, port: u16) -> std::net::SocketAddr {
    if family == Family::V4 { lab.job().at(port) } else { lab.job().at_v6(port) }
}

#[test]
fn forged_over_loopback_and_from_a_neighbour() -> Result<()> {
    let lab = Lab::new()?;
    for family in Family::ALL {
        let silent = lab.script(family, |_| Vec::new())?;
        let bytes = lie(&question()?, NAME)?.to_vec()?;
        let mut insider = Insider::free(lab.job())?;
        let port = insider.ask(silent.address(), ID, NAME, RecordType::A)?;
        let to = own(&lab, family, port);
        let arrived = |insider: &mut Insider| -> Result<()> {
            let (from, received) = insider.receive(DEADLINE)?.context("the forgery did not arrive")?;
            ensure!(from == silent.address() && received == bytes, "from {from}");
            Ok(())
        };
        ensure!(insider.send_as(silent.address(), to, &bytes)? == "ok");
        arrived(&mut insider).context("by a socket on its own loopback")?;
        ensure!(insider.send_frame(silent.address(), to, &bytes)? == "ok");
        arrived(&mut insider).context("by a frame on its own loopback")?;
        send_as(lab.world().host("neighbour"), silent.address(), to, &bytes)?;
        arrived(&mut insider).context("from a neighbour")?;
        ensure!(insider.connect((POISON.parse::<std::net::IpAddr>()?, 80).into())? == "ok");
    }
    Ok(())
}

#[test]
fn from_a_nested_namespace() -> Result<()> {
    let lab = Lab::new()?;
    let inner = lab.nest()?;
    for family in Family::ALL {
        let silent = lab.script(family, |_| Vec::new())?;
        let bytes = lie(&question()?, NAME)?.to_vec()?;
        let mut insider = Insider::free(lab.job())?;
        let port = insider.ask(silent.address(), ID, NAME, RecordType::A)?;
        send_as(&inner, silent.address(), own(&lab, family, port), &bytes)?;
        let (from, received) = insider.receive(DEADLINE)?.context("the forgery did not arrive")?;
        ensure!(from == silent.address() && received == bytes, "from {from}");
    }
    Ok(())
}

#[test]
fn by_a_resolver_of_the_workloads_own() -> Result<()> {
    let lab = Lab::new()?;
    let inner = lab.nest()?;
    let liar = |asked: &Question| -> Vec<Reply> {
        let bytes = asked.message.as_ref().and_then(|question| lie(question, NAME).ok()?.to_vec().ok());
        bytes.into_iter().map(Reply::new).collect()
    };
    // In the nested namespace itself, and then at the end of its wire, where an uplink would be.
    for place in [&inner, &**lab.job()] {
        lab.impersonate_resolver(place)?;
        for family in Family::ALL {
            let liar = Scripted::start(place, Resolver::Scripted.place(family), liar)?;
            let mut insider = Insider::free(&inner)?;
            insider.ask(liar.address(), ID, NAME, RecordType::A)?;
            let asked = || format!("asked {:?} times", liar.asked().len());
            insider.receive(DEADLINE)?.with_context(asked).with_context(|| format!("{family:?}"))?;
        }
        lab.unmask_resolver(place)?;
    }
    Ok(())
}

#[test]
fn odd_answers_arrive_as_they_are() -> Result<()> {
    let lab = Lab::new()?;
    let all = odd::answers();
    let mut replies = all.clone().into_iter();
    let scripted = lab
        .script(Family::V4, move |_| replies.next().into_iter().map(|odd| Reply::new(odd.bytes)).collect())?;
    let mut insider = Insider::free(lab.job())?;
    for odd in all {
        insider.ask_raw(scripted.address(), &odd::question())?;
        let (_, bytes) = insider.receive(DEADLINE)?.with_context(|| odd.what.to_owned())?;
        ensure!(bytes == odd.bytes, "{}", odd.what);
        ensure!(insider.connect((odd.address, 80).into())? == "ok", "{}", odd.what);
    }
    Ok(())
}

#[test]
fn a_scripted_resolver_answers_as_it_is_told() -> Result<()> {
    let lab = Lab::new()?;
    let scripted = lab.script(Family::V4, |asked| {
        let Some(question) = &asked.message else { return Vec::new() };
        let mut other = question.clone();
        other.metadata.id ^= 1;
        let late = Duration::from_millis(20);
        [lie(&other, NAME), lie(question, "other.index.test"), lie(question, NAME)]
            .into_iter()
            .filter_map(|answer| Some(Reply::new(answer.ok()?.to_vec().ok()?)))
            .zip(1..)
            .map(|(reply, turn)| reply.after(late * turn))
            .collect()
    })?;
    let mut insider = Insider::free(lab.job())?;
    let port = insider.ask(scripted.address(), ID, NAME, RecordType::A)?;
    let mut received = Vec::new();
    for _ in 0..3 {
        let (_, bytes) = insider.receive(DEADLINE)?.context("an answer")?;
        let answer = Message::from_vec(&bytes)?;
        received.push((answer.metadata.id, answer.answers[0].name.to_string()));
    }
    let expected = [(ID ^ 1, "files.index.test."), (ID, "other.index.test."), (ID, "files.index.test.")];
    ensure!(received.iter().map(|(id, name)| (*id, name.as_str())).eq(expected), "{received:?}");
    scripted.send(lab.job().at(port), b"nobody asked")?;
    ensure!(insider.receive(DEADLINE)?.is_some_and(|(_, bytes)| bytes == b"nobody asked"));
    assert_eq!(scripted.asked().len(), 1);
    Ok(())
}

#[test]
fn a_true_answer_is_received_too() -> Result<()> {
    let lab = Lab::new()?;
    let mut insider = Insider::free(lab.job())?;
    insider.ask(Resolver::Unbound.place(Family::V6), ID, NAME, RecordType::AAAA)?;
    let (_, bytes) = insider.receive(DEADLINE)?.context("no answer")?;
    let found = message::addresses_in(&Message::from_vec(&bytes)?);
    ensure!(insider.open((*found.first().context("no address")?, 80).into())? == "ok");
    ensure!(insider.echo()? == "ok" && insider.echo()? == "ok");
    Ok(())
}
