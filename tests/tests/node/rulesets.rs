//! Rulesets beside each other.

use anyhow::{Context, Result};
use egress_warden::kernel::node::{Node, NodeError};
use egress_warden::kernel::{KernelError, Sizes};
use egress_warden_tests::{TestCgroup, wait};

use crate::support::{Bpffs, ECHO, PORTS, Scene, children, enforce, opens, programs_on};

fn words_in_force(node: &Node) -> Result<u64> {
    Ok(node.usage()?.iter().find(|usage| usage.0 == "words").context("no words")?.1)
}

#[test]
fn an_open_connection_is_judged_anew_after_a_swap() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    let (first, second) = (opens(ECHO)?, opens(PORTS[1])?);
    scene.enforce(&mut node, &first)?;
    let mut connection = scene.connection()?;
    assert_eq!((connection.send()?, connection.send()?), (0, 0), "the verdict is remembered");
    assert!(node.swap(scene.id()?, &second)?);
    connection.tell()?;
    let id = scene.id()?;
    wait::until("a refused packet", wait::DEADLINE, || {
        node.state(id).ok().filter(|state| state.violations == 1)
    })?;
    assert!(node.swap(id, &first)?);
    assert_eq!(connection.outcome()?, 0, "sent again, and let through");
    Ok(())
}

#[test]
fn an_open_udp_socket_is_judged_anew_after_a_swap() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    let (first, second) = (opens(PORTS[0])?, opens(PORTS[1])?);
    scene.enforce(&mut node, &first)?;
    let mut datagrams = scene.datagrams(PORTS[0])?;
    assert_eq!(datagrams.send()?, 0);
    assert!(node.swap(scene.id()?, &second)?);
    assert_eq!(datagrams.send()?, libc::EPERM);
    assert!(node.swap(scene.id()?, &first)?);
    assert_eq!(datagrams.send()?, 0);
    Ok(())
}

#[test]
fn equal_rulesets_are_stored_once() -> Result<()> {
    let (bpffs, parent) = (Bpffs::new()?, TestCgroup::new()?);
    let (mut node, _) = bpffs.open()?;
    let (first, second) = (opens(80)?, opens(81)?);
    let mut ids = Vec::new();
    for cgroup in children(&parent, 20)? {
        ids.push(enforce(&mut node, &cgroup, &first)?);
    }
    assert_eq!(words_in_force(&node)?, first.len() as u64);
    node.swap(ids[0], &second)?;
    assert_eq!(words_in_force(&node)?, (first.len() + second.len()) as u64);
    drop(node);
    let (mut node, _) = bpffs.open()?;
    assert_eq!(words_in_force(&node)?, (first.len() + second.len()) as u64);
    node.swap(ids[0], &first)?;
    assert_eq!(words_in_force(&node)?, first.len() as u64);
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() -> Result<()> {
    let (bpffs, parent) = (Bpffs::new()?, TestCgroup::new()?);
    let (first, second, third) = (opens(80)?, opens(81)?, opens(82)?);
    let mut options = bpffs.options();
    let words = u32::try_from(first.len() + second.len())?;
    options.sizes = Sizes { words, workloads: 2, ..options.sizes };
    let (mut node, _) = Node::open(&options)?;
    let cgroups = children(&parent, 3)?;
    let one = enforce(&mut node, &cgroups[0], &first)?;
    let other = enforce(&mut node, &cgroups[1], &second)?;
    node.reserve(&[&first, &second, &first])?;
    let error = node.reserve(&[&third]).err().context("it fits")?;
    assert!(
        matches!(error, KernelError::Full { map: "WORDS", capacity, wanted } if
        capacity == words as usize && wanted == capacity + third.len()),
        "{error}"
    );

    let generation = node.generation(one)?;
    assert!(matches!(node.swap(one, &third), Err(NodeError::Kernel(KernelError::Full { .. }))));
    assert_eq!((node.generation(one)?, node.words_of(one)?), (generation, first.clone()));
    // Neither a place for the workload.
    assert!(enforce(&mut node, &cgroups[2], &first).is_err());
    assert!(programs_on(&cgroups[2])?.is_empty());
    assert_eq!(bpffs.links()?, 18);

    // What was left is room again, once.
    node.swap(other, &first)?;
    node.reserve(&[&third])?;
    assert!(node.swap(one, &third)?);
    assert_eq!((node.words_of(one)?, node.words_of(other)?), (third, first));
    Ok(())
}
