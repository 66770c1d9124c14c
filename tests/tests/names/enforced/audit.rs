//! Audit: everything passes, and everything is counted.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use egress_warden_tests::agent_binary;
use egress_warden_tests::dns::{Client, Family, Lab, Lookup, Resolver, Surroundings, Target, zone};
use egress_warden_tests::job::Allowlists;
use serde_json::Value;

use crate::ground::{FILES, Ground, RESOLVERS};

#[test]
fn names_pass_and_are_counted() -> Result<()> {
    let ground = Ground::new(&[FILES], &["mode: audit", RESOLVERS])?;
    for client in Client::CONNECTING {
        for name in ["files.index.test", "refused.test"] {
            let target = Target::new(name, 443, Some(Family::V4));
            let lookup = ground.lookup(client, &target, Resolver::Dnsmasq.address(Family::V4))?;
            ensure!(lookup.connected(), "{client:?} {name}: {lookup:?}");
        }
    }
    let counted = ground.violations()?;
    ensure!(counted.contains_key("dns_name") && counted.contains_key("not_allowlisted"), "{counted:?}");
    Ok(())
}

fn connects(ground: &Ground, name: &str) -> Result<()> {
    let target = Target::new(name, 443, Some(Family::V4));
    let lookup = ground.lookup(Client::Glibc, &target, Resolver::Unbound.address(Family::V4))?;
    ensure!(lookup.connected(), "{name}: {lookup:?}");
    Ok(())
}

/// What audit remembers of names that are not allowed takes nothing from one that is, at the one address that all have.
#[test]
fn names_that_are_only_remembered_give_way_to_one_that_opens() -> Result<()> {
    let ground = Ground::new(&["domains: [own.wild.test], ports: [443]"], &["mode: audit", RESOLVERS])?;
    let others = |from: u32| (from..from + 5).try_for_each(|n| connects(&ground, &format!("n{n}.wild.test")));
    others(0)?;
    ground.assert_counted(&[("dns_name", 5), ("not_allowlisted", 5)])?;
    connects(&ground, "own.wild.test")?;
    others(5)?;
    ground.assert_counted(&[("dns_name", 10), ("not_allowlisted", 5)])?;
    ground.agent.wait_metric("dns_grants", &[], 1.0)
}

/// The same where all places are taken by names that open something, under a ruleset from before.
#[test]
fn a_name_that_is_only_remembered_takes_no_place_from_an_older_one() -> Result<()> {
    let entries: Vec<String> =
        (0..4).map(|n| format!("domains: [n{n}.wild.test], ports: [443, {}]", 8000 + n)).collect();
    let mut entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    let mut ground = Ground::new(&entries, &["mode: audit", RESOLVERS])?;
    (0..4).try_for_each(|n| connects(&ground, &format!("n{n}.wild.test")))?;
    // Of the four only the first opens the port from now on, by what was learnt before.
    entries[1..].copy_from_slice(&["domains: [n1.wild.test], ports: [81]"; 3]);
    ground.reload(&entries)?;
    connects(&ground, "other.wild.test")?;
    ground.assert_counted(&[("dns_name", 1)])
}

/// What audit learnt of a name that is not allowed opens nothing, and is not told as open: under a policy that allows the name it
/// has to be asked for again.
#[test]
fn what_is_only_remembered_opens_nothing() -> Result<()> {
    let mut ground = Ground::new(&["cidrs: [192.0.2.1/32], ports: [443]"], &["mode: audit", RESOLVERS])?;
    connects(&ground, "files.index.test")?;
    let open =
        |ground: &Ground| -> Result<Value> { Ok(ground.agent.status()?["workloads"][0]["grants"].clone()) };
    ensure!(open(&ground)? == serde_json::json!([]), "{}", open(&ground)?);
    ground.assert_counted(&[("dns_name", 1), ("not_allowlisted", 1)])?;
    ground.reload(&[FILES])?;
    ensure!(open(&ground)? == serde_json::json!([]), "{}", open(&ground)?);
    let (mut insider, place) = (ground.insider()?, (zone::served(Family::V4, 1), 443).into());
    ensure!(insider.connect(place)? == "ok");
    ground.assert_counted(&[("dns_name", 1), ("not_allowlisted", 2)])?;
    connects(&ground, "files.index.test")?;
    ensure!(insider.connect(place)? == "ok");
    ground.assert_counted(&[("dns_name", 1), ("not_allowlisted", 2)])?;
    let told = open(&ground)?;
    ensure!(told.as_array().is_some_and(|told| told.len() == 1), "{told}");
    ensure!(told[0]["name"] == "files.index.test", "{told}");
    Ok(())
}

fn warden(arguments: &[&str]) -> Result<Output> {
    let output = Command::new(agent_binary()?).args(arguments).output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

/// Looks a name up and connects, under `exec`.
fn lookup(lab: &Lab, lists: &Path, options: &[&str], name: &str) -> Result<Lookup> {
    let resolver = Resolver::Unbound.address(Family::V4);
    let around = Surroundings::new(&[resolver], &[], &[])?;
    // Not the port that is guessed where none was seen.
    let target = Target::new(name, 80, Some(Family::V4));
    lab.lookup_by(Client::Glibc, &target, resolver, &around, |client| {
        let mut exec = lab.job().command(agent_binary()?);
        exec.arg("exec").arg("--allowlists").arg(lists).args(options).arg("--");
        exec.arg(client.get_program()).args(client.get_args());
        around.surround(&mut exec)?;
        exec.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(exec.spawn()?)
    })
}

/// Audit, suggest, enforce: by names, with the ports that were tried under them.
#[test]
fn an_audit_run_becomes_an_allowlist_by_names() -> Result<()> {
    let lab = Lab::new()?;
    // The second may be asked for already, and leads to where answers may not point.
    let lists = Allowlists::new(
        &["domains: [private.corp.test], ports: [80]"],
        &["dns: {resolvers: [10.77.2.0/24]}"],
    )?;
    let (records, draft) = (lists.scratch("events"), lists.scratch("draft.yaml"));
    let file = records.display().to_string();
    let audit = ["--policy", "job", "--mode", "audit", "--events", &file];
    let (mut suggested, names) = (Vec::new(), ["files.index.test", "private.corp.test"]);
    for name in names {
        let found = lookup(&lab, &lists.path(), &audit, name)?;
        ensure!(found.connected(), "{name}: {found:?}");
        let text = fs::read_to_string(&records)?;
        let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let reached = lines.iter().find(|line| line["port"] == 80).context("no record of the connection")?;
        ensure!(reached["name"] == name && reached["reason"] == "not_allowlisted", "{text}");
        suggested.extend(fs::read(&records)?);
    }
    fs::write(&records, suggested)?;
    let text = String::from_utf8(warden(&["suggest", "from-events", &file])?.stdout)?;
    let entry = |name: &str, more: &str| format!("    - domains: [{name}]\n{more}      ports: [80]\n");
    ensure!(text.contains(&entry("files.index.test", "")), "{text}");
    ensure!(text.contains(&entry("private.corp.test", "      resolvesTo: [10.99.1.1/32]\n")), "{text}");
    ensure!(!text.contains("cidrs:") && !text.contains("port not seen"), "{text}");
    fs::write(&draft, text)?;
    warden(&["check", &draft.display().to_string()])?;
    let enforce = ["--policy", "suggested", "--mode", "enforce"];
    for name in names {
        let found = lookup(&lab, &draft, &enforce, name)?;
        ensure!(found.connected(), "{name}: {found:?}");
    }
    let beside = lookup(&lab, &draft, &enforce, "other.index.test")?;
    ensure!(!beside.connected() && beside.error.is_some(), "{beside:?}");
    Ok(())
}
