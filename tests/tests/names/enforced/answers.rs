//! Which answers open what they point to.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_warden_tests::cut_datagrams;
use egress_warden_tests::dns::hickory_proto::op::Message;
use egress_warden_tests::dns::hickory_proto::rr::RecordType;
use egress_warden_tests::dns::{
    Client, Family, Insider, Reply, Resolver, Surroundings, Target, message, odd, zone,
};
use egress_warden_tests::wait::DEADLINE;

use crate::ground::{Ground, RESOLVERS};

const KINDS: [(Family, RecordType); 2] = [(Family::V4, RecordType::A), (Family::V6, RecordType::AAAA)];

/// How long an answer may take that is not to arrive.
const UNTIL_DROPPED: Duration = Duration::from_millis(300);

/// Asks as the workload, and returns the addresses that it was answered.
fn ask(insider: &mut Insider, resolver: Resolver, name: &str, kind: RecordType) -> Result<Vec<IpAddr>> {
    insider.ask(resolver.place(Family::V4), 0x2222, name, kind)?;
    let (_, bytes) = insider.receive(DEADLINE)?.with_context(|| format!("no answer for {name}"))?;
    Ok(message::addresses_in(&Message::from_vec(&bytes)?))
}

#[test]
fn chains_wildcards_hints_and_large_answers_are_learnt_whole() -> Result<()> {
    let names =
        "domains: [alias.index.test, \"*.wild.test\", hints.index.test, many.index.test], ports: [443]";
    let ground = Ground::new(&[names], &[RESOLVERS])?;
    let mut insider = ground.insider()?;
    for resolver in Resolver::REAL {
        let plain = ["alias.index.test", "any.thing.wild.test", "many.index.test"];
        let mut questions: Vec<(&str, RecordType)> =
            plain.iter().flat_map(|name| KINDS.map(|(_, kind)| (*name, kind))).collect();
        questions.push(("hints.index.test", RecordType::HTTPS));
        for (name, kind) in questions {
            for address in ask(&mut insider, resolver, name, kind)? {
                let said = insider.connect((address, 443).into())?;
                ensure!(said == "ok", "{name} {kind} by {resolver:?} at {address}: {said}");
            }
        }
    }
    ground.assert_counted(&[])
}

#[test]
fn an_answer_with_more_addresses_than_are_read_opens_none() -> Result<()> {
    let ground = Ground::new(&["domains: [full.index.test], ports: [443]"], &[RESOLVERS])?;
    let mut insider = ground.insider()?;
    for (kind, first) in [(RecordType::A, "11.77.3.1:443"), (RecordType::AAAA, "[2a77::3:1]:443")] {
        insider.ask(Resolver::Unbound.place(Family::V4), 0x2222, "full.index.test", kind)?;
        ensure!(insider.receive(UNTIL_DROPPED)?.is_none(), "{kind}: the answer arrived");
        ground.assert_refused(&mut insider, first.parse()?)?;
    }
    Ok(())
}

/// Who finds sixty addresses without EDNS in `resolv.conf`, and with it.
const MANY: [(Client, bool, bool); 5] = [
    (Client::Glibc, false, true),
    (Client::Musl, false, false),
    (Client::Go, true, true),
    (Client::Python, false, true),
    (Client::Curl, false, true),
];

#[test]
fn a_truncated_answer_leads_to_tcp_which_is_refused() -> Result<()> {
    let ground = Ground::new(&["domains: [many.index.test], ports: [443]"], &[RESOLVERS])?;
    let (target, resolver) =
        (Target::new("many.index.test", 443, Some(Family::V4)), Resolver::Unbound.address(Family::V4));
    let plain = Surroundings::new(&[resolver], &[], &[])?;
    let edns = Surroundings::new(&[resolver], &[], &["edns0"])?;
    for (client, by_itself, with_edns) in MANY {
        for (around, found) in [(&plain, by_itself), (&edns, with_edns)] {
            let lookup = ground.lookup_with(client, &target, resolver, around)?;
            ensure!(lookup.connected() == found && lookup.error.is_none() == found, "{client:?}: {lookup:?}");
        }
    }
    ensure!(ground.segments_to_resolvers()? == 0, "segments to port 53 came out");
    let counted = ground.violations()?;
    ensure!(counted.keys().eq(["dns_tcp"]), "{counted:?}");
    Ok(())
}

const CORP: [&str; 8] =
    ["private", "metadata", "loopback", "link", "mapped", "translated", "multicast", "mixed"];

#[test]
fn what_is_not_global_is_not_granted() -> Result<()> {
    let ground = Ground::new(&["domains: [\"*.corp.test\"], ports: [80]"], &[RESOLVERS])?;
    let mut insider = ground.insider()?;
    for name in CORP {
        for (family, kind) in KINDS {
            for address in ask(&mut insider, Resolver::Unbound, &format!("{name}.corp.test"), kind)? {
                // Its loopback is the workload's own business.
                if address.is_loopback() {
                    continue;
                }
                if address == zone::served(family, 8) {
                    ensure!(insider.connect((address, 80).into())? == "ok", "{name} at {address}");
                } else {
                    ground.assert_refused(&mut insider, (address, 80).into()).context(name)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn resolves_to_opens_what_it_names_and_nothing_else() -> Result<()> {
    let entry = "domains: [\"*.corp.test\"], resolvesTo: [10.99.0.0/16, \"fd99::/16\"], ports: [80]";
    let ground = Ground::new(&[entry], &[RESOLVERS])?;
    let mut insider = ground.insider()?;
    // It opens nothing before a name leads there.
    ground.assert_refused(&mut insider, "10.99.1.1:80".parse()?)?;
    for (family, kind) in KINDS {
        for address in ask(&mut insider, Resolver::Dnsmasq, "private.corp.test", kind)? {
            ensure!(insider.connect((address, 80).into())? == "ok", "{address}");
        }
        ask(&mut insider, Resolver::Dnsmasq, "mixed.corp.test", kind)?;
        ground.assert_refused(&mut insider, (zone::served(family, 8), 80).into())?;
    }
    Ok(())
}

#[test]
fn an_answer_that_is_right_grants_and_one_that_is_wrong_does_not() -> Result<()> {
    let ground = Ground::new(&["domains: [files.index.test], ports: [80]"], &[RESOLVERS])?;
    let all = odd::answers();
    let mut replies = all.clone().into_iter();
    let scripted = ground
        .lab
        .script(Family::V4, move |_| replies.next().into_iter().map(|odd| Reply::new(odd.bytes)).collect())?;
    for odd in all {
        // A socket of its own for each: one that is refused leaves its question open.
        let mut insider = ground.insider()?;
        insider.ask_raw(scripted.address(), &odd::question())?;
        let arrived = insider.receive(if odd.right { DEADLINE } else { UNTIL_DROPPED })?.is_some();
        ensure!(arrived || !odd.right, "{} did not arrive", odd.what);
        let place = (odd.address, 80).into();
        if odd.right {
            ensure!(insider.connect(place)? == "ok", "{}", odd.what);
        } else {
            ground.assert_refused(&mut insider, place).context(odd.what)?;
        }
    }
    Ok(())
}

/// Two answers that leave in one piece, for a socket that is given them one by one and for one that takes them merged.
#[test]
fn answers_in_one_piece_open_nothing() -> Result<()> {
    let names = [("files.index.test", 1), ("other.index.test", 6)];
    let ground = Ground::new(&["domains: [\"*.index.test\"], ports: [443]"], &[RESOLVERS])?;
    let place = Resolver::Scripted.place(Family::V4);
    let socket = ground.lab.world().host("resolver").enter(|| UdpSocket::bind(place))?;
    socket.set_read_timeout(Some(DEADLINE))?;
    for merges in [true, false] {
        let mut insider = ground.insider()?;
        let (mut piece, mut length, mut asker) = (Vec::new(), 0, place);
        for (name, number) in names {
            insider.ask(place, 0x2200 + number, name, RecordType::A)?;
            if merges {
                ensure!(insider.merge()? == "ok");
            }
            let mut question = [0; 512];
            let (read, from) = socket.recv_from(&mut question)?;
            let mut answer = message::answer_to(&Message::from_vec(&question[..read])?);
            answer.add_answer(message::address_record(name, 300, zone::served(Family::V4, number))?);
            let bytes = answer.to_vec()?;
            (length, asker) = (bytes.len(), from);
            piece.extend(bytes);
        }
        ensure!(piece.len() == 2 * length, "datagrams of one size go in one piece");
        cut_datagrams(&socket, length.try_into()?)?;
        socket.send_to(&piece, asker)?;
        for (_, number) in names {
            let to = (zone::served(Family::V4, number), 443).into();
            if merges {
                ensure!(insider.receive(UNTIL_DROPPED)?.is_none(), "the piece arrived");
                ground.assert_refused(&mut insider, to)?;
            } else {
                let (_, answer) = insider.receive(DEADLINE)?.context("no answer")?;
                ensure!(answer.len() == length && insider.connect(to)? == "ok", "{number}");
            }
        }
        ground.agent.wait_metric("dns_grants_rejected_total", &["reason=\"merged\""], 1.0)?;
    }
    // One by one they are learnt for a socket that would take them merged as well.
    let mut insider = ground.insider()?;
    ask(&mut insider, Resolver::Unbound, "files.index.test", RecordType::AAAA)?;
    ensure!(insider.merge()? == "ok");
    for address in ask(&mut insider, Resolver::Unbound, "other.index.test", RecordType::AAAA)? {
        ensure!(insider.connect((address, 443).into())? == "ok", "{address}");
    }
    Ok(())
}

/// Who asks whom where `resolv.conf` names several: one after the other, or all at once (musl).
#[test]
fn with_several_resolvers_a_name_is_reached_at_once() -> Result<()> {
    let ground = Ground::new(&["domains: [files.index.test], ports: [443]"], &[RESOLVERS])?;
    let [unbound, dnsmasq] = Resolver::REAL.map(|resolver| resolver.address(Family::V4));
    let elsewhere = ground.lab.world().host("neighbour").v4.into();
    for (resolvers, refused) in [([unbound, dnsmasq], false), ([elsewhere, unbound], true)] {
        let around = Surroundings::new(&resolvers, &[], &[])?;
        for client in [Client::Glibc, Client::Musl, Client::Go, Client::Python, Client::Curl] {
            for family in [Some(Family::V4), None] {
                let target = Target::new("files.index.test", 443, family);
                let lookup = ground.lookup_with(client, &target, unbound, &around)?;
                println!("{client:?} {refused}: {:?}", lookup.resolving);
                ensure!(lookup.connected(), "{client:?} by {resolvers:?}: {lookup:?}");
                ensure!(lookup.resolving < Duration::from_secs(1), "{client:?} by {resolvers:?}: {lookup:?}");
            }
        }
        let counted = ground.violations()?;
        ensure!(counted.keys().eq(if refused { &["dns_server"][..] } else { &[] }), "{counted:?}");
    }
    Ok(())
}
