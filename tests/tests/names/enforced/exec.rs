//! `exec` in the caller's namespace, where there is no backstop: a refused question fails as a send does.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use egress_warden_tests::dns::{Client, Family, Lab, Lookup, Resolver, Surroundings, Target};
use egress_warden_tests::job::Allowlists;

use crate::ground::{FILES, RESOLVERS};

/// Runs a client under `exec`.
fn lookup(
    lab: &Lab,
    lists: &Allowlists,
    client: Client,
    target: &Target,
    around: &Surroundings,
) -> Result<Lookup> {
    let resolver = Resolver::Unbound.address(Family::V4);
    lab.lookup_by(client, target, resolver, around, |client| {
        let mut exec = lists.exec(lab.job(), &[])?;
        exec.arg(client.get_program()).args(client.get_args());
        around.surround(&mut exec)?;
        exec.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Command::spawn(&mut exec)?)
    })
}

#[test]
fn an_allowed_name_is_reached_at_the_first_try() -> Result<()> {
    let (lab, lists) = (Lab::new()?, Allowlists::new(&[FILES], &[RESOLVERS])?);
    let around = Surroundings::new(&[Resolver::Unbound.address(Family::V4)], &[], &[])?;
    for client in Client::CONNECTING {
        for family in [Some(Family::V4), Some(Family::V6), None] {
            let target = Target::new("files.index.test", 443, family);
            let lookup = lookup(&lab, &lists, client, &target, &around)?;
            ensure!(lookup.connected(), "{client:?}: {lookup:?}");
        }
    }
    Ok(())
}

/// What docs/names.md says of each library.
const REFUSED_NAME: [(Client, &str, Duration); 5] = [
    (Client::Glibc, "EAI_AGAIN", Duration::from_millis(500)),
    (Client::Musl, "EAI_AGAIN", Duration::from_secs(6)),
    (Client::Java, "EPERM", Duration::from_millis(500)),
    (Client::Python, "EAI_AGAIN", Duration::from_millis(500)),
    (Client::Go, "operation not permitted", Duration::from_millis(500)),
];

#[test]
fn a_refused_name_costs_what_the_documentation_says() -> Result<()> {
    let (lab, lists) = (Lab::new()?, Allowlists::new(&[FILES], &[RESOLVERS])?);
    let around = Surroundings::new(&[Resolver::Unbound.address(Family::V4)], &[], &[])?;
    for (client, error, limit) in REFUSED_NAME {
        let target = Target::new("refused.test", 443, Some(Family::V4));
        let lookup = lookup(&lab, &lists, client, &target, &around)?;
        println!("{client:?}: {:?} in {:?}", lookup.error, lookup.resolving);
        ensure!(lookup.error.as_ref().is_some_and(|told| told.ends_with(error)), "{client:?}: {lookup:?}");
        ensure!(lookup.resolving < limit, "{client:?}: {lookup:?}");
    }
    Ok(())
}

/// What becomes of a search list that the policy does not declare: whether the name is found, and what it costs.
const UNDECLARED: [(Client, bool, Duration); 5] = [
    (Client::Glibc, false, Duration::from_millis(500)),
    (Client::Musl, false, Duration::from_secs(6)),
    (Client::Go, true, Duration::from_millis(500)),
    (Client::Python, false, Duration::from_millis(500)),
    (Client::Curl, false, Duration::from_millis(500)),
];

#[test]
fn an_undeclared_search_list_costs_what_the_documentation_says() -> Result<()> {
    let around = Surroundings::new(&[Resolver::Unbound.address(Family::V4)], &["corp.test"], &["ndots:5"])?;
    let (lab, lists) = (Lab::new()?, Allowlists::new(&[FILES], &[RESOLVERS])?);
    let target = Target::new("files.index.test", 443, Some(Family::V4));
    for (client, found, limit) in UNDECLARED {
        let lookup = lookup(&lab, &lists, client, &target, &around)?;
        ensure!(lookup.connected() == found && lookup.error.is_none() == found, "{client:?}: {lookup:?}");
        ensure!(lookup.resolving < limit, "{client:?}: {lookup:?}");
    }
    Ok(())
}

#[test]
fn a_declared_search_list_is_needed_and_enough() -> Result<()> {
    let around = Surroundings::new(&[Resolver::Unbound.address(Family::V4)], &["corp.test"], &["ndots:5"])?;
    let lab = Lab::new()?;
    let target = Target::new("files.index.test", 443, Some(Family::V4));
    let bare = Allowlists::new(&[FILES], &[RESOLVERS])?;
    let stopped = lookup(&lab, &bare, Client::Glibc, &target, &around)?;
    ensure!(stopped.error.as_deref() == Some("EAI_AGAIN"), "{stopped:?}");
    let declared = Allowlists::new(&[FILES], &["dns: {resolvers: [10.77.2.0/24], search: [corp.test]}"])?;
    for client in [Client::Glibc, Client::Musl, Client::Go] {
        let lookup = lookup(&lab, &declared, client, &target, &around)?;
        ensure!(lookup.connected(), "{client:?}: {lookup:?}");
    }
    Ok(())
}
