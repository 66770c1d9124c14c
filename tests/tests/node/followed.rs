//! The agent's programs behind a load balancer: they outlive the agent, stay the last, and go when nothing is left to follow.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use egress_warden_tests::probe::Attempt;
use egress_warden_tests::rewriter::rewrite;

use super::loadbalancer::{Balanced, SERVICE, service};
use super::support::programs_on;

const ATTEMPTS: [Attempt; 3] = [Attempt::Tcp, Attempt::UdpConnected, Attempt::Udp];

fn works(balanced: &Balanced, what: &str) -> Result<()> {
    for v6 in [false, true] {
        for attempt in ATTEMPTS {
            let outcome = balanced.attempt(attempt, service(v6))?;
            ensure!(outcome.is_ok(), "{what}: {attempt:?} {v6}: {outcome:?}");
        }
    }
    Ok(())
}

#[test]
fn services_stay_in_reach_without_the_agent_and_under_the_next_one() -> Result<()> {
    let balanced = Balanced::new()?;
    let id = balanced.workload.id()?;
    balanced.enforced(SERVICE, |_, _| Ok(()))?;
    let there = programs_on(&balanced.above())?;
    works(&balanced, "without an agent")?;
    balanced.world.router().enter(|| -> Result<()> {
        let (mut node, _) = balanced.bpffs.open()?;
        works(&balanced, "adopted")?;
        ensure!(node.follow_rewriters(&[(id, balanced.above())].into())?.is_empty());
        assert_eq!(programs_on(&balanced.above())?, there, "nothing to change");
        works(&balanced, "followed again")
    })
}

#[test]
fn whoever_comes_later_is_followed_as_well() -> Result<()> {
    let balanced = Balanced::new()?;
    let others = programs_on(&balanced.above())?;
    balanced.enforced(SERVICE, |node, id| {
        let mut ours = programs_on(&balanced.above())?;
        ours.retain(|program| !others.contains(program));
        assert_eq!(ours.len(), 4);
        let behind = |program: &u32| -> Result<Option<u32>> {
            let there = programs_on(&balanced.above())?;
            let place = there.iter().position(|found| found == program).context("it is there")?;
            Ok(there.get(place + 1).copied())
        };
        // Of the hooks that it takes it is the last, and then ours are again: a new link leads to the same program.
        let later = rewrite(&balanced.parent, "10.96.0.99:80".parse()?, service(false))?;
        ensure!(!behind(&later[0])?.is_some_and(|next| ours.contains(&next)), "it came behind ours");
        ensure!(node.follow_rewriters(&[(id, balanced.above())].into())?.is_empty());
        for program in &later[..2] {
            ensure!(behind(program)?.is_some_and(|next| ours.contains(&next)), "{program} is the last");
        }
        works(&balanced, "with two")
    })
}

#[test]
fn nothing_is_left_where_nothing_is_followed_any_more() -> Result<()> {
    let balanced = Balanced::new()?;
    let before = programs_on(&balanced.above())?;
    balanced.enforced(SERVICE, |node, id| {
        assert_eq!(programs_on(&balanced.above())?.len(), before.len() + 4);
        ensure!(node.follow_rewriters(&BTreeMap::new())?.is_empty());
        assert_eq!(programs_on(&balanced.above())?, before);
        let outcome = balanced.attempt(Attempt::Udp, service(false))?;
        ensure!(!outcome.is_ok(), "what was learnt is forgotten: {outcome:?}");
        ensure!(node.follow_rewriters(&[(id, balanced.above())].into())?.is_empty());
        works(&balanced, "followed anew")
    })?;
    balanced.world.router().enter(|| -> Result<()> {
        let (node, _) = balanced.bpffs.open()?;
        node.detach_all()?;
        Ok(())
    })?;
    assert_eq!(programs_on(&balanced.above())?, before);
    Ok(())
}
