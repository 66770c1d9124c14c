//! No first connect is lost, whatever the load: grants are written before the application can read the answer.

use anyhow::{Result, ensure};
use egress_warden_tests::dns::{Client, Family};
use egress_warden_tests::spawn_in;

use crate::ground::Ground;
use crate::load::{how_many, rounds};

#[test]
fn no_first_connect_is_lost() -> Result<()> {
    // Grants end soon, so that a workload's quota is not what this measures.
    let dns = "dns: {resolvers: [10.77.2.0/24, \"fd77:2::/64\"], ttl: {min: 1s, max: 1s}}";
    let names = "domains: [\"*.load4.test\", \"*.load6.test\"], ports: [80]";
    let ground = Ground::new(&[names], &[dns])?;
    let count = how_many()?;
    for (client, family) in [(Client::Glibc, Family::V4), (Client::Musl, Family::V6)] {
        let spawn = |command| spawn_in(ground.cgroup(), command);
        let before = ground.lab.web().accepted();
        let (unresolved, lost) = rounds(&ground.lab, client, family, count, spawn)?;
        ensure!((unresolved, lost) == (0, 0), "{client:?}: {unresolved} not resolved, {lost} lost");
        ground.lab.web().wait_accepted(before + count as usize)?;
    }
    ground.assert_counted(&[])?;
    // Every round connected, or it would have ended above.
    println!("soak: rounds = {}", 2 * count);
    Ok(())
}
