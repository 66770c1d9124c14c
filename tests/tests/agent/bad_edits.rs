//! Whatever is written into the allowlists, what was valid last stays in force.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use egress_warden_tests::World;
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::until;

use super::support::{Agent, Job, policy};

const PLACE: &str = "cidrs: [10.77.2.2/32], ports: [80/udp]";
/// What no version enforces yet.
const SCOPE: &str = "mode: enforce\n  quarantine: {violations: 5, within: 60s, scope: job}";
const PROGRAM: &str = r#"
say("ready")
while True:
    wait()
    say(how(lambda: udp("0.0.0.0", 0).sendto(MARK, ("10.77.2.2", 80))),
        how(lambda: udp("0.0.0.0", 0).sendto(MARK, ("10.77.2.2", 99))))
"#;

fn refused(agent: &Agent, before: usize) -> Result<String> {
    until("the refusal of the edit", Duration::from_secs(5), || {
        let told = agent.log().get(before..)?.to_owned();
        told.contains("not in force").then_some(told)
    })
}

#[test]
fn bad_edits_of_every_kind_change_nothing() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let _service = Server::udp_echo(outside, outside.at(80))?;
    let mut agent = Agent::started(&[PLACE], &[])?;
    let workload = agent.workload("steady")?;
    let mut sender = Job::start(job, &workload, PROGRAM)?;
    ensure!(sender.line()? == "ready");
    let good = policy(agent.parent(), &[PLACE], &[]);
    let cut = &good[..good.len() / 2];
    let edits = [
        ("bad: [", "list.yaml line=2 "),
        ("", "list.yaml"),
        (cut, "list.yaml"),
        (&good.replace("mode: enforce", "mode: enforced"), "list.yaml line=6 "),
        (&good.replace("mode:", "mod:"), "list.yaml line=6 "),
        (&good.replace("allow: [places]", "allow: [nowhere]"), "list.yaml line=7 "),
        (&good.replace("10.77.2.2/32", "10.77.2.2/24"), "list.yaml line=14 "),
        (&good.replace("cidrs: [10.77.2.2/32]", "cidrsFrom: /nowhere/at/all"), "list.yaml line=14 "),
        (&good.replace("mode: enforce", SCOPE), "list.yaml:7:"),
        ("\u{0}\u{1b}[2J", "list.yaml"),
    ];
    for (text, place) in edits {
        let before = agent.log().len();
        agent.write(text)?;
        let told = refused(&agent, before)?;
        assert!(told.contains(place) && !told.contains('\u{1b}'), "{text:?}: {told}");
        assert_eq!(sender.ask("go")?, "ok EPERM", "{text:?}");
        agent.wait_metric("allowlist_last_reload_successful", &[], 0.0)?;
        agent.write(&good)?;
        agent.wait_metric("allowlist_last_reload_successful", &[], 1.0)?;
    }
    let before = agent.log().len();
    fs::remove_file(agent.lists().join("list.yaml"))?;
    refused(&agent, before)?;
    assert_eq!(sender.ask("go")?, "ok EPERM");
    // A workload that comes meanwhile gets what is in force.
    agent.workload("late")?;
    restarts(&mut agent, &mut sender)
}

/// With the bad edit in place.
fn restarts(agent: &mut Agent, sender: &mut Job) -> Result<()> {
    agent.write("bad: [")?;
    agent.stop()?;
    agent.start()?;
    agent.wait_enforced("steady")?;
    assert_eq!(agent.get("/readyz")?.0, 200);
    assert_eq!(agent.status()?["allowlists"]["source"], "pinned");
    assert_eq!(sender.ask("go")?, "ok EPERM");
    // With nothing pinned: what was valid last.
    agent.stop()?;
    let pins = agent.pins().parent().map(|pins| pins.display().to_string()).unwrap_or_default();
    ensure!(agent.ask(&["detach", "--all", "--pin-directory", &pins])?.status.success());
    assert_eq!(sender.ask("go")?, "ok ok", "the positive control: nothing is enforced");
    agent.start()?;
    agent.wait_enforced("steady")?;
    assert_eq!(agent.status()?["allowlists"]["source"], "last-good");
    assert_eq!(sender.ask("go")?, "ok EPERM");
    // With neither.
    agent.stop()?;
    ensure!(agent.ask(&["detach", "--all", "--pin-directory", &pins])?.status.success());
    fs::remove_dir_all(agent.path("state"))?;
    agent.start()?;
    let (status, reason) = agent.get("/readyz")?;
    assert_eq!(status, 503);
    assert!(reason.contains("no valid allowlists"), "{reason}");
    Ok(())
}
