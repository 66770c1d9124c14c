//! What is left when enforcement ends: nothing.

use std::fs;

use anyhow::{Context, Result};
use egress_warden::kernel::node::{self, Node};
use egress_warden_tests::TestCgroup;

use crate::support::{Bpffs, PORTS, Scene, children, enforce, opens, programs_on};

fn descriptors() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

fn entries(node: &Node) -> Result<Vec<(&'static str, u64)>> {
    let usage = node.usage()?;
    Ok(usage.iter().filter(|usage| usage.0 != "records").map(|usage| (usage.0, usage.1)).collect())
}

#[test]
fn a_released_workload_is_free_and_leaves_nothing() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    let (before, empty) = (descriptors()?, entries(&node)?);
    scene.enforce(&mut node, &opens(PORTS[0])?)?;
    assert_eq!(descriptors()?, before, "a link is held by its pin");
    assert!(scene.attempt(PORTS[1])?.is_refused());
    assert_eq!(programs_on(scene.cgroup.path())?.len(), 9);
    assert_ne!(entries(&node)?, empty);
    node.release(scene.id()?)?;
    assert!(scene.attempt(PORTS[1])?.is_ok());
    assert!(programs_on(scene.cgroup.path())?.is_empty());
    assert_eq!((entries(&node)?, bpffs.links()?, descriptors()?), (empty, 0, before));
    assert!(node.state(scene.id()?).is_err());
    Ok(())
}

#[test]
fn whoever_gets_a_slot_again_begins_at_zero() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let mut options = bpffs.options();
    options.sizes.workloads = 1;
    let (mut node, _) = Node::open(&options)?;
    scene.enforce(&mut node, &opens(PORTS[0])?)?;
    // A socket that remembers the slot, and a verdict under its first workload.
    let mut sender = scene.datagrams(PORTS[0])?;
    assert_eq!(sender.send()?, 0);
    assert!(scene.attempt(PORTS[1])?.is_refused());
    let generation = node.generation(scene.id()?)?;
    node.release(scene.id()?)?;

    let other = TestCgroup::new()?;
    let id = enforce(&mut node, other.path(), &opens(PORTS[1])?)?;
    assert_eq!(node.words_of(id)?, opens(PORTS[1])?);
    let state = node.state(id)?;
    assert_eq!((state.violations, state.counts.iter().flatten().sum::<u64>()), (0, 0));
    assert!(node.refused()?.is_empty());
    assert!(node.generation(id)? > generation);
    assert_eq!(sender.send()?, 0, "its cgroup is not enforced any more");
    assert_eq!(node.state(id)?.violations, 0);
    Ok(())
}

#[test]
fn a_thousand_workloads_come_and_go() -> Result<()> {
    let (bpffs, parent) = (Bpffs::new()?, TestCgroup::new()?);
    let (mut node, _) = bpffs.open()?;
    let rulesets = [opens(80)?, opens(81)?, opens(82)?];
    let (before, empty) = (descriptors()?, entries(&node)?);
    for round in 0..20 {
        let cgroups = children(&parent, 50)?;
        for (number, cgroup) in cgroups.iter().enumerate() {
            let id = enforce(&mut node, cgroup, &rulesets[(number + round) % 3])?;
            // Half of them are gone before the agent hears of it.
            if number % 2 == 0 {
                node.release(id)?;
                assert!(programs_on(cgroup)?.is_empty());
                fs::remove_dir(cgroup)?;
            } else {
                fs::remove_dir(cgroup)?;
                node.release(id)?;
            }
        }
    }
    assert_eq!((entries(&node)?, bpffs.links()?, descriptors()?), (empty, 0, before));
    Ok(())
}

#[test]
fn detach_takes_everything_out_with_and_without_an_agent() -> Result<()> {
    let (bpffs, parent) = (Bpffs::new()?, TestCgroup::new()?);
    let cgroups = children(&parent, 4)?;
    let words = opens(80)?;
    assert_eq!(node::detach(bpffs.path(), "egress-warden", false)?, 0, "nothing is mounted");
    for with_agent in [true, false] {
        let (mut node, adopted) = bpffs.open()?;
        assert!(adopted.is_empty());
        for cgroup in &cgroups {
            enforce(&mut node, cgroup, &words)?;
        }
        let count = if with_agent {
            node.detach_all()?
        } else {
            drop(node);
            node::detach(bpffs.path(), "egress-warden", false)?
        };
        assert_eq!(count, cgroups.len());
        assert!(!bpffs.path().join("egress-warden").exists());
        for cgroup in &cgroups {
            assert!(programs_on(cgroup)?.is_empty());
        }
    }
    let error = node::detach(bpffs.path(), "egress-warden", false).err();
    assert!(error.is_none(), "{}", error.context("no error")?);
    Ok(())
}
