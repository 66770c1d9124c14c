//! Answers that lie: whatever becomes of them, the address that they give stays closed.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_warden_tests::dns::hickory_proto::op::Message;
use egress_warden_tests::dns::hickory_proto::rr::RecordType;
use egress_warden_tests::dns::{
    Family, Insider, Question, Reply, Resolver, Scripted, message, send_as, zone,
};
use egress_warden_tests::wait::DEADLINE;

use crate::ground::{FILES, Ground, RESOLVERS};

const NAME: &str = "files.index.test";
const ID: u16 = 0x1234;
/// How long a lie may take to arrive, if it does.
const ARRIVES: Duration = Duration::from_millis(300);

/// Where a lie leads: an address of the kind that the question asks for, which no allowed name has.
fn poison(family: Family) -> SocketAddr {
    let address: IpAddr = match family {
        Family::V4 => [11, 77, 9, 9].into(),
        Family::V6 => [0x2a77, 0, 0, 0, 0, 0, 9, 9].into(),
    };
    (address, 443).into()
}

fn kind(family: Family) -> RecordType {
    if family == Family::V4 { RecordType::A } else { RecordType::AAAA }
}

fn lie_to(question: &Message, name: &str, family: Family) -> Result<Vec<u8>> {
    let mut answer = message::answer_to(question);
    answer.add_answer(message::address_record(name, 300, poison(family).ip())?);
    Ok(answer.to_vec()?)
}

fn lie(family: Family) -> Result<Vec<u8>> {
    lie_to(&message::question(ID, NAME, kind(family))?, NAME, family)
}

fn own(ground: &Ground, family: Family, port: u16) -> SocketAddr {
    let job = ground.lab.job();
    if family == Family::V4 { job.at(port) } else { job.at_v6(port) }
}

/// A forger gets the ground, the resolver that was asked, where the question came from, and the lie.
type Forger = fn(&Ground, &mut Insider, SocketAddr, SocketAddr, &[u8]) -> Result<()>;

/// Those who know everything about the question but do not stand where its answer comes from.
const FORGERS: [(&str, Forger); 5] = [
    ("a socket on its own loopback", |_, insider, resolver, to, bytes| {
        insider.send_as(resolver, to, bytes).map(drop)
    }),
    ("a frame on its own loopback", |_, insider, resolver, to, bytes| {
        insider.send_frame(resolver, to, bytes).map(drop)
    }),
    ("a nested namespace", |ground, _, resolver, to, bytes| {
        send_as(&ground.lab.nest()?, resolver, to, bytes)
    }),
    ("a neighbour in its own name", |ground, _, _, to, bytes| {
        let neighbour = ground.lab.world().host("neighbour");
        let place = if to.is_ipv4() { neighbour.at(53) } else { neighbour.at_v6(53) };
        send_as(neighbour, place, to, bytes)
    }),
    ("the resolver from another port", |ground, _, resolver, to, bytes| {
        send_as(ground.lab.world().host("resolver"), SocketAddr::new(resolver.ip(), 5353), to, bytes)
    }),
];

#[test]
fn forgers_beside_the_way_of_the_answer() -> Result<()> {
    for family in Family::ALL {
        for (who, forge) in FORGERS {
            let ground = Ground::new(&[FILES], &[RESOLVERS])?;
            let silent = ground.lab.script(family, |_| Vec::new())?;
            let mut insider = ground.insider()?;
            let port = insider.ask(silent.address(), ID, NAME, kind(family))?;
            forge(&ground, &mut insider, silent.address(), own(&ground, family, port), &lie(family)?)?;
            insider.receive(ARRIVES)?;
            ground
                .assert_refused(&mut insider, poison(family))
                .with_context(|| format!("{who}, {family:?}"))?;
        }
    }
    Ok(())
}

/// What a resolver may say wrongly to a question.
type Twist = fn(Message, Family) -> Result<Vec<u8>>;

const TWISTS: [(&str, Twist); 4] = [
    ("another number", |mut question, family| {
        question.metadata.id ^= 1;
        lie_to(&question, NAME, family)
    }),
    ("another name in question and answer", |question, family| {
        lie_to(
            &message::question(question.metadata.id, "refused.test", kind(family))?,
            "refused.test",
            family,
        )
    }),
    ("another name in the answer", |question, family| lie_to(&question, "refused.test", family)),
    ("another kind in the question", |question, family| {
        lie_to(&message::question(question.metadata.id, NAME, RecordType::TXT)?, NAME, family)
    }),
];

#[test]
fn an_allowed_resolver_that_answers_something_else() -> Result<()> {
    for family in Family::ALL {
        for (what, twist) in TWISTS {
            let ground = Ground::new(&[FILES], &[RESOLVERS])?;
            let scripted = ground.lab.script(family, move |asked: &Question| {
                let twisted = asked.message.clone().and_then(|question| twist(question, family).ok());
                twisted.into_iter().map(Reply::new).collect()
            })?;
            let mut insider = ground.insider()?;
            insider.ask(scripted.address(), ID, NAME, kind(family))?;
            insider.receive(ARRIVES)?;
            ground
                .assert_refused(&mut insider, poison(family))
                .with_context(|| format!("{what}, {family:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn an_answer_that_nobody_asked_for() -> Result<()> {
    let ground = Ground::new(&[FILES], &[RESOLVERS])?;
    for family in Family::ALL {
        let scripted = ground.lab.script(family, |_| Vec::new())?;
        let mut insider = ground.insider()?;
        // The question was another one, so the socket is known and its number is not.
        let port = insider.ask(scripted.address(), ID ^ 1, NAME, kind(family))?;
        scripted.send(own(&ground, family, port), &lie(family)?)?;
        insider.receive(ARRIVES)?;
        ground.assert_refused(&mut insider, poison(family))?;
    }
    Ok(())
}

#[test]
fn an_answer_to_another_socket() -> Result<()> {
    let ground = Ground::new(&[FILES], &[RESOLVERS])?;
    for family in Family::ALL {
        let scripted = ground.lab.script(family, |_| Vec::new())?;
        let (mut asker, mut other) = (ground.insider()?, ground.insider()?);
        asker.ask(scripted.address(), ID, NAME, kind(family))?;
        let port = other.ask(scripted.address(), ID ^ 1, NAME, kind(family))?;
        scripted.send(own(&ground, family, port), &lie(family)?)?;
        other.receive(ARRIVES)?;
        ground.assert_refused(&mut other, poison(family))?;
    }
    Ok(())
}

#[test]
fn an_answer_that_comes_again_with_something_else_in_it() -> Result<()> {
    let ground = Ground::new(&[FILES], &[RESOLVERS])?;
    for family in Family::ALL {
        let scripted = ground.lab.script(family, move |asked: &Question| {
            let Some(question) = &asked.message else { return Vec::new() };
            let mut truth = message::answer_to(question);
            truth.answers.extend(message::address_record(NAME, 300, zone::served(family, 1)));
            let replayed = lie_to(question, NAME, family).map(|lie| Reply::new(lie).after(ARRIVES / 3));
            truth.to_vec().map(Reply::new).into_iter().chain(replayed).collect()
        })?;
        let mut insider = ground.insider()?;
        insider.ask(scripted.address(), ID, NAME, kind(family))?;
        insider.receive(DEADLINE)?.context("the true answer")?;
        ensure!(insider.connect((zone::served(family, 1), 443).into())? == "ok");
        insider.receive(ARRIVES)?;
        ground.assert_refused(&mut insider, poison(family))?;
    }
    Ok(())
}

#[test]
fn a_forger_who_is_first_does_not_keep_the_true_answer_out() -> Result<()> {
    for family in Family::ALL {
        let ground = Ground::new(&[FILES], &[RESOLVERS])?;
        let scripted = ground.lab.script(family, move |asked: &Question| {
            let Some(question) = &asked.message else { return Vec::new() };
            let mut truth = message::answer_to(question);
            truth.answers.extend(message::address_record(NAME, 300, zone::served(family, 1)));
            truth.to_vec().map(|truth| Reply::new(truth).after(ARRIVES)).into_iter().collect()
        })?;
        let mut insider = ground.insider()?;
        let port = insider.ask(scripted.address(), ID, NAME, kind(family))?;
        insider.send_as(scripted.address(), own(&ground, family, port), &lie(family)?)?;
        ground.assert_refused(&mut insider, poison(family))?;
        let truth = [zone::served(family, 1)];
        let received = |insider: &mut Insider| -> Result<bool> {
            let (_, bytes) = insider.receive(DEADLINE)?.context("no true answer")?;
            Ok(message::addresses_in(&Message::from_vec(&bytes)?) == truth)
        };
        // Where the lie is let through to the socket, the truth is the second that it receives.
        ensure!(received(&mut insider)? || received(&mut insider)?);
        ensure!(insider.connect((truth[0], 443).into())? == "ok");
        ground.assert_refused(&mut insider, poison(family))?;
    }
    Ok(())
}

#[test]
fn a_resolver_of_the_workloads_own_teaches_nothing() -> Result<()> {
    for family in Family::ALL {
        for nested in [true, false] {
            let ground = Ground::new(&[FILES], &[RESOLVERS])?;
            let inner = ground.lab.nest()?;
            // In the nested namespace itself, or at the end of its wire, where an uplink would be.
            let place = if nested { &inner } else { &**ground.lab.job() };
            ground.lab.impersonate_resolver(place)?;
            let liar = Scripted::start(place, Resolver::Scripted.place(family), move |asked: &Question| {
                let lied = asked.message.as_ref().and_then(|question| lie_to(question, NAME, family).ok());
                lied.into_iter().map(Reply::new).collect()
            })?;
            let mut insider = ground.insider_in(&inner)?;
            // Whether it is refused already there or only its answer is does not matter.
            insider.ask(liar.address(), ID, NAME, kind(family)).ok();
            insider.receive(ARRIVES).ok();
            let mut outer = ground.insider()?;
            ground.assert_refused(&mut outer, poison(family)).with_context(|| format!("nested: {nested}"))?;
        }
    }
    Ok(())
}
