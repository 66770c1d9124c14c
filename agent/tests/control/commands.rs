//! Every command against a running agent: what it prints, what it asks, how it exits.

use egress_warden::allowlist::Action;
use serde_json::Value;

use crate::support::{Agent, Asked, busy_node, node, program, stderr, stdout};

#[test]
fn status_fits_a_terminal_and_tells_everything_that_matters() {
    let agent = Agent::start(busy_node());
    let output = agent.run(&["status"]);
    assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)));
    let expected = "\
WORKLOAD                      POLICY    MODE     RULESET   TIER        VIOLATIONS  QUARANTINE  SINCE
/jobs/a                       training  audit    feedbeef  cgroup      42          -           2h05m
/jobs/od\\u{1b}d               training  enforce  feedbeef  unenforced  0           -           -
6f1b0c7e-0d4c…5-0b6c2f0f7e11  training  enforce  feedbeef  cgroup      0           isolate     2h05m

not enforced  /jobs/od\\u{1b}d: an ancestor has an exclusive program
open          6f1b0c7e-0d4c-4a3e-9a55-0b6c2f0f7e11: 192.0.2.1 for models.example, since 2h05m
open          6f1b0c7e-0d4c-4a3e-9a55-0b6c2f0f7e11: 192.0.2.2 for models.example, since 2h05m
open          6f1b0c7e-0d4c-4a3e-9a55-0b6c2f0f7e11: 192.0.2.3 for models.example, since 2h05m
open          6f1b0c7e-0d4c-4a3e-9a55-0b6c2f0f7e11: 2 more for names; --json has all of them
policies      training (enforce, feedbeef, 3 workloads)
allowlists    the copy of the last valid files; loading the files failed 2027-01-15T08:00:00Z:
              a.yaml:3:5: error: unknown key `cidr`
              a.yaml:9:1: error: no `why`
ready         no: 1 workload is not enforced
";
    assert_eq!(stdout(&output), expected);
    assert!(expected.lines().all(|line| line.chars().count() <= 100));
}

#[test]
fn a_self_test_tells_way_by_way_and_fails_where_one_is_open() {
    let agent = Agent::start(node(Vec::new()));
    let output = agent.run(&["selftest"]);
    let expected = "\
WAY    RESULT             REASON       WHAT
tcp    closed             socket_type  the way by tcp
frame  OPEN               socket_type  the way by frame: it arrived
raw    not testable here  socket_type  the way by raw: no right

1 ways out closed, 1 open, 1 not testable here; the running agent's programs, Linux 6.18.0, 400 ms
";
    assert_eq!((stdout(&output).as_str(), output.status.code()), (expected, Some(1)));
    let output = agent.run(&["selftest", "--json"]);
    let told: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!((&told["schema"], &told["passed"], output.status.code()), (&1.into(), &false.into(), Some(1)));
    assert_eq!(told["ways"][2]["verdict"], "not-testable");
    assert_eq!(told["ways"][0]["why"], Value::Null);
}

#[test]
fn status_tells_the_last_self_test() {
    let mut tested = node(Vec::new());
    let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
    tested.selftest.last = Some((at, Err("1 open: frame".into())));
    let told = stdout(&Agent::start(tested).run(&["status"]));
    assert!(told.contains("\nself-test     FAILED 2027-01-15T08:00:00Z: 1 open: frame\n"), "{told}");
}

#[test]
fn status_of_a_node_without_workloads() {
    let agent = Agent::start(node(Vec::new()));
    let expected = "\
no policy selects any workload on this node

policies      training (enforce, feedbeef, 3 workloads)
allowlists    the files, loaded 2027-01-15T08:00:00Z
ready         yes
";
    assert_eq!(stdout(&agent.run(&["status"])), expected);
}

#[test]
fn status_as_json_has_the_documented_keys() {
    let agent = Agent::start(busy_node());
    let output = agent.run(&["status", "--json"]);
    assert!(output.status.success());
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&status["schema"], &status["ready"]), (&1.into(), &false.into()));
    assert_eq!(status["allowlists"]["source"], "last-good");
    assert_eq!(status["policies"][0]["ruleset"], "feedbeef00000001");
    let [job, odd, pod] = status["workloads"].as_array().expect("a list").as_slice() else { panic!("three") };
    assert_eq!(job["violations"], 42);
    assert_eq!(job["violations_by_reason"]["not_allowlisted"]["tcp"], 40);
    assert!(job["quarantine"].is_null() && job["pod"].is_null() && odd["enforced_since"].is_null());
    assert_eq!(odd["path"], "/jobs/od\u{1b}d");
    assert_eq!((&pod["pod"]["name"], &pod["quarantine"]["who"]), (&"train-0".into(), &"kernel".into()));
    let [first, .., last] = pod["grants"].as_array().expect("a list").as_slice() else { panic!("five") };
    assert_eq!((&first["address"], &first["name"]), (&"192.0.2.1".into(), &"models.example".into()));
    assert!(first["since"].is_string() && first["until"].is_string() && last["name"].is_null());
    // Whatever is printed is described.
    let described = include_str!("../../../docs/control.md");
    let mut keys = Vec::new();
    collect_keys(&status, &mut keys);
    let listed: Value =
        serde_json::from_slice(&agent.run(&["quarantine", "list", "--history", "--json"]).stdout)
            .expect("JSON");
    collect_keys(&listed, &mut keys);
    let tested: Value = serde_json::from_slice(&agent.run(&["selftest", "--json"]).stdout).expect("JSON");
    collect_keys(&tested, &mut keys);
    let counters = ["not_allowlisted", "denied", "tcp", "udp"];
    for key in keys.iter().filter(|key| !counters.contains(&key.as_str())) {
        assert!(described.contains(&format!("`{key}`")), "docs/control.md does not describe `{key}`");
    }
}

fn collect_keys(value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                keys.push(key.clone());
                collect_keys(value, keys);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_keys(value, keys)),
        _ => {}
    }
}

#[test]
fn quarantines_are_listed_with_their_history() {
    let agent = Agent::start(busy_node());
    let output = agent.run(&["quarantine", "list", "--history"]);
    let text = stdout(&output);
    assert!(text.starts_with("WORKLOAD "), "{text}");
    let row = text.lines().nth(1).expect("a row");
    assert!(
        row.starts_with("6f1b0c7e-") && row.contains("  isolate  2h05m  released  kernel  20 violations"),
        "{text}"
    );
    assert!(text.contains("\n2026-01-02T03:04:05Z  released  /jobs/old  training  ann, uid 0"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(!stdout(&agent.run(&["quarantine", "list"])).contains("/jobs/old"));
    let none = Agent::start(node(Vec::new()));
    assert_eq!(stdout(&none.run(&["quarantine", "list"])), "no workload is in quarantine\n");
}

#[test]
fn add_and_release_tell_who_and_why() {
    let agent = Agent::start(busy_node());
    let output = agent.run(&["quarantine", "add", "a", "--why", "odd", "--action", "freeze", "--who", "ann"]);
    assert_eq!(stdout(&output), "/jobs/a is in quarantine (freeze)\n", "{}", stderr(&output));
    let mut release = agent.command(&["quarantine", "release", "ml/train-0", "--why", "checked"]);
    let output = release.env("SUDO_USER", "bob").output().expect("start");
    assert_eq!(stdout(&output), "6f1b0c7e-0d4c-4a3e-9a55-0b6c2f0f7e11 is out of quarantine\n");
    let comm = "uid 0 (egress-warden)";
    let added = Asked::Quarantine {
        workload: "/jobs/a".into(),
        action: Action::Freeze,
        who: format!("ann, {comm}"),
        why: "odd".into(),
    };
    let released = Asked::Release {
        workload: "6f1b0c7e-0d4c-4a3e-9a55-0b6c2f0f7e11".into(),
        who: format!("bob, {comm}"),
        why: "checked".into(),
    };
    assert_eq!(agent.asked(), [added, released]);
}

#[test]
fn what_cannot_be_done_is_told() {
    let agent = Agent::start(busy_node());
    for (arguments, told) in [
        (
            ["quarantine", "add", "nobody", "--why", "x"].as_slice(),
            "no workload is called nobody; there are:",
        ),
        (&["quarantine", "add", "jobs", "--why", "x"], "close ones:\n  /jobs/a\n"),
        (&["quarantine", "add", "/jobs/a", "--why", " "], "`why` is empty"),
        (&["quarantine", "release", "/jobs/a"], "--why <TEXT>"),
        (&["quarantine", "add", "/jobs/a", "--why", "x", "--action", "kill"], "it cannot be killed"),
    ] {
        let output = agent.run(arguments);
        assert_eq!((stdout(&output).as_str(), output.status.code()), ("", Some(1)), "{arguments:?}");
        assert!(stderr(&output).contains(told), "{arguments:?}: {}", stderr(&output));
    }
    let asked = agent.asked();
    assert!(matches!(&asked[..], [Asked::Quarantine { action: Action::Kill, .. }]), "{asked:?}");
}

#[test]
fn detach_asks_a_running_agent_and_needs_none() {
    let mut agent = Agent::start(busy_node());
    let output = agent.run(&["detach"]);
    assert_eq!(stdout(&output), "2 workloads are no longer enforced\n", "{}", stderr(&output));
    assert_eq!(agent.asked(), [Asked::Detach]);
    agent.stop();
    // No bpffs, so nothing that could be pinned.
    let pins = agent.directory.path().join("pins").to_str().expect("UTF-8").to_owned();
    let output = agent.run(&["detach", "--all", "--pin-directory", &pins]);
    assert_eq!(stdout(&output), "0 workloads are no longer enforced\n", "{}", stderr(&output));
}

#[test]
fn without_an_agent_it_says_so() {
    let mut agent = Agent::start(busy_node());
    agent.stop();
    let socket = agent.socket();
    for arguments in [["status"].as_slice(), &["watch"], &["quarantine", "list"]] {
        let output = program(arguments).env("EGRESS_WARDEN_SOCKET", &socket).output().expect("start");
        let expected = format!(
            "egress-warden: no agent answers at {}: is egress-warden run active?\n",
            socket.display()
        );
        assert_eq!((stderr(&output), output.status.code()), (expected, Some(1)));
    }
}
