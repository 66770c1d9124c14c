//! Each client resolves a name and connects to it at the first try.

use anyhow::{Context, Result, ensure};
use egress_warden_tests::dns::{Client, Family, Lab, Resolver, Target, asks_for, zone};

#[test]
fn every_client_by_every_resolver_over_both_ip_versions() -> Result<()> {
    let lab = Lab::new()?;
    for client in Client::ALL {
        for (transport, resolver) in [(Family::V4, Resolver::Unbound), (Family::V6, Resolver::Dnsmasq)] {
            for family in Family::ALL {
                let target = Target::new("files.index.test", 443, Some(family));
                let before = lab.web().accepted();
                let lookup = lab.lookup(client, &target, resolver.address(transport))?;
                let what = format!("{client:?} by {resolver:?}: {lookup:?}");
                ensure!(lookup.addresses == [zone::served(family, 1)] && lookup.error.is_none(), "{what}");
                let connects = Client::CONNECTING.contains(&client);
                ensure!(lookup.connected() == connects, "{what}");
                lab.web().wait_accepted(before + usize::from(connects)).context(what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_client_of_both_ip_versions_asks_for_both() -> Result<()> {
    let lab = Lab::new()?;
    for client in [Client::Glibc, Client::Musl, Client::Go, Client::Python, Client::Curl, Client::Java] {
        let seen = lab.watch_resolvers()?;
        let target = Target::new("files.index.test", 80, None);
        let lookup = lab.lookup(client, &target, Resolver::Unbound.address(Family::V4))?;
        ensure!(lookup.connected(), "{client:?}: {lookup:?}");
        // The program has its answers, but the frames pass the capture in their own time.
        seen.settle(lab.job(), lab.world().host("resolver").at(9))?;
        let questions = seen.count(|frame| asks_for(frame, "files.index.test"));
        let expected = if client == Client::Java { 4 } else { 2 };
        ensure!(questions == expected, "{client:?} asked {questions} times");
    }
    Ok(())
}

#[test]
fn a_name_that_is_not_there_is_told_at_once() -> Result<()> {
    let lab = Lab::new()?;
    for client in Client::ALL {
        let target = Target::new("nothing.index.test", 80, Some(Family::V4));
        let lookup = lab.lookup(client, &target, Resolver::Unbound.address(Family::V4))?;
        ensure!(lookup.addresses.is_empty() && lookup.connect.is_none(), "{client:?}: {lookup:?}");
        lookup.error.with_context(|| format!("{client:?} told no error"))?;
    }
    Ok(())
}

#[test]
fn a_kind_of_address_that_a_name_has_not_does_not_stop_the_other() -> Result<()> {
    let lab = Lab::new()?;
    for (name, family) in [("four.index.test", Family::V4), ("six.index.test", Family::V6)] {
        for client in Client::CONNECTING {
            let lookup =
                lab.lookup(client, &Target::new(name, 80, None), Resolver::Dnsmasq.address(Family::V4))?;
            ensure!(lookup.addresses == [zone::served(family, 2)], "{client:?}: {lookup:?}");
            ensure!(lookup.connected(), "{client:?}: {lookup:?}");
        }
    }
    Ok(())
}
