//! Each client connects to an allowed name at its first try, and is told of refused ones at once.

use std::time::Duration;

use anyhow::{Result, ensure};
use egress_warden_tests::dns::hickory_proto::rr::RecordType;
use egress_warden_tests::dns::{Client, Family, Resolver, Target, zone};

use crate::ground::{FILES, Ground, RESOLVERS};

/// What a refused name may cost.
const AT_ONCE: Duration = Duration::from_millis(2);
/// What starting a program costs, for those that do not tell how long the lookup alone took.
const STARTED: Duration = Duration::from_secs(1);
/// How often the time is taken.
const TRIES: usize = 5;

fn limit(client: Client) -> Duration {
    match client {
        // Python loads its codecs for names inside the first lookup, curl starts a thread for it.
        Client::Getent | Client::Dig | Client::Python | Client::Curl => STARTED,
        _ => AT_ONCE,
    }
}

#[test]
fn the_first_connect_after_an_answer_succeeds() -> Result<()> {
    let ground = Ground::new(&[FILES], &[RESOLVERS])?;
    for client in Client::CONNECTING {
        for (transport, resolver) in [(Family::V4, Resolver::Unbound), (Family::V6, Resolver::Dnsmasq)] {
            for family in [Some(Family::V4), Some(Family::V6), None] {
                let target = Target::new("files.index.test", 443, family);
                let lookup = ground.lookup(client, &target, resolver.address(transport))?;
                ensure!(
                    lookup.connected() && lookup.error.is_none(),
                    "{client:?} by {resolver:?}: {lookup:?}"
                );
            }
        }
    }
    ground.assert_counted(&[])
}

#[test]
fn a_grant_opens_the_ports_of_its_entry_and_no_others() -> Result<()> {
    let ground = Ground::new(&[FILES], &[RESOLVERS])?;
    let target = Target::new("files.index.test", 80, Some(Family::V4));
    let lookup = ground.lookup(Client::Glibc, &target, Resolver::Unbound.address(Family::V4))?;
    ensure!(lookup.connect.as_deref() == Some("EPERM"), "{lookup:?}");
    ground.assert_never_reached(zone::served(Family::V4, 1))?;
    ground.assert_counted(&[("port_not_allowed", 1)])
}

#[test]
fn a_refused_name_is_answered_on_the_spot() -> Result<()> {
    let ground = Ground::new(&[FILES], &[RESOLVERS])?;
    for client in Client::ALL {
        for family in [Some(Family::V4), None] {
            let target = Target::new("refused.test", 443, family);
            // What else runs on the machine only adds to it.
            let mut least = Duration::MAX;
            for _ in 0..TRIES {
                let lookup = ground.lookup(client, &target, Resolver::Unbound.address(Family::V4))?;
                ensure!(lookup.addresses.is_empty() && lookup.error.is_some(), "{client:?}: {lookup:?}");
                least = least.min(lookup.resolving);
            }
            println!("{client:?} {family:?}: {least:?}");
            ensure!(least < limit(client), "{client:?}: {least:?}");
        }
    }
    ground.assert_never_asked("refused.test")?;
    let counted = ground.violations()?;
    ensure!(counted.keys().eq(["dns_name"]), "{counted:?}");
    Ok(())
}

#[test]
fn a_refused_type_does_not_stop_the_allowed_one() -> Result<()> {
    let dns = "dns: {resolvers: [10.77.2.0/24, \"fd77:2::/64\"], types: [A]}";
    let ground = Ground::new(&[FILES], &[dns])?;
    for client in Client::CONNECTING {
        let target = Target::new("files.index.test", 443, None);
        let lookup = ground.lookup(client, &target, Resolver::Dnsmasq.address(Family::V6))?;
        ensure!(lookup.addresses == [zone::served(Family::V4, 1)], "{client:?}: {lookup:?}");
        ensure!(lookup.connected(), "{client:?}: {lookup:?}");
        // One answer comes from the resolver, and the other must not cost more than that one.
        ensure!(lookup.resolving < STARTED, "{client:?}: {lookup:?}");
    }
    let counted = ground.violations()?;
    ensure!(counted.keys().eq(["dns_type"]), "{counted:?}");
    Ok(())
}

#[test]
fn another_resolver_is_refused() -> Result<()> {
    let ground = Ground::new(&[FILES], &["dns: {resolvers: [10.77.2.2/32]}"])?;
    let mut insider = ground.insider()?;
    let other = Resolver::Dnsmasq.place(Family::V4);
    let refused = insider.ask(other, 7, "files.index.test", RecordType::A);
    ensure!(refused.is_err_and(|error| error.to_string().contains("EPERM")));
    ground.assert_never_asked("files.index.test")?;
    ground.assert_counted(&[("dns_server", 1)])
}
