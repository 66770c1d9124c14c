//! Quarantine with an agent: its action, by hand and over a restart.

use anyhow::{Result, ensure};
use egress_warden_tests::World;
use egress_warden_tests::server::Server;

use super::support::{Agent, Job};

const PLACE: &str = "cidrs: [10.77.2.2/32], ports: [80]";
const RULE: &str = "quarantine: {violations: 3, within: 60s, action: isolate, release: 3s}";

/// Holds a connection open and reads from it, which would never end: nothing is sent to it any more.
const HOLDS: &str = r#"
made = tcp("10.77.2.2", 80)
say(made.recv(9).decode())
for _ in range(3):
    how(lambda: tcp("10.77.2.2", 99))
made.settimeout(8)
say(how(lambda: made.recv(9)))
say(how(lambda: tcp("10.77.2.2", 80)))
wait()
say(how(lambda: tcp("10.77.2.2", 80)))
"#;

/// A service that greets and then keeps the connection.
const SERVICE: &str = r#"
listener = listen("0.0.0.0", 80)
listener.settimeout(None)
say("ready")
kept = []
while True:
    made, _ = listener.accept()
    made.sendall(b"hello")
    kept.append(made)
"#;

#[test]
fn a_job_in_quarantine_fails_at_once_and_goes_on_when_its_time_is_over() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let mut service = egress_warden_tests::job::outsider(outside, SERVICE)?;
    service.expect("ready")?;
    let mut agent = Agent::started(&[PLACE], &[RULE])?;
    let workload = agent.workload("noisy")?;
    let mut holder = Job::start(job, &workload, HOLDS)?;
    assert_eq!(holder.line()?, "hello");
    // Not ETIMEDOUT after eight seconds: the connection was ended.
    assert_eq!(holder.line()?, "ECONNABORTED");
    assert_eq!(holder.line()?, "EPERM");
    agent.wait_metric("quarantined", &["workload="], 1.0)?;
    agent.wait_metric("quarantines_total", &["action=\"isolate\""], 1.0)?;
    // A restart in between forgets nothing.
    agent.kill()?;
    agent.start()?;
    agent.wait_metric("quarantined", &["workload="], 1.0)?;
    agent.wait_metric("quarantines_total", &["action=\"isolate\""], 1.0)?;
    agent.wait_metric("quarantined", &["workload="], 0.0)?;
    assert_eq!(holder.ask("go")?, "ok");
    let history = agent.ask(&["quarantine", "list", "--history", "--json"])?;
    let history = String::from_utf8_lossy(&history.stdout).into_owned();
    assert!(
        history.contains("its time ran out") && history.contains("3 violations within 60 s"),
        "{history}"
    );
    Ok(())
}

#[test]
fn somebody_can_quarantine_and_release_by_hand() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let _service = Server::tcp_greeter(outside, outside.at(80), b"hello")?;
    let agent = Agent::started(&[PLACE], &[])?;
    let workload = agent.workload("suspect")?;
    let program = "say(how(lambda: tcp('10.77.2.2', 80)))";
    let tries = || Job::start(job, &workload, program)?.line();
    assert_eq!(tries()?, "ok");
    let done = agent.ask(&["quarantine", "add", "suspect", "--why", "a look at it", "--who", "tester"])?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(tries()?, "EPERM");
    let again = agent.ask(&["quarantine", "add", "nobody", "--why", "a look at it"])?;
    assert_eq!(again.status.code(), Some(1));
    let done = agent.ask(&["quarantine", "release", "suspect", "--why", "nothing found"])?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(tries()?, "ok");
    Ok(())
}
