//! Other people's programs beside the agent's.

use anyhow::{Context, Result, ensure};
use egress_warden_tests::bpf;
use egress_warden_tests::wait::{DEADLINE, until};

use super::support::{Agent, policy};

#[test]
fn who_else_is_attached_is_told_and_an_exclusive_program_keeps_nobody_from_knowing() -> Result<()> {
    let mut agent = Agent::new()?;
    agent.write(&policy(agent.parent(), &["cidrs: [10.9.9.0/24]"], &[]))?;
    agent.start()?;
    let other = bpf::attach(agent.parent(), bpf::CONNECT4, bpf::PASS, bpf::ALLOW_MULTI)?;
    agent.workload("a")?;
    let told = |agent: &Agent| {
        until("the other program to be told", DEADLINE, || {
            let status = agent.status().ok()?;
            let found = status["others"].as_array()?.iter().find(|one| one["id"] == other)?.clone();
            (found["exclusive"] == false && found["hook"] == "cgroup/connect4").then_some(found)
        })
        .with_context(|| agent.log())
    };
    // Nothing is attached above a workload unless the operator says so.
    ensure!(told(&agent)?["followed"] == false);
    assert_eq!(bpf::programs_on(agent.parent().path())?.len(), 1);
    agent.stop()?;
    agent.follow_load_balancers()?;
    agent.start()?;
    let found = told(&agent)?;
    ensure!(found["path"].as_str().is_some_and(|path| path.ends_with(&name(&agent))), "{found}");
    ensure!(found["followed"] == true, "what may be rewritten there is judged behind it: {found}");
    let text = agent.ask(&["status"])?;
    let text = String::from_utf8_lossy(&text.stdout);
    ensure!(text.contains("also there") && text.contains("calls are judged behind it"), "{text}");
    // The agent's own sit there as well now, and are nobody else's.
    let status = agent.status()?;
    assert_eq!(status["others"].as_array().context("others")?.len(), 1, "{status}");
    assert_eq!(bpf::programs_on(agent.parent().path())?.len(), 5);
    Ok(())
}

#[test]
fn below_an_exclusive_program_nothing_is_called_enforced() -> Result<()> {
    let agent = Agent::started(&["cidrs: [10.9.9.0/24]"], &[])?;
    bpf::attach(agent.parent(), bpf::SENDMSG4, bpf::PASS, 0)?;
    agent.workload_made("a")?;
    let failure = until("it to be told", DEADLINE, || {
        let status = agent.status().ok()?;
        let workload = status["workloads"].as_array()?.first()?.clone();
        workload["failure"].as_str().map(str::to_owned).filter(|_| workload["tier"] == "unenforced")
    })?;
    ensure!(failure.contains("cgroup/sendmsg4") && failure.contains(&name(&agent)), "{failure}");
    assert_eq!(agent.get("/readyz")?.0, 503);
    Ok(())
}

fn name(agent: &Agent) -> String {
    agent.parent().path().file_name().unwrap_or_default().to_string_lossy().into_owned()
}
