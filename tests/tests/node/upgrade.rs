//! Other programs in the place of the pinned ones. Those with diagnostics stand for a newer version.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use egress_warden::kernel::node::{Node, NodeOptions};

use crate::support::{Bpffs, PORTS, Scene, opens, programs_on};

#[test]
fn the_same_programs_are_kept_and_other_ones_take_over() -> Result<()> {
    let (bpffs, scene) = (Bpffs::new()?, Scene::new()?);
    let (mut node, _) = bpffs.open()?;
    scene.enforce(&mut node, &opens(PORTS[0])?)?;
    drop(node);
    let first = programs_on(scene.cgroup.path())?;
    drop(bpffs.open()?);
    assert_eq!(programs_on(scene.cgroup.path())?, first);

    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        // Nothing gets through while the programs are exchanged.
        let attempts = scope.spawn(|| -> Result<usize> {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) || count == 0 {
                let (refused, allowed) = (scene.attempt(PORTS[1])?, scene.attempt(PORTS[0])?);
                ensure!(refused.is_refused() && allowed.is_ok(), "{count}: {refused:?} {allowed:?}");
                count += 1;
            }
            Ok(count)
        });
        let exchanged = exchange(&bpffs, &scene, &first);
        stop.store(true, Ordering::Relaxed);
        let count = attempts.join().expect("the attempts do not panic")?;
        exchanged?;
        println!("{count} attempts of each kind during the upgrades");
        let (node, _) = bpffs.open()?;
        assert_eq!(node.state(scene.id()?)?.violations, count as u64);
        Ok(())
    })
}

fn exchange(bpffs: &Bpffs, scene: &Scene, first: &[u32]) -> Result<()> {
    let newer = NodeOptions { log: true, ..bpffs.options() };
    let mut before = first.to_vec();
    for options in [&newer, &bpffs.options(), &newer, &bpffs.options()] {
        let (node, adopted) = Node::open(options)?;
        let now = programs_on(scene.cgroup.path())?;
        // No panic here: whoever makes the attempts waits to be stopped.
        ensure!(adopted.len() == 1 && now.len() == before.len(), "{adopted:?} {now:?}");
        ensure!(now.iter().all(|program| !before.contains(program)), "{now:?} {before:?}");
        before = now;
        drop(node);
    }
    Ok(())
}
