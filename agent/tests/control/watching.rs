//! `watch`: violations as they happen.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::sync::Arc;

use serde_json::Value;

use crate::support::{Agent, WAITING, event, eventually, node};

fn watch(agent: &Agent, arguments: &[&str]) -> Child {
    let mut command = agent.command(&[&["watch"], arguments].concat());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start watch");
    eventually("it watches", || agent.events.receiver_count() == 1);
    child
}

fn tell(agent: &Agent, number: u32) {
    agent.events.send(Arc::new(event(number))).expect("somebody watches");
}

#[test]
fn violations_are_told_one_a_line() {
    let mut agent = Agent::start(node(Vec::new()));
    let mut child = watch(&agent, &[]);
    tell(&agent, 7);
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let expected = "2026-01-02T03:04:05Z /jobs/a refused: tcp to 10.0.0.9:443: not_allowlisted, \
                    by cu\\u{1b}rl (pid 7), see a.yaml:7";
    assert_eq!(lines.next().expect("a line").expect("UTF-8"), expected);
    agent.stop();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("egress-warden: the agent"), "{output:?}");
}

#[test]
fn as_json_it_is_the_audit_logs_line() {
    let agent = Agent::start(node(Vec::new()));
    let mut child = watch(&agent, &["--json"]);
    tell(&agent, 7);
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let line = lines.next().expect("a line").expect("UTF-8");
    assert_eq!(format!("{line}\n").into_bytes(), event(7).line().expect("JSON"));
    // Nobody reads any more, and nothing happens: it ends all the same.
    drop(lines);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    eventually("the agent has forgotten it", || agent.events.receiver_count() == 0);
}

#[test]
fn a_client_that_never_reads_stalls_nobody_and_is_told_what_it_missed() {
    let agent = Agent::start(node(Vec::new()));
    let lazy = agent.connect();
    (&lazy).write_all(b"{\"version\":1,\"request\":\"watch\"}\n").expect("write");
    eventually("it watches", || agent.events.receiver_count() == 1);
    let mut told = 0;
    // Until the connection is full and more waits than there is room for.
    eventually("it is behind", || {
        for _ in 0..100 {
            tell(&agent, told);
            told += 1;
        }
        agent.events.len() == WAITING && told > 5_000
    });
    assert!(agent.run(&["status"]).status.success());
    let (mut seen, mut missed, mut lines) = (0, 0, BufReader::new(&lazy).lines());
    assert_eq!(lines.next().expect("a line").expect("UTF-8"), "\"watching\"");
    while seen + missed < u64::from(told) {
        let line: Value = serde_json::from_str(&lines.next().expect("a line").expect("UTF-8")).expect("JSON");
        match line["missed"].as_u64() {
            Some(count) => missed += count,
            None => {
                assert!(line["violation"].is_object(), "{line}");
                seen += 1;
            }
        }
    }
    assert!(missed > 0 && seen + missed == u64::from(told), "{seen} seen, {missed} missed of {told}");
    lazy.shutdown(std::net::Shutdown::Both).expect("shutdown");
    let _ = (&lazy).read(&mut [0]);
}
