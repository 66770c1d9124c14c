//! A search list under a policy that allows the absolute name only: its expansions are told apart from an attempt on
//! somebody else's name.

use std::time::Duration;

use anyhow::{Result, ensure};
use egress_warden_tests::dns::{Client, Family, Resolver, SEARCH, Surroundings, Target};

use crate::ground::{FILES, Ground, RESOLVERS};

#[test]
fn every_client_gets_past_its_search_list() -> Result<()> {
    let ground = Ground::new(&[FILES], &[RESOLVERS])?;
    let resolver = Resolver::Unbound.address(Family::V4);
    let pod = Surroundings::of_a_pod(&[resolver])?;
    for client in Client::CONNECTING {
        let target = Target::new("files.index.test", 443, None);
        let lookup = ground.lookup_with(client, &target, resolver, &pod)?;
        ensure!(lookup.connected(), "{client:?}: {lookup:?}");
        ensure!(lookup.resolving < Duration::from_millis(500), "{client:?}: {lookup:?}");
    }
    for suffix in SEARCH {
        ground.assert_never_asked(&format!("files.index.test.{suffix}"))?;
    }
    Ok(())
}

#[test]
fn a_declared_suffix_is_asked_for() -> Result<()> {
    let dns = "dns: {resolvers: [10.77.2.0/24], search: [corp.test]}";
    let ground = Ground::new(&[FILES], &[dns])?;
    let resolver = Resolver::Unbound.address(Family::V4);
    let surroundings = Surroundings::new(&[resolver], &["corp.test"], &["ndots:5"])?;
    let target = Target::new("files.index.test", 443, Some(Family::V4));
    let lookup = ground.lookup_with(Client::Glibc, &target, resolver, &surroundings)?;
    ensure!(lookup.connected(), "{lookup:?}");
    ensure!(ground.times_asked("files.index.test.corp.test")? == 1);
    ground.assert_counted(&[])
}
