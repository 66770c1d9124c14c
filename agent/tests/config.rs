//! The file of `run --config`, as an operator meets it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use egress_warden::allowlist::{Format, render};
use egress_warden::config::{Config, ConfigError, Flags, LogFormat, LogLevel};

struct File {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: &str) -> File {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    fs::write(&path, text).unwrap();
    File { _directory: directory, path }
}

fn load(text: &str, flags: Flags) -> Result<Config, ConfigError> {
    Config::load(Some(&file(text).path), flags)
}

/// What is printed for a file, with its name alone.
fn complaints(text: &str) -> String {
    let file = file(text);
    match Config::load(Some(&file.path), Flags::default()) {
        Err(ConfigError::File(diagnostics)) => render(&diagnostics, Format::Text)
            .replace(&format!("{}/", file.path.parent().unwrap().display()), ""),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn everything_has_a_default_but_the_allowlists() {
    let flags = Flags { allowlists: vec!["a.yaml".into()], ..Flags::default() };
    let config = Config::load(None, flags.clone()).unwrap();
    assert_eq!(config.allowlists, [Path::new("a.yaml")]);
    assert_eq!(config.metrics_listen, "127.0.0.1:9464".parse().unwrap());
    assert_eq!(config.state_dir, Path::new("/var/lib/egress-warden"));
    assert_eq!(config.control_socket, Path::new("/run/egress-warden/control.sock"));
    assert_eq!(config.pin_directory, Path::new("/sys/fs/bpf/egress-warden"));
    assert_eq!((config.cgroup_root.as_ref(), config.audit_log.as_ref()), (None, None));
    assert_eq!(config.selftest_every, Some(Duration::from_secs(3600)));
    assert_eq!((config.log.format, config.log.level), (LogFormat::Text, LogLevel::Info));
    for empty in ["", "# nothing yet\n", "---\n", "{}\n"] {
        assert_eq!(load(empty, flags.clone()).unwrap(), config, "{empty:?}");
        let error = load(empty, Flags::default()).unwrap_err();
        assert!(
            error.to_string().contains("--allowlists") && error.to_string().contains("`allowlists:`"),
            "{error}"
        );
    }
}

#[test]
fn every_key_is_read_and_paths_are_relative_to_the_file() {
    let file = file(
        "allowlists: [allowlists, /etc/more.yaml]\nmetrics: {listen: \"[::1]:9\"}\nstate_dir: state\n\
         control_socket: /run/x.sock\ncgroup_root: /sys/fs/cgroup/unified\nsources: [cgroups]\naudit_log: /var/log/x\n\
         selftest: {every: 90m}\nlog: {format: json, level: debug}\n",
    );
    let base = file.path.parent().unwrap();
    let config = Config::load(Some(&file.path), Flags::default()).unwrap();
    assert_eq!(config.allowlists, [base.join("allowlists"), "/etc/more.yaml".into()]);
    assert_eq!(config.metrics_listen, "[::1]:9".parse().unwrap());
    assert_eq!(config.state_dir, base.join("state"));
    assert_eq!(config.control_socket, Path::new("/run/x.sock"));
    assert_eq!(config.cgroup_root.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
    assert_eq!(config.audit_log.as_deref(), Some(Path::new("/var/log/x")));
    assert_eq!(config.selftest_every, Some(Duration::from_secs(5400)));
    assert_eq!((config.log.format, config.log.level), (LogFormat::Json, LogLevel::Debug));
}

#[test]
fn the_self_test_can_be_turned_off() {
    let config = load("allowlists: [a]\nselftest: {every: off}\n", Flags::default()).unwrap();
    assert_eq!(config.selftest_every, None);
    let config = load("allowlists: [a]\nselftest: {}\n", Flags::default()).unwrap();
    assert_eq!(config.selftest_every, Some(Duration::from_secs(3600)));
    let told = complaints("allowlists: [a]\nselftest: {every: 0}\n");
    assert!(told.contains("expected a length of time from 1m to 168h, such as 90s"), "{told}");
}

#[test]
fn flags_beat_the_file() {
    let flags = Flags {
        allowlists: vec!["mine".into()],
        metrics_listen: Some("127.0.0.2:1".parse().unwrap()),
        pin_directory: Some("/sys/fs/bpf/other".into()),
        kernel_log: true,
    };
    let config = load("allowlists: [theirs]\nmetrics: {listen: 127.0.0.1:2}\n", flags).unwrap();
    assert_eq!(config.allowlists, [Path::new("mine")]);
    assert_eq!(config.metrics_listen, "127.0.0.2:1".parse().unwrap());
    assert_eq!(config.pin_directory, Path::new("/sys/fs/bpf/other"));
    assert!(config.kernel_log);
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_its_place() {
    let text = "allowlist: [a]\nmetrics: {listen: localhost}\nlog: {format: jsn, levle: info}\nstate_dir: 7\n\
                sources: [cgroups, cri]\nguard: []\nselftest: {every: 1s}\nallowlists: []\n";
    let told = complaints(text);
    for expected in [
        "config.yaml:1:1: error: unknown key `allowlist` in the configuration",
        "did you mean `allowlists`?",
        "config.yaml:2:19: error: `metrics.listen`: expected an address and a port",
        "config.yaml:3:15: error: `log.format`: expected text or json, found \"jsn\"",
        "did you mean json?",
        "config.yaml:3:20: error: unknown key `levle` in `log`",
        "config.yaml:4:12: error: `state_dir`: expected a text, found the number 7",
        "config.yaml:5:20: error: `sources`: cri is not in this version",
        "config.yaml:6:1: error: `guard` is not in this version",
        "config.yaml:7:19: error: `selftest.every`: expected a length of time from 1m to 168h",
        "config.yaml:8:13: error: `allowlists`: the list is empty",
    ] {
        assert!(told.contains(expected), "{expected}\nis not in\n{told}");
    }
    assert_eq!(told.matches(": error: ").count(), 10 - 1, "{told}");
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    for (text, expected) in [
        ("state_dir: a\nstate_dir: b\n", "2:1: error: the key `state_dir` was already written at 1:1"),
        ("allowlists: &x [a]\n", "anchors (`&name`) are not accepted"),
        ("allowlists: [a]\n---\nallowlists: [b]\n", "3:1: error: a second document"),
        ("allowlists: a\n", "1:13: error: `allowlists`: expected a list"),
        ("- a\n", "1:1: error: the configuration: expected a mapping, found a list"),
        ("allowlists: [a, a]\n", "1:17: error: `allowlists`: the same again"),
        ("state_dir: \"\"\n", "1:12: error: `state_dir`: the path is empty"),
        ("metrics: {listen: 9464}\n", "help: 127.0.0.1:9464 for this machine only"),
        ("metrics: {listen: \":9464\"}\n", "help: 127.0.0.1:9464 for this machine only"),
        ("metrics: [\n", "not valid YAML"),
        ("sources: [docker]\n", "`sources`: expected cgroups, cri, nri or kube, found \"docker\""),
    ] {
        let told = complaints(text);
        assert!(told.contains(expected), "{text:?}: {told}");
    }
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let path = Path::new("/nonexistent/config.yaml");
    let Err(ConfigError::File(diagnostics)) = Config::load(Some(path), Flags::default()) else {
        panic!("it is")
    };
    let told = render(&diagnostics, Format::Text);
    assert!(
        told.starts_with("/nonexistent/config.yaml:1:1: error: cannot read /nonexistent/config.yaml: "),
        "{told}"
    );
}
