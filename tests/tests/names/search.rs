//! `ndots:5` and a search list, as every pod has them: four names are asked for that nobody has, then the one that is
//! meant.

use anyhow::{Result, ensure};
use egress_warden_tests::dns::{Client, Family, Lab, Resolver, SEARCH, Surroundings, Target, asks_for, zone};

#[test]
fn the_expansions_are_asked_for_and_then_the_name() -> Result<()> {
    let lab = Lab::new()?;
    let resolver = Resolver::Dnsmasq.address(Family::V4);
    let pod = Surroundings::of_a_pod(&[resolver])?;
    for client in Client::CONNECTING {
        let seen = lab.watch_resolvers()?;
        let target = Target::new("files.index.test", 443, None);
        let spawn = |mut command: std::process::Command| Ok(command.spawn()?);
        let lookup = lab.lookup_by(client, &target, resolver, &pod, spawn)?;
        ensure!(
            lookup.connected() && lookup.addresses.contains(&zone::served(Family::V4, 1)) || {
                // curl tells of the one that it took.
                client == Client::Curl && lookup.addresses == [zone::served(Family::V6, 1)]
            },
            "{client:?}: {lookup:?}"
        );
        seen.settle(lab.job(), lab.world().host("resolver").at(9))?;
        for suffix in SEARCH {
            let asked = seen.count(|frame| asks_for(frame, &format!("files.index.test.{suffix}")));
            ensure!((asked > 0) == client.searches(), "{client:?} asked {asked} times below {suffix}");
        }
    }
    Ok(())
}
