//! Real pip, under the allowlist that was suggested for its index.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Host, World, agent_binary};

use super::checked;
use super::machine::{Machine, Server, hosts};

/// Makes a wheel with nothing in it.
const WHEEL: &str = "
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w') as wheel:
    info = 'parcel-1.0.dist-info/'
    wheel.writestr('parcel.py', '')
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: parcel\\nVersion: 1.0\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'RECORD', '')
";

const FILE: &str = "parcel-1.0-py3-none-any.whl";

/// Serves a directory on port 80 of a host, and is there when this returns.
fn serve(host: &Host, directory: &Path) -> Result<Server> {
    let mut python = host.command("python3");
    python.args(["-m", "http.server", "80", "--directory"]).arg(directory);
    let server = Server(python.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let place = host.at(80);
    let up = || host.enter(|| TcpStream::connect(place)).ok();
    until("a server listens", DEADLINE, || up().map(drop))?;
    Ok(server)
}

/// pip fetches the wheel under these allowlists, in the job's namespace. Without TLS it wants to be told of each host.
fn fetch(job: &Host, machine: &Machine, lists: &Path, index: &str, trusted: [&Host; 2]) -> Result<String> {
    let mut exec = job.command(agent_binary()?);
    exec.arg("exec").arg("--allowlists").arg(lists).args(["--policy", "job", "--"]);
    exec.args([
        "python3",
        "-m",
        "pip",
        "--isolated",
        "--disable-pip-version-check",
        "--retries",
        "0",
        "download",
    ]);
    exec.args(["--no-deps", "--no-cache-dir", "--timeout", "5", "--index-url", index, "parcel", "--dest"]);
    exec.arg(machine.file("fetched"));
    for host in trusted {
        exec.args(["--trusted-host", &host.v4.to_string()]);
    }
    let output = exec.output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{said}");
    Ok(said)
}

#[test]
fn pip_fetches_under_what_was_suggested_and_not_under_less() -> Result<()> {
    let world = World::new(&["job", "index", "files"])?;
    let (job, index, files) = (world.host("job"), world.host("index"), world.host("files"));
    let machine = Machine::new()?;
    let page = machine.file("pages/simple/parcel");
    fs::create_dir_all(&page)?;
    fs::write(page.join("index.html"), format!("<a href='http://{}/{FILE}'>{FILE}</a>", files.at(80)))?;
    fs::create_dir(machine.file("files"))?;
    let made = Command::new("python3").args(["-c", WHEEL]).arg(machine.file("files").join(FILE)).status()?;
    ensure!(made.success(), "the wheel: {made}");
    let _servers = [serve(index, &machine.file("pages"))?, serve(files, &machine.file("files"))?];

    let url = format!("http://{}/simple/", index.at(80));
    let mut suggest = job.command(agent_binary()?);
    let lists = machine.file("lists");
    fs::create_dir(&lists)?;
    let draft = suggest.args(["suggest", "index", "--index-url", &url]).output()?;
    let draft = checked(&draft, &lists.join("index.yaml"))?;
    assert_eq!(hosts(&draft)?, [format!("{}/32 80", index.v4), format!("{}/32 80", files.v4)]);
    fs::write(
        lists.join("job.yaml"),
        "apiVersion: egress-warden.dev/v1\nkind: EgressPolicy\nmetadata: {name: job}\nspec:\n  \
         select: {all: true}\n  mode: enforce\n  allow: [package-index]\n",
    )?;
    fetch(job, &machine, &lists, &url, [index, files])?;
    assert!(machine.file("fetched").join(FILE).is_file());

    // The second host is what people forget.
    let (less, _) = draft.split_once("    # files of").context("an entry of its own for the files")?;
    fs::write(lists.join("index.yaml"), less)?;
    fs::remove_dir_all(machine.file("fetched"))?;
    let refused =
        fetch(job, &machine, &lists, &url, [index, files]).expect_err("the files are elsewhere").to_string();
    assert!(refused.contains(&format!("{}:80/tcp  not_allowlisted", files.v4)), "{refused}");
    Ok(())
}
