//! Records into allowlists.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use egress_warden_tests::server::Server;
use egress_warden_tests::{World, agent_binary};

use super::{checked, golden, refused, warden};

/// `explain` about the suggested policy: its exit code and what it says.
fn explained(lists: &Path, to: &str) -> Result<(Option<i32>, String)> {
    let lists = lists.display().to_string();
    let output = warden(&["explain", "--allowlists", &lists, "--policy", "suggested", "--to", to])?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

/// `UPDATE_GOLDEN=1` writes what is expected anew: read the diff.
#[test]
fn an_audit_run_becomes_the_allowlist_that_is_expected() -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::copy(golden("audit.jsonl"), directory.path().join("audit.jsonl"))?;
    let events = directory.path().join("audit.jsonl").display().to_string();
    let lists = directory.path().join("suggested.yaml");
    let draft = checked(&warden(&["suggest", "from-events", &events])?, &lists)?;
    let draft = draft.replace(&events, "audit.jsonl");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(golden("audit.yaml"), &draft)?;
    }
    assert_eq!(draft, fs::read_to_string(golden("audit.yaml"))?);
    Ok(())
}

#[test]
fn what_was_tried_is_allowed_by_it_and_nothing_beside() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let lists = directory.path().join("suggested.yaml");
    let events = golden("audit.jsonl").display().to_string();
    checked(&warden(&["suggest", "from-events", &events])?, &lists)?;
    for tried in [
        "192.0.2.10:443",
        "192.0.2.11:443",
        "192.0.2.20:9000",
        "192.0.2.20:9000/udp",
        "[2001:db8::7]:echo-request/icmp",
    ] {
        let (code, said) = explained(&lists, tried)?;
        assert_eq!(code, Some(0), "{said}");
    }
    for beside in [
        "192.0.2.9:443",
        "192.0.2.12:443",
        "192.0.2.11:80",
        "192.0.2.20:9000/icmp",
        "192.0.2.99:443",
        "10.96.0.10:53",
        "10.96.0.11:53/udp",
        "10.1.2.3:22",
        "169.254.169.254:80",
        "[fd00:ec2::254]:80",
        "127.0.0.1:5432",
    ] {
        let (code, said) = explained(&lists, beside)?;
        assert_ne!(code, Some(0), "{said}");
    }
    Ok(())
}

#[test]
fn a_bad_line_is_told_with_its_place_and_nothing_is_printed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("cut.jsonl");
    let good = fs::read_to_string(golden("audit.jsonl"))?;
    fs::write(&path, &good[..good.len() - 20])?;
    let lines = good.lines().count();
    let last = good.lines().last().context("a line")?.len();
    let said = refused(&warden(&["suggest", "from-events", &path.display().to_string()])?)?;
    let place = format!("{}:{lines}:{}: error: not a record: ", path.display(), last - 19);
    assert!(said.contains(&place) && said.contains("help: expected a record as"), "{said}");
    let missing = refused(&warden(&["suggest", "from-events", "/nowhere/audit.jsonl"])?)?;
    assert!(missing.contains("/nowhere/audit.jsonl:1:1: error: cannot read"), "{missing}");
    Ok(())
}

#[test]
fn no_record_is_no_allowlist() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("empty.jsonl");
    fs::write(&path, "")?;
    let said = refused(&warden(&["suggest", "from-events", &path.display().to_string()])?)?;
    assert!(said.contains("there is no record in "), "{said}");
    let name = warden(&["suggest", "from-events", "--name", "Not a name", &path.display().to_string()])?;
    assert!(refused(&name)?.contains("1 to 63 of a-z, 0-9 and -"));
    Ok(())
}

/// Audit, suggest, enforce: what the first run did the second may do, and nothing more.
#[test]
fn a_run_that_was_audited_can_be_enforced() -> Result<()> {
    let world = World::new(&["job", "outside"])?;
    let (job, outside) = (world.host("job"), world.host("outside"));
    let places = [outside.at(80), outside.at(81), outside.at_v6(443)];
    let servers: Vec<Server> =
        places.iter().map(|place| Server::tcp_greeter(outside, *place, b"hello")).collect::<Result<_>>()?;
    let program = "import socket, sys\nfor place in sys.argv[1:]:\n host, port = place.rsplit('@', 1)\n \
                   socket.create_connection((host, int(port)), 5).recv(1)";
    let directory = tempfile::tempdir()?;
    let (first, events) = (directory.path().join("first.yaml"), directory.path().join("events.jsonl"));
    fs::write(
        &first,
        "apiVersion: egress-warden.dev/v1\nkind: EgressPolicy\nmetadata: {name: first}\nspec:\n  \
         select: {all: true}\n  mode: audit\n  allow: []\n",
    )?;
    let run = |lists: &Path, policy: &[&str], places: &[std::net::SocketAddr]| -> Result<String> {
        let mut exec = job.command(agent_binary()?);
        exec.arg("exec").arg("--allowlists").arg(lists).args(policy);
        exec.args(["--", "python3", "-c", program]);
        exec.args(places.iter().map(|place| format!("{}@{}", place.ip(), place.port())));
        let output = exec.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{said}");
        Ok(said)
    };
    let file = events.display().to_string();
    run(&first, &["--policy", "first", "--events", &file], &places)?;
    let lists = directory.path().join("suggested.yaml");
    checked(&warden(&["suggest", "from-events", &file])?, &lists)?;
    let enforce = ["--policy", "suggested", "--mode", "enforce"];
    let said = run(&lists, &enforce, &places)?;
    assert!(said.contains("allowed      3 flows (3 tcp)"), "{said}");
    let beside = run(&lists, &enforce, &[outside.at(82)]).expect_err("a place that was not tried");
    assert!(beside.to_string().contains("Operation not permitted"), "{beside}");
    assert!(servers.iter().all(|server| server.served() == 2));
    Ok(())
}
