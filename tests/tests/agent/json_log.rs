//! What a running agent writes as JSON can be read line by line, whatever a workload is called.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use super::support::{Agent, policy};

const PLACE: &str = "cidrs: [10.77.2.2/32], ports: [80]";
/// A cgroup's name may hold every byte but a slash and a zero; the kernel itself refuses a newline.
const NAMES: [&[u8]; 3] =
    [b"quote\"},{\"level\":\"error\"", b"move\x1b[2J\r\x08\x7f\xe2\x80\xae", b"no text \xff\xfe"];

fn lines(agent: &Agent) -> Result<Vec<Map<String, Value>>> {
    let parse = |line: &str| serde_json::from_str(line).with_context(|| format!("no object: {line:?}"));
    agent.log().split_terminator('\n').map(parse).collect()
}

#[test]
fn every_line_is_one_object_whatever_a_cgroup_is_called() -> Result<()> {
    let mut agent = Agent::new()?;
    let config = fs::read_to_string(agent.path("config.yaml"))?;
    fs::write(agent.path("config.yaml"), format!("{config}log: {{format: json, level: debug}}\n"))?;
    agent.write(&policy(agent.parent(), &[PLACE], &[]))?;
    agent.start()?;
    let newline = agent.parent().path().join("one\n{\"level\":\"error\"}");
    let refused = fs::create_dir(&newline).err().and_then(|error| error.raw_os_error());
    assert_eq!(refused, Some(22), "a name with a newline cannot be made");
    for name in NAMES {
        fs::create_dir(agent.parent().path().join(OsStr::from_bytes(name)))?;
    }
    agent.workload("plain")?;
    agent.wait_metric("workload_tier", &["tier=\"cgroup\""], NAMES.len() as f64 + 1.0)?;
    let why = "because\n{\"level\":\"error\"}";
    let asked = agent.ask(&["quarantine", "add", "plain", "--why", why, "--who", "a\nb"])?;
    ensure!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let asked = agent.ask(&["quarantine", "release", "plain", "--why", why, "--who", "a\nb"])?;
    ensure!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    agent.write("spec: [\n")?;
    agent.wait_metric("allowlist_last_reload_successful", &[], 0.0)?;
    for name in NAMES {
        fs::remove_dir(agent.parent().path().join(OsStr::from_bytes(name)))?;
    }
    agent.wait_metric("workload_tier", &["tier=\"cgroup\""], 1.0)?;
    agent.stop()?;
    check(&lines(&agent)?)
}

fn check(lines: &[Map<String, Value>]) -> Result<()> {
    let text =
        |line: &Map<String, Value>, key: &str| line.get(key).and_then(Value::as_str).map(str::to_owned);
    for line in lines {
        let head = ["time", "level", "message"].map(|key| text(line, key));
        let [Some(time), Some(level), Some(message)] = head else { anyhow::bail!("{line:?}") };
        ensure!(time.len() == 27 && time.ends_with('Z'), "{line:?}");
        ensure!(["error", "warn", "info", "debug"].contains(&level.as_str()), "{line:?}");
        ensure!(!message.is_empty(), "{line:?}");
        for key in ["workload", "policy", "error", "file"] {
            ensure!(line.get(key).is_none_or(Value::is_string), "{key} of {line:?}");
        }
        for key in ["line", "column"] {
            ensure!(line.get(key).is_none_or(Value::is_u64), "{key} of {line:?}");
        }
    }
    let about = |message: &str, key: &str| -> BTreeSet<String> {
        lines.iter().filter(|line| line["message"] == message).filter_map(|line| text(line, key)).collect()
    };
    let (enforced, gone) = (about("enforced", "workload"), about("let go", "workload"));
    assert_eq!((enforced.len(), gone.len()), (NAMES.len() + 1, NAMES.len()), "{enforced:?} {gone:?}");
    ensure!(enforced.iter().any(|name| name.contains("quote\"},{\"level\":\"error\"")), "{enforced:?}");
    ensure!(about("released from quarantine", "why").contains("because\n{\"level\":\"error\"}"), "{lines:?}");
    let errors = lines.iter().filter(|line| line["level"] == "error" && line.contains_key("line"));
    ensure!(errors.count() > 0, "no error of the allowlists with its place: {lines:?}");
    Ok(())
}
