//! The ground itself: under a policy of addresses alone, it refuses, counts and lets through as it should.

use anyhow::{Result, ensure};
use egress_warden_tests::dns::{Client, Family, Resolver, Target, zone};

use crate::ground::Ground;

#[test]
fn by_address_it_refuses_counts_and_lets_through() -> Result<()> {
    let resolver = "cidrs: [10.77.2.2/32], ports: [53/udp]";
    let mut ground = Ground::new(&["cidrs: [11.77.1.1/32], ports: [443]", resolver], &[])?;
    let target = Target::new("files.index.test", 443, Some(Family::V4));
    let lookup = ground.lookup(Client::Glibc, &target, Resolver::Unbound.address(Family::V4))?;
    ensure!(lookup.connected(), "{lookup:?}");
    ensure!(ground.times_asked("files.index.test")? == 1);
    let mut insider = ground.insider()?;
    ground.assert_refused(&mut insider, (zone::served(Family::V4, 6), 443).into())?;
    ground.assert_counted(&[("not_allowlisted", 1)])?;
    ground.reload(&["cidrs: [11.77.1.6/32], ports: [443]", resolver])?;
    ensure!(insider.connect((zone::served(Family::V4, 6), 443).into())? == "ok");
    ground.restart_agent()?;
    ensure!(insider.connect((zone::served(Family::V4, 6), 443).into())? == "ok");
    ensure!(insider.connect((zone::served(Family::V4, 1), 443).into())? == "EPERM");
    Ok(())
}
