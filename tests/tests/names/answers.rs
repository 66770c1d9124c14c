//! What answers look like: chains, wildcards, many addresses, hints, and addresses that no name should lead to.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use egress_warden_tests::dns::hickory_proto::op::{Message, ResponseCode};
use egress_warden_tests::dns::hickory_proto::rr::RecordType;
use egress_warden_tests::dns::{Client, Family, Insider, Lab, Resolver, Target, message, zone};
use egress_warden_tests::wait::DEADLINE;

const KINDS: [(Family, RecordType); 2] = [(Family::V4, RecordType::A), (Family::V6, RecordType::AAAA)];

fn ask(lab: &Lab, resolver: Resolver, name: &str, kind: RecordType) -> Result<Message> {
    message::ask(lab.job(), resolver.place(Family::V4), name, kind, DEADLINE)
}

#[test]
fn a_chain_of_aliases_and_a_wildcard() -> Result<()> {
    let lab = Lab::new()?;
    for resolver in Resolver::REAL {
        for (family, kind) in KINDS {
            let chain = ask(&lab, resolver, "alias.index.test", kind)?;
            ensure!(chain.answers.len() == 3, "{resolver:?}: {chain}");
            ensure!(message::addresses_in(&chain) == [zone::served(family, 3)], "{resolver:?}: {chain}");
            let wild = ask(&lab, resolver, "any.thing.wild.test", kind)?;
            ensure!(message::addresses_in(&wild) == [zone::served(family, 4)], "{resolver:?}: {wild}");
        }
    }
    for (client, name) in [(Client::Glibc, "alias.index.test"), (Client::Musl, "any.thing.wild.test")] {
        let lookup =
            lab.lookup(client, &Target::new(name, 443, None), Resolver::Dnsmasq.address(Family::V6))?;
        ensure!(lookup.connected(), "{lookup:?}");
    }
    Ok(())
}

#[test]
fn many_addresses_fit_with_edns_and_more_are_truncated() -> Result<()> {
    let lab = Lab::new()?;
    for resolver in Resolver::REAL {
        for (family, kind) in KINDS {
            let bytes =
                message::ask_bytes(lab.job(), resolver.place(Family::V4), "full.index.test", kind, DEADLINE)?;
            let full = Message::from_vec(&bytes)?;
            let count = if family == Family::V4 { zone::FULL.0 } else { zone::FULL.1 };
            ensure!(message::addresses_in(&full).len() == usize::from(count), "{resolver:?}: {full}");
            ensure!(bytes.len() > 4000 && !full.metadata.truncation, "{resolver:?}: {} bytes", bytes.len());
            let huge = ask(&lab, resolver, "huge.index.test", kind)?;
            ensure!(huge.metadata.truncation, "{resolver:?}: {} answers", huge.answers.len());
        }
    }
    Ok(())
}

#[test]
fn a_client_without_edns_asks_again_over_tcp() -> Result<()> {
    let lab = Lab::new()?;
    // musl has asked over TCP since 1.2.4, and glibc asks without EDNS unless told otherwise.
    for client in [Client::Glibc, Client::Go] {
        let seen = lab.watch_resolvers()?;
        let target = Target::new("many.index.test", 80, Some(Family::V4));
        let lookup = lab.lookup(client, &target, Resolver::Unbound.address(Family::V4))?;
        ensure!(lookup.addresses.len() == usize::from(zone::MANY) && lookup.connected(), "{lookup:?}");
        seen.settle(lab.job(), lab.world().host("resolver").at(9))?;
        let over_tcp = seen.count(|frame| frame.is_tcp() && frame.destination_port == Some(53));
        ensure!((over_tcp > 0) == (client == Client::Glibc), "{client:?}: {over_tcp} segments");
    }
    Ok(())
}

#[test]
fn hints_of_https_and_svcb_records() -> Result<()> {
    let lab = Lab::new()?;
    for resolver in Resolver::REAL {
        for (name, kind) in
            [("hints.index.test", RecordType::HTTPS), ("service.index.test", RecordType::SVCB)]
        {
            let answer = ask(&lab, resolver, name, kind)?;
            let hints = message::addresses_in(&answer);
            ensure!(hints == Family::ALL.map(|family| zone::served(family, 5)), "{resolver:?}: {answer}");
            let mut insider = Insider::free(lab.job())?;
            for hint in hints {
                ensure!(insider.connect((hint, 443).into())? == "ok", "{hint}");
            }
        }
    }
    Ok(())
}

#[test]
fn addresses_that_no_name_should_lead_to_are_answered_and_reached() -> Result<()> {
    let lab = Lab::new()?;
    let mut insider = Insider::free(lab.job())?;
    for (name, reachable) in [
        ("private.corp.test", true),
        ("mixed.corp.test", true),
        ("metadata.corp.test", true),
        ("translated.corp.test", true),
        ("mapped.corp.test", true),
        ("loopback.corp.test", false),
        ("link.corp.test", false),
        ("multicast.corp.test", false),
    ] {
        let mut found: Vec<IpAddr> = Vec::new();
        for (_, kind) in KINDS {
            found.extend(message::addresses_in(&ask(&lab, Resolver::Unbound, name, kind)?));
        }
        ensure!(!found.is_empty(), "{name} leads nowhere");
        for address in found.iter().filter(|_| reachable) {
            ensure!(insider.connect((*address, 80).into())? == "ok", "{name} at {address}");
        }
    }
    Ok(())
}

#[test]
fn names_outside_the_zone_are_not_there() -> Result<()> {
    let lab = Lab::new()?;
    for resolver in Resolver::REAL {
        let answer = message::ask(
            lab.job(),
            resolver.place(Family::V6),
            "example.com",
            RecordType::A,
            Duration::from_secs(2),
        )?;
        ensure!(answer.metadata.response_code == ResponseCode::NXDomain, "{resolver:?}: {answer}");
    }
    Ok(())
}
