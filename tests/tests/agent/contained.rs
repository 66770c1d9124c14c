//! An agent in namespaces of its own: what it can do there, and what it refuses.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use egress_warden_tests::agent_binary;
use egress_warden_tests::wait::{DEADLINE, until};

use super::support::{Agent, policy};

const PLACE: &str = "cidrs: [10.77.2.2/32], ports: [80]";

/// Mounts cgroup2 as the namespace shows it, and becomes the agent.
const OWN_MOUNT: &str = "mount -t cgroup2 none \"$1\" && shift && exec \"$@\"";

#[test]
fn in_a_cgroup_namespace_with_a_mount_of_its_own_it_enforces_what_that_shows() -> Result<()> {
    let mut agent = Agent::new()?;
    let own = agent.path("cgroup");
    fs::create_dir(&own)?;
    fs::create_dir(agent.parent().path().join("jobs"))?;
    fs::create_dir(agent.parent().path().join("agent"))?;
    let early = agent.parent().path().join("jobs/early");
    fs::create_dir(&early)?;
    let config = fs::read_to_string(agent.path("config.yaml"))?;
    fs::write(agent.path("config.yaml"), format!("{config}cgroup_root: {}\n", own.display()))?;
    // The parent of the test's cgroups is the root in there.
    let name = agent.parent().path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = policy(agent.parent(), &[PLACE], &[]).replace(&format!("/{name}/*"), "/jobs/*");
    agent.write(&text)?;
    let mut command = Command::new("unshare");
    command.args(["--cgroup", "--mount", "sh", "-c", OWN_MOUNT, "sh"]).arg(&own).arg(agent_binary()?);
    agent.start_as(agent.arguments(command)?)?;
    agent.wait_metric("workload_tier", &["tier=\"cgroup\""], 1.0)?;
    agent.workload_made("jobs/new")?;
    agent.wait_metric("workload_tier", &["tier=\"cgroup\""], 2.0)?;
    // Nobody selects it, though its path ends alike.
    agent.workload_made("elsewhere")?;
    fs::remove_dir(&early)?;
    agent.wait_metric("workload_tier", &["tier=\"cgroup\""], 1.0)?;
    ensure!(agent.log().contains("in this cgroup namespace"), "{}", agent.log());
    assert!(agent.log().contains("workload=/jobs/new"), "{}", agent.log());
    // Who asks from outside the namespace has no place that the agent could compare with its workloads'.
    let asked = agent.ask(&["status"])?;
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    ensure!(!asked.status.success() && said.contains("the peer cannot be placed"), "{said}");
    Ok(())
}

#[test]
fn in_a_cgroup_namespace_with_the_hosts_mount_everything_is_as_on_the_host() -> Result<()> {
    let mut agent = Agent::new()?;
    agent.write(&policy(agent.parent(), &[PLACE], &[]))?;
    agent.workload_made("early")?;
    let mut command = Command::new("unshare");
    command.arg("--cgroup").arg(agent_binary()?);
    agent.start_as(agent.arguments(command)?)?;
    agent.wait_metric("workload_tier", &["tier=\"cgroup\""], 1.0)?;
    agent.workload_made("new")?;
    agent.wait_metric("workload_tier", &["tier=\"cgroup\""], 2.0)?;
    // Of the new one the tracepoint told: inotify does not say when it was made.
    assert_eq!(agent.metric("enforcement_delay_seconds_count", &[])?, 1.0);
    ensure!(!agent.log().contains("inotify"), "{}", agent.log());
    Ok(())
}

#[test]
fn no_bpf_file_system_is_mounted_where_it_would_end_with_a_container() -> Result<()> {
    let agent = Agent::new()?;
    agent.write(&policy(agent.parent(), &[PLACE], &[]))?;
    let bpffs = agent.path("none");
    fs::create_dir(&bpffs)?;
    // Process 1 is the shell's, so that the agent sees that it has mounts of its own.
    let mut command = Command::new("unshare");
    command.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        "unshare --mount \"$@\"; exit $?",
        "sh",
    ]);
    let mut child =
        agent.arguments_at(command.arg(agent_binary()?), &bpffs.join("egress-warden"))?.spawn()?;
    let ended = until("the agent to end", DEADLINE, || child.try_wait().ok().flatten());
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let said = agent.log();
    ensure!(!ended?.success(), "{said}");
    let expected = format!(
        "{}: there is no BPF file system, and one that is mounted in a container ends with it, and enforcement as well; \
         mount it on the node: mount -t bpf bpf /sys/fs/bpf",
        bpffs.display()
    );
    ensure!(said.contains(&expected), "{said}");
    assert_eq!(fs::read_dir(&bpffs)?.count(), 0, "nothing was made there");
    Ok(())
}
