//! Records: every field as promised, and exact totals when there are more than can be written.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::Value;

use crate::support::{Allowlists, Scene};

const ENTRIES: &str = r#"
- cidrs: [10.77.2.2/32, "fd77:2::2/128"]
  ports: [80, 53/udp]
  why: services
"#;

const KEYS: [&str; 13] = [
    "comm", "dst", "mode", "name", "pid", "port", "protocol", "reason", "rule", "src", "tgid", "time",
    "workload",
];

/// `2026-01-02T03:04:05.678Z`, as RFC 3339 writes it.
fn is_rfc3339(text: &str) -> bool {
    let shape =
        |text: &str| text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect::<String>();
    let (Some(head), Some(tail)) = (text.get(..19), text.get(19..)) else { return false };
    shape(head) == "0000-00-00T00:00:00"
        && tail.ends_with('Z')
        && matches!(shape(tail.trim_end_matches('Z')).trim_end_matches('0'), "" | ".")
}

fn keys(event: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = event.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn a_record_says_who_tried_what_and_why_not() -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = Allowlists::enforce(ENTRIES)?;
    // /proc is the jail's own; the host's id of a process stands in NSpid only where the reader sees the host's
    // namespace. So the process waits, and the test looks it up by its name.
    let program = r#"
open("/proc/self/comm", "w").write("a-thief")
with socket.socket(AF_INET, SOCK_DGRAM) as s:
    s.connect(("10.77.2.2", 54))
    print("from", *s.getsockname(), flush=True)
    errno_of(s.send, b"x")
errno_of(tcp, "fd77:2::2", 81)
errno_of(udp, "10.88.0.9", 53)
print("ready", flush=True)
sys.stdin.readline()
"#;
    let program = format!("{}\n{program}", crate::support::PRELUDE);
    let mut exec = allowlists.start(scene.job(), &["python3", "-c", &program])?;
    let wrapper = exec.id();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(exec.stdout.take().expect("a pipe")));
    let from = lines.next().expect("a line")?;
    assert_eq!(lines.next().expect("a line")?, "ready");
    let thief = cgroup_processes(wrapper)?.into_iter().find(|(_, comm)| comm == "a-thief");
    let (thief, _) = thief.expect("the process is in the wrapper's cgroup");
    let report = allowlists.finish(exec)?;

    assert_eq!(report.events.len(), 3, "{report:?}");
    for event in &report.events {
        assert_eq!(keys(event), KEYS);
        assert!(is_rfc3339(event["time"].as_str().unwrap_or_default()), "{event}");
        assert_eq!((&event["pid"], &event["tgid"]), (&thief.into(), &thief.into()), "{event}");
        assert_eq!((&event["comm"], &event["mode"]), (&"a-thief".into(), &"enforce".into()), "{event}");
        let workload = event["workload"].as_str().unwrap_or_default();
        assert!(workload.ends_with(&format!("/egress-warden-exec.{wrapper}")), "{event}");
        assert!(event["name"].is_null(), "{event}");
    }
    let [connected, tcp, sendto] = &report.events[..] else { unreachable!("three") };
    let rule = allowlists.place_of("cidrs:")?;
    assert_eq!(
        format!("from {} 0", connected["src"].as_str().unwrap_or_default()).split(' ').nth(1),
        from.split(' ').nth(1)
    );
    assert_eq!((&connected["dst"], &connected["port"]), (&"10.77.2.2".into(), &54.into()));
    assert_eq!((&connected["protocol"], &connected["reason"]), (&"udp".into(), &"port_not_allowed".into()));
    assert_eq!(connected["rule"], rule);
    assert_eq!((&tcp["dst"], &tcp["port"]), (&"fd77:2::2".into(), &81.into()));
    assert_eq!(
        (&tcp["protocol"], &tcp["reason"], &tcp["rule"]),
        (&"tcp".into(), &"port_not_allowed".into(), &rule.into())
    );
    assert_eq!((&sendto["dst"], &sendto["reason"]), (&"10.88.0.9".into(), &"not_allowlisted".into()));
    // The source of a refused connect or sendto was not chosen yet.
    assert!(sendto["rule"].is_null() && sendto["src"].is_null() && tcp["src"].is_null());
    Ok(())
}

/// The processes below a running wrapper, by the host's ids, with their names.
fn cgroup_processes(wrapper: u32) -> Result<Vec<(u32, String)>> {
    let name = format!("/egress-warden-exec.{wrapper}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if cgroup.lines().any(|line| line.starts_with("0::") && line.ends_with(&name)) {
            let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push((id, comm.trim_end().to_owned()));
        }
    }
    Ok(found)
}

#[test]
fn what_was_not_written_is_counted_exactly() -> Result<()> {
    const ATTEMPTS: u64 = 3_000;
    let scene = Scene::new()?;
    let allowlists = Allowlists::enforce(ENTRIES)?;
    let program = format!(
        "with socket.socket(AF_INET, SOCK_DGRAM) as s:\n    for _ in range({ATTEMPTS}):\n        \
         errno_of(s.sendto, b'x', ('10.88.0.9', 53))\nattempt('udp', '10.77.2.2', 53)"
    );
    let report = allowlists.python(scene.job(), &program)?;
    scene.settle()?;
    assert_eq!(scene.arrived(17, "10.88.0.9:53".parse()?), 0);
    assert_eq!(scene.arrived(17, "10.77.2.2:53".parse()?), 1);
    assert_eq!(report.refused().0, ATTEMPTS, "{}", report.summary);
    let lost = report.note("records were not written");
    assert!(lost > 0, "the limit was never reached");
    assert!(report.events.len() >= 128, "{} records", report.events.len());
    assert_eq!(report.events.len() as u64 + lost, ATTEMPTS, "{}", report.summary);
    Ok(())
}

#[test]
fn destinations_beyond_the_table_keep_the_totals_exact() -> Result<()> {
    const DESTINATIONS: u64 = 1_500;
    const TABLE: u64 = 1_024;
    let scene = Scene::new()?;
    let allowlists = Allowlists::enforce(ENTRIES)?;
    let program = format!(
        "for number in range({DESTINATIONS}):\n    \
         errno_of(udp, '10.99.%d.%d' % (number >> 8, number & 255), 53)\n    errno_of(tcp, 'fd99::%x' % number, 53)\n\
         attempt('udp', '10.77.2.2', 53)"
    );
    let report = allowlists.python(scene.job(), &program)?;
    scene.settle()?;
    assert_eq!(scene.arrived(17, "10.77.2.2:53".parse()?), 1);
    assert_eq!(report.refused().0, 2 * DESTINATIONS, "{}", report.summary);
    // The kernel may keep a few elements ready for each processor, so the table may hold less, never more.
    let beyond = report.note("beyond the table");
    assert!(beyond >= 2 * DESTINATIONS - TABLE, "{}", report.summary);
    let listed: u64 = report
        .summary
        .lines()
        .filter(|line| line.starts_with("     ") && !line.starts_with("            "))
        .filter_map(|line| line.trim().split(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(listed + beyond, 2 * DESTINATIONS, "{}", report.summary);
    let places: BTreeSet<_> = report.events.iter().map(|event| event["dst"].to_string()).collect();
    assert_eq!(places.len(), report.events.len(), "each destination was tried once");
    Ok(())
}
