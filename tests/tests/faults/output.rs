//! Places where `exec` writes, when they do not take it.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use anyhow::Result;
use egress_warden_tests::agent_binary;
use egress_warden_tests::job::python;

use super::Bench;

fn with_events(bench: &Bench, events: &str) -> Result<Command> {
    let mut arguments = bench.arguments();
    arguments.splice(1..1, ["--events".to_owned(), events.to_owned()]);
    bench.exec(&arguments)
}

#[test]
fn records_that_nobody_may_write() -> Result<()> {
    let bench = Bench::new()?;
    for (place, needle) in [
        ("/no/such/directory/events", "No such file"),
        ("/sys/events", "ermission denied"),
        ("/usr", "directory"),
    ] {
        bench.refused_with(with_events(&bench, place)?, &["--events", place, needle])?;
    }
    let place = bench.lists.scratch("events");
    bench.succeeds(with_events(&bench, &place.display().to_string())?)?;
    assert_eq!(fs::read_to_string(place)?, "");
    Ok(())
}

/// Refused often enough that the records do not fit on the disk, then ends well.
const FLOOD: &str = r#"
out = udp("0.0.0.0", 0)
refused = sum(how(lambda: out.sendto(MARK, ("192.0.2.1", 9))) == "EPERM" for _ in range(100))
os.close(os.open("@", os.O_CREAT))
sys.exit(0 if refused == 100 else 3)
"#;

#[test]
fn a_disk_that_fills_up_is_told_and_does_not_end_enforcement() -> Result<()> {
    let bench = Bench::new()?;
    bench.namespace.run(["ip", "route", "add", "default", "dev", "lo"])?;
    let disk = bench.lists.scratch("disk");
    fs::create_dir(&disk)?;
    let lists = bench.lists.path().display().to_string();
    let mut command = bench.namespace.command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg("mount -t tmpfs -o size=4k none \"$1\"; shift; exec \"$0\" \"$@\"");
    command.arg(agent_binary()?).arg(&disk).args(["exec", "--allowlists", &lists, "--policy", "job"]);
    command.arg("--events").arg(disk.join("events")).arg("--");
    command.args(python(&FLOOD.replace('@', &bench.marker().display().to_string())));
    let output = bench.run(command)?;
    let text = String::from_utf8(output.stderr)?;
    assert!(bench.marker().exists(), "the command ran to its end, every datagram refused: {text}");
    assert_eq!(output.status.code(), Some(125), "the records are not complete: {text}");
    assert!(text.contains("refused      100 attempts, not_allowlisted"), "the counters are: {text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.ends_with("the command ran under enforcement and exited with 0"), "{text}");
    assert!(last.starts_with("egress-warden: --events ") && last.contains("No space left"), "{text}");
    bench.assert_nothing_stays()
}

#[test]
fn a_reader_that_stalls_does_not_hold_the_wrapper() -> Result<()> {
    let bench = Bench::new()?;
    bench.namespace.run(["ip", "route", "add", "default", "dev", "lo"])?;
    let fifo = bench.lists.scratch("fifo");
    Command::new("mkfifo").arg(&fifo).status()?;
    let reader = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo)?;
    // SAFETY: takes no pointers; the descriptor is open. One page, for fewer records than there are.
    assert!(unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) } >= 4096);
    let lists = bench.lists.path().display().to_string();
    let mut command = bench.namespace.command("timeout");
    command.arg("20").arg(agent_binary()?).args(["exec", "--allowlists", &lists, "--policy", "job"]);
    command.arg("--events").arg(&fifo).arg("--");
    command.args(python(&FLOOD.replace('@', &bench.marker().display().to_string())));
    let output = bench.run(command)?;
    let text = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(125), "the records are not complete: {text}");
    assert!(text.contains("refused      100 attempts, not_allowlisted"), "the counters are: {text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.contains("its reader does not keep up"), "{text}");
    assert!(last.ends_with("the command ran under enforcement and exited with 0"), "{text}");
    drop(reader);
    bench.assert_nothing_stays()
}

#[test]
fn a_closed_standard_error_changes_nothing() -> Result<()> {
    let bench = Bench::new()?;
    let mut command = bench.namespace.command("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 2>&-"]).arg(agent_binary()?).args(bench.arguments());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    bench.succeeds(command)?;
    // The same where somebody has stopped reading.
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = bench.exec(&bench.arguments())?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    let status = bench.cgroup.spawn(command)?.wait()?;
    assert_eq!(status.code(), Some(0));
    assert!(bench.marker().exists());
    bench.assert_nothing_stays()
}
