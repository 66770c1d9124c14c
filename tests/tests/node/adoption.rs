//! What a later agent finds, and what it repairs.

use std::fs;

use anyhow::{Context, Result};
use egress_warden::kernel::node::{self, NodeError};
use egress_warden::ruleset;
use egress_warden_tests::TestCgroup;

use crate::support::{Bpffs, PORTS, Scene, children, enforce, opens, programs_on};

#[test]
fn a_second_agent_is_refused() -> Result<()> {
    let bpffs = Bpffs::new()?;
    let (node, _) = bpffs.open()?;
    let error = bpffs.open().err().context("it opened")?;
    assert!(error.to_string().starts_with("another agent is running"), "{error}");
    assert!(matches!(node::detach(bpffs.path(), "egress-warden", true), Err(NodeError::AnotherAgent(_))));
    drop(node);
    bpffs.open()?;
    Ok(())
}

#[test]
fn pins_of_another_version_are_refused() -> Result<()> {
    let bpffs = Bpffs::new()?;
    drop(bpffs.open()?);
    fs::create_dir(bpffs.path().join("egress-warden/v999"))?;
    let error = bpffs.open().err().context("it opened")?.to_string();
    assert!(error.contains("version 999") && error.contains("detach --all"), "{error}");
    assert_eq!(node::detach(bpffs.path(), "egress-warden", true)?, 0);
    assert!(!bpffs.path().join("egress-warden").exists());
    bpffs.open()?;
    Ok(())
}

#[test]
fn enforcement_and_counters_outlive_the_agent() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let words = opens(PORTS[0])?;
    let (mut node, adopted) = bpffs.open()?;
    assert!(adopted.is_empty());
    scene.enforce(&mut node, &words)?;
    assert!(scene.attempt(PORTS[0])?.is_ok());
    assert!(scene.attempt(PORTS[1])?.is_refused());
    let generation = node.generation(scene.id()?)?;
    drop(node);

    assert!(scene.attempt(PORTS[0])?.is_ok());
    assert!(scene.attempt(PORTS[1])?.is_refused());
    assert_eq!(scene.served(), 2);

    let (mut node, adopted) = bpffs.open()?;
    assert_eq!(adopted.len(), 1);
    let [found] = adopted[..] else { unreachable!("one was counted") };
    assert_eq!((found.cgroup, found.quarantined_at), (scene.id()?, 0));
    assert_eq!((found.hash, found.namespace_known), (ruleset::hash(&words), true));
    assert_eq!(node.state(scene.id()?)?.violations, 2);
    assert_eq!(node.words_of(scene.id()?)?, words);
    assert!(scene.attempt(PORTS[1])?.is_refused());
    assert_eq!(node.state(scene.id()?)?.violations, 3);
    let mut records = Vec::new();
    node.drain_records(|cgroup, record| records.push((cgroup, record.record.port)));
    assert_eq!(records, [(Some(scene.id()?), PORTS[1]); 3]);
    assert_eq!(node.refused()?.iter().map(|(_, _, count)| count).sum::<u64>(), 3);

    assert!(!node.swap(scene.id()?, &words)?, "it has it already");
    assert!(node.swap(scene.id()?, &opens(PORTS[1])?)?);
    assert!(node.generation(scene.id()?)? > generation);
    assert!(scene.attempt(PORTS[1])?.is_ok());
    Ok(())
}

#[test]
fn quarantine_outlives_the_agent_and_ends_when_it_is_forgiven() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    scene.enforce(&mut node, &opens(PORTS[0])?)?;
    assert!(node.quarantine(scene.id()?)?);
    assert!(!node.quarantine(scene.id()?)?, "it is in one");
    assert_eq!(node.state(scene.id()?)?.quarantine_rule, node::BY_HAND);
    assert!(scene.attempt(PORTS[0])?.is_refused());
    drop(node);

    let (mut node, adopted) = bpffs.open()?;
    assert!(adopted[0].quarantined_at != 0);
    node.forgive(scene.id()?)?;
    let state = node.state(scene.id()?)?;
    assert_eq!((state.quarantined_at, state.forgiven), (0, state.violations));
    assert!(scene.attempt(PORTS[0])?.is_ok());
    Ok(())
}

#[test]
fn what_is_half_made_is_finished() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    scene.enforce(&mut node, &opens(PORTS[0])?)?;
    let before = programs_on(scene.cgroup.path())?;
    drop(node);
    let links = bpffs.pins().join(format!("links/{}", scene.id()?));
    for lost in ["egress", "connect4", "sendmsg6"] {
        fs::remove_file(links.join(lost))?;
    }
    // Ends like a killed agent's: nobody pinned the programs.
    fs::remove_file(bpffs.pins().join("programs/egress"))?;

    let (node, adopted) = bpffs.open()?;
    assert_eq!(adopted.len(), 1);
    assert_eq!(fs::read_dir(&links)?.count(), 9);
    assert_eq!(programs_on(scene.cgroup.path())?.len(), before.len());
    assert!(scene.attempt(PORTS[0])?.is_ok());
    assert!(scene.attempt(PORTS[1])?.is_refused());
    assert_eq!(node.state(scene.id()?)?.violations, 1);
    Ok(())
}

#[test]
fn cgroups_that_went_without_an_agent_leave_nothing() -> Result<()> {
    let (bpffs, parent) = (Bpffs::new()?, TestCgroup::new()?);
    let words = opens(PORTS[0])?;
    let (mut node, _) = bpffs.open()?;
    let cgroups = children(&parent, 3)?;
    for cgroup in &cgroups {
        enforce(&mut node, cgroup, &words)?;
    }
    drop(node);
    fs::remove_dir(&cgroups[0])?;
    fs::remove_dir(&cgroups[2])?;
    // A directory without a workload: an agent that was killed while it took one back.
    fs::create_dir(bpffs.pins().join("links/12345678"))?;
    let (node, adopted) = bpffs.open()?;
    assert_eq!(adopted.len(), 1);
    assert!(!adopted[0].namespace_known);
    assert_eq!(bpffs.links()?, 9);
    let entries = |name: &str| -> Result<u64> {
        Ok(node.usage()?.iter().find(|usage| usage.0 == name).context("no such map")?.1)
    };
    assert_eq!((entries("workloads")?, entries("words")?), (1, words.len() as u64));
    Ok(())
}

#[test]
fn cgroups_that_are_made_and_removed_are_told() -> Result<()> {
    use egress_warden_common::state::{CGROUP_MADE, CGROUP_REMOVED};
    let (bpffs, parent) = (Bpffs::new()?, TestCgroup::new()?);
    let (mut node, _) = bpffs.open()?;
    node.watch_fd().context("this kernel tells")?;
    let [cgroup] = &children(&parent, 1)?[..] else { unreachable!("one was made") };
    fs::remove_dir(cgroup)?;
    let mut kinds = Vec::new();
    let path = format!("{}/workload-0", parent.path().file_name().context("a name")?.display());
    node.drain_cgroup_events(|event| {
        let told = String::from_utf8_lossy(&event.path[..event.length as usize]).into_owned();
        kinds.extend((told == format!("/{path}")).then_some(event.kind));
    });
    assert_eq!((kinds, node.cgroup_events_lost()), (vec![CGROUP_MADE, CGROUP_REMOVED], 0));
    Ok(())
}
