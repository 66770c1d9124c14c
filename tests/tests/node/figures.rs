//! Figures, printed with their aims.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use egress_warden::kernel::node::{Node, NodeOptions};
use egress_warden_tests::TestCgroup;

use crate::support::{Bpffs, children, enforce, opens, words};

const WORKLOADS: usize = 250;

fn timed<T>(what: &str, aim: Duration, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let value = body()?;
    let took = start.elapsed();
    println!("{what}: {took:.1?}, aim {aim:?}");
    // The machine may be shared; what is ten times over the aim is no matter of load.
    assert!(took < aim * 10, "{what}: {took:?}");
    Ok(value)
}

/// Resident kilobytes of this process.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn a_node_full_of_workloads_is_attached_adopted_and_reloaded_in_time() -> Result<()> {
    let (bpffs, parent) = (Bpffs::new()?, TestCgroup::new()?);
    let options = NodeOptions { bpffs: bpffs.path().to_owned(), ..NodeOptions::default() };
    let small = opens(80)?;
    let mut list = String::from("    - why: many\n      cidrs:\n");
    for number in 0..100_000_u32 {
        let [_, a, b, c] = (number * 16).to_be_bytes();
        writeln!(list, "        - 11.{a}.{b}.{c}/29")?;
    }
    let large = words(&list)?;
    assert!(large.len() >= 200_000, "no two prefixes were joined");
    let cgroups = children(&parent, WORKLOADS)?;
    let (mut node, _) = timed("open a new node", Duration::from_millis(500), || Ok(Node::open(&options)?))?;
    let mut ids = Vec::new();
    timed("attach 250 workloads", Duration::from_secs(2), || {
        for cgroup in &cgroups {
            ids.push(enforce(&mut node, cgroup, &small)?);
        }
        Ok(())
    })?;
    let before = resident()?;
    timed("write 100,000 prefixes", Duration::from_millis(200), || Ok(node.swap(ids[0], &large)?))?;
    let swapped =
        timed("swap 250 workloads to them", Duration::from_millis(200), || Ok(node.swap_all(&ids, &large)?))?;
    assert_eq!(swapped, WORKLOADS - 1);
    println!("resident: {} kB more after the swaps", resident()?.saturating_sub(before));
    drop(node);
    let (mut node, adopted) =
        timed("adopt 250 workloads", Duration::from_millis(500), || Ok(Node::open(&options)?))?;
    assert_eq!(adopted.len(), WORKLOADS);
    timed("release 250 workloads", Duration::from_secs(2), || {
        ids.iter().try_for_each(|id| node.release(*id)).map_err(Into::into)
    })?;
    assert_eq!(bpffs.links()?, 0);
    Ok(())
}
