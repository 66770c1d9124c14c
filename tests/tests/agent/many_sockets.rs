//! A quarantine takes nothing from others: ending a workload's connections, however many, keeps no new workload waiting.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use egress_warden_tests::World;
use egress_warden_tests::job::outsider;
use egress_warden_tests::wait::{DEADLINE, until};

use super::support::{Agent, Job};

const SOCKETS: usize = 20_000;
/// Listing and ending the sockets takes several times as long.
const AT_MOST: Duration = Duration::from_millis(50);

/// The last program that is attached.
const LAST: &str = "sendmsg6";
const ENDED: &str = "connections were ended";
const RULE: &str = "quarantine: {violations: 3, within: 60s, action: isolate}";

/// A process may have only so many descriptors: four share the work, and end with the first of them.
const FORK: &str = r#"
import resource
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
def fork(work):
    if os.fork() == 0:
        libc.prctl(1, 9)
        work()
        os._exit(0)
"#;

const SERVICE: &str = r#"
listener = listen("0.0.0.0", 80)
listener.settimeout(None)
def accept():
    kept = []
    while True:
        kept.append(listener.accept())
for _ in range(4):
    fork(accept)
say("ready")
wait()
"#;

const HOLDS: &str = r#"
(told, tells), (go, goes) = os.pipe(), os.pipe()
def connect():
    made = [tcp("10.77.2.2", 80) for _ in range(share)]
    os.write(tells, b"x")
    os.read(go, 1)
    ended = all(how(lambda: one.recv(9)) == "ECONNABORTED" for one in made)
    os.write(tells, b"y" if ended else b"n")
share = int(wait()) // 4
for _ in range(4):
    fork(connect)
for _ in range(4):
    os.read(told, 1)
say("connected")
wait()
for _ in range(3):
    how(lambda: tcp("10.77.2.2", 99))
say("crossed")
wait()
os.write(goes, b"gggg")
say(*(os.read(told, 1).decode() for _ in range(4)))
"#;

#[test]
fn new_workloads_do_not_wait_until_the_connections_of_another_are_ended() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let mut service = outsider(outside, &format!("{FORK}{SERVICE}"))?;
    service.expect("ready")?;
    let agent = Agent::started(&["cidrs: [10.77.2.2/32], ports: [80]"], &[RULE])?;
    let mut holder = Job::start(job, &agent.workload("holder")?, &format!("{FORK}{HOLDS}"))?;
    assert_eq!(holder.ask(&SOCKETS.to_string())?, "connected");

    assert_eq!(holder.ask("cross")?, "crossed");
    until("it to be seen", DEADLINE, || agent.log().contains("quarantined").then_some(()))?;
    // It is on the disk by the time at which this is answered: how long that takes is the disk's affair.
    agent.status()?;
    let (mut delays, begun) = (Vec::new(), Instant::now());
    while !agent.log().contains(ENDED) {
        ensure!(begun.elapsed() < DEADLINE, "nobody ends them: {}", agent.log());
        delays.push(enforced_after(&agent, &format!("job-{}", delays.len()))?);
    }
    let took = begun.elapsed();
    ensure!(!delays.is_empty(), "nothing was done until they were ended");
    delays.sort_unstable();
    let milliseconds = |delay: Duration| delay.as_secs_f64() * 1e3;
    let (most, slowest) = (delays[delays.len() * 9 / 10], delays[delays.len() - 1]);
    println!(
        "figure: {SOCKETS} connections ended after {:.0} ms; of {} workloads made meanwhile nine in ten were enforced \
         within {:.1} ms, the slowest after {:.1} ms",
        milliseconds(took),
        delays.len(),
        milliseconds(most),
        milliseconds(slowest)
    );
    ensure!(agent.log().contains(&format!("connections={SOCKETS}")), "{}", agent.log());
    assert_eq!(holder.ask("read")?, "y y y y");
    ensure!(most < AT_MOST, "new workloads waited for {most:?}");
    // On a busy machine one may wait for a processor, but never until all is done.
    ensure!(slowest < AT_MOST.max(took / 2), "a new workload waited for {slowest:?} of {took:?}");
    Ok(())
}

#[test]
fn an_agent_that_is_told_to_end_finishes_what_it_began() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let mut service = outsider(outside, &format!("{FORK}{SERVICE}"))?;
    service.expect("ready")?;
    let mut agent = Agent::started(&["cidrs: [10.77.2.2/32], ports: [80]"], &[RULE])?;
    let mut holder = Job::start(job, &agent.workload("holder")?, &format!("{FORK}{HOLDS}"))?;
    assert_eq!(holder.ask(&SOCKETS.to_string())?, "connected");
    assert_eq!(holder.ask("cross")?, "crossed");
    until("it to be seen", DEADLINE, || agent.log().contains("quarantined").then_some(()))?;
    agent.stop()?;
    ensure!(agent.log().contains(ENDED), "{}", agent.log());
    assert_eq!(holder.ask("read")?, "y y y y");
    Ok(())
}

/// Makes a workload and waits until every program is attached to it.
fn enforced_after(agent: &Agent, name: &str) -> Result<Duration> {
    let begun = Instant::now();
    let path = agent.workload_made(name)?;
    let links = agent.pins().join("links").join(fs::metadata(&path)?.ino().to_string());
    let attached = || links.join(LAST).exists().then_some(());
    until(&format!("{name} to be enforced"), DEADLINE, attached).with_context(|| agent.log())?;
    Ok(begun.elapsed())
}
