//! How long what an answer opened stays open.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Result, ensure};
use egress_warden_tests::dns::{Client, Family, Insider, Resolver, Target, zone};
use egress_warden_tests::wait::{DEADLINE, until};

use crate::ground::{FILES, Ground, RESOLVERS};

const OTHER: &str = "domains: [other.index.test], ports: [443]";
/// Shorter than what the zone says of `files.index.test`, and longer than what it says of `short.index.test`.
const CLAMPED: &str = "dns: {resolvers: [10.77.2.0/24, \"fd77:2::/64\"], ttl: {min: 2s, max: 3s}}";

/// Resolves and connects as an application does.
fn open(ground: &Ground, name: &str, family: Family) -> Result<()> {
    let target = Target::new(name, 443, Some(family));
    let lookup = ground.lookup(Client::Glibc, &target, Resolver::Unbound.address(Family::V4))?;
    ensure!(lookup.connected(), "{name}: {lookup:?}");
    Ok(())
}

fn place(family: Family, number: u16) -> SocketAddr {
    (zone::served(family, number), 443).into()
}

/// A connection to the n-th address that is older than the end of the grant by which it began.
fn outlived(ground: &Ground, family: Family, number: u16) -> Result<Insider> {
    let (mut holder, mut other) = (ground.insider()?, ground.insider()?);
    ensure!(holder.open(place(family, number))? == "ok" && holder.echo()? == "ok");
    until("the grant to end", DEADLINE, || {
        other.connect(place(family, number)).is_ok_and(|said| said == "EPERM").then_some(())
    })?;
    Ok(holder)
}

#[test]
fn a_grant_ends_when_its_time_has_run_out() -> Result<()> {
    let names = "domains: [files.index.test, short.index.test], ports: [443]";
    let ground = Ground::new(&[names], &[CLAMPED])?;
    let mut insider = ground.insider()?;
    // Five minutes are cut down to three seconds, and one second is raised to two.
    for (name, number, seconds) in [("files.index.test", 1, 3.0), ("short.index.test", 7, 2.0)] {
        for family in Family::ALL {
            let before = Instant::now();
            open(&ground, name, family)?;
            let granted = Instant::now();
            let mut last_open = before;
            until(&format!("the grant of {name} to end"), DEADLINE, || {
                let tried = Instant::now();
                match insider.connect(place(family, number)).as_deref() {
                    Ok("ok") => last_open = tried,
                    _ => return Some(()),
                }
                None
            })?;
            // Between the start of the lookup and its end lies the answer.
            ensure!(before.elapsed().as_secs_f64() >= seconds, "{name} ended early");
            ensure!((last_open - granted).as_secs_f64() <= seconds, "{name} ended late");
        }
    }
    Ok(())
}

#[test]
fn what_is_denied_is_no_names_to_open() -> Result<()> {
    let ground = Ground::new(&[FILES], &["deny: [11.77.1.1/32]", RESOLVERS])?;
    let target = Target::new("files.index.test", 443, Some(Family::V4));
    let lookup = ground.lookup(Client::Glibc, &target, Resolver::Unbound.address(Family::V4))?;
    ensure!(lookup.connect.as_deref() == Some("EPERM"), "{lookup:?}");
    open(&ground, "files.index.test", Family::V6)?;
    ground.assert_counted(&[("denied", 1)])
}

#[test]
fn a_connection_outlives_its_grant() -> Result<()> {
    let ground = Ground::new(&[FILES], &[CLAMPED])?;
    for family in Family::ALL {
        open(&ground, "files.index.test", family)?;
        let mut holder = outlived(&ground, family, 1)?;
        ensure!(holder.echo()? == "ok", "the connection ended with its grant");
    }
    Ok(())
}

#[test]
fn a_connection_that_outlived_its_grant_outlives_a_reload() -> Result<()> {
    let mut ground = Ground::new(&[FILES], &[CLAMPED])?;
    for family in Family::ALL {
        open(&ground, "files.index.test", family)?;
        let mut holder = outlived(&ground, family, 1)?;
        // The name stays allowed, and something else comes or goes.
        ground.reload(if family == Family::V4 { &[FILES, OTHER] } else { &[FILES] })?;
        ensure!(holder.echo()? == "ok", "{family:?}: the connection ended with a reload");
    }
    Ok(())
}

#[test]
fn more_names_than_places_at_one_address() -> Result<()> {
    let wild = "domains: [\"*.wild.test\"], ports: [443]";
    let mut ground = Ground::new(&[wild], &[RESOLVERS])?;
    for number in 0..6 {
        open(&ground, &format!("before{number}.wild.test"), Family::V4)?;
    }
    ground.reload(&[wild, OTHER])?;
    for number in 0..6 {
        open(&ground, &format!("after{number}.wild.test"), Family::V4)?;
    }
    ground.assert_counted(&[])
}

/// Two names of one address, with different rights: the later one takes no place from a connection of the first.
#[test]
fn a_connection_keeps_its_name_when_another_leads_to_its_address() -> Result<()> {
    let names = ["domains: [a.wild.test], ports: [443]", "domains: [b.wild.test], ports: [80, 443]"];
    let mut ground = Ground::new(&names, &[CLAMPED])?;
    open(&ground, "a.wild.test", Family::V4)?;
    let mut holder = outlived(&ground, Family::V4, 4)?;
    open(&ground, "b.wild.test", Family::V4)?;
    // The second name is gone, the first is still allowed.
    ground.reload(&[names[0], OTHER])?;
    ensure!(holder.echo()? == "ok", "the connection ended with another name's reload");
    Ok(())
}

#[test]
fn a_reload_stops_the_grants_of_a_removed_name_at_once_and_no_others() -> Result<()> {
    let mut ground = Ground::new(&[FILES, OTHER], &[RESOLVERS])?;
    for family in Family::ALL {
        open(&ground, "files.index.test", family)?;
        open(&ground, "other.index.test", family)?;
    }
    ground.reload(&[OTHER])?;
    let mut insider = ground.insider()?;
    for family in Family::ALL {
        ensure!(insider.connect(place(family, 1))? == "EPERM", "{family:?}: the removed name is open");
        ensure!(insider.connect(place(family, 6))? == "ok", "{family:?}: the kept name is closed");
    }
    // What comes back is open only after it has been asked for again.
    ground.reload(&[FILES, OTHER])?;
    ensure!(insider.connect(place(Family::V6, 6))? == "ok");
    open(&ground, "files.index.test", Family::V4)
}

#[test]
fn grants_outlive_the_agent() -> Result<()> {
    let mut ground = Ground::new(&[FILES], &[RESOLVERS])?;
    let mut insider = ground.insider()?;
    for family in Family::ALL {
        open(&ground, "files.index.test", family)?;
    }
    ground.agent.kill()?;
    // Without an agent: what was learnt goes on, and more can be learnt.
    ensure!(insider.connect(place(Family::V4, 1))? == "ok");
    open(&ground, "files.index.test", Family::V6)?;
    ground.agent.start_within(ground.lab.world().router())?;
    ground.agent.wait_enforced("job")?;
    for family in Family::ALL {
        ensure!(insider.connect(place(family, 1))? == "ok", "{family:?} after the restart");
    }
    ground.restart_agent()?;
    ensure!(insider.connect(place(Family::V4, 1))? == "ok");
    ground.assert_counted(&[])
}

#[test]
fn status_tells_of_a_grant_and_its_age() -> Result<()> {
    let ground = Ground::new(&[FILES], &[RESOLVERS])?;
    open(&ground, "files.index.test", Family::V4)?;
    let expected = zone::served(Family::V4, 1).to_string();
    until("the grant in `status`", DEADLINE, || {
        let status = ground.agent.status().ok()?;
        status["workloads"][0].to_string().contains(&expected).then_some(())
    })?;
    ground.agent.wait_metric("dns_grants", &[], 1.0)?;
    Ok(())
}
