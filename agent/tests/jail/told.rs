//! What people read: nothing of it moves their cursor, and a standard error that takes nothing ends no run.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use nix::sys::stat::Mode;

use super::support::{UNDER_ARGUMENTS, exec, stderr, stdout};

/// Sets the title of a terminal, then turns the direction of writing.
const HOSTILE: &str = "\u{1b}]0;x\u{7}\u{202e}";

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_egress-warden"))
}

#[test]
fn nothing_that_was_typed_moves_the_cursor() {
    let to = format!("10.0.0.1{HOSTILE}:443");
    let mut explain = program();
    explain.arg("explain").args(UNDER_ARGUMENTS).args(["--to", &to]);
    let mut policy = program();
    policy.arg("exec").args(&UNDER_ARGUMENTS[..3]).args([HOSTILE, "--", "true"]);
    let mode = exec(&["--mode", HOSTILE, "--", "true"]);
    for mut command in [explain, policy, mode, exec(&["--", HOSTILE])] {
        let output = command.stdin(Stdio::null()).output().expect("start");
        let text = stderr(&output);
        assert!(!output.status.success());
        // The reader of the command line drops whole escape sequences.
        assert!(text.contains("\\u{202e}"), "{text:?}");
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text:?}");
    }
}

#[test]
fn an_escape_in_an_allowlist_is_refused_like_the_character() {
    let directory = tempfile::tempdir().expect("a directory");
    let list = directory.path().join("list.yaml");
    for escape in ["\\e]0;x", "\\u202e", "\\r", "\\0", "\\x9b"] {
        let text = format!(
            "apiVersion: egress-warden.dev/v1\nkind: Destinations\nmetadata: {{name: places}}\nspec:\n  to:\n    \
             - cidrs: [10.0.0.0/8]\n      why: \"test {escape}\"\n"
        );
        fs::write(&list, text).expect("write");
        let output = program().arg("check").arg(&list).output().expect("start");
        assert_eq!(output.status.code(), Some(1), "{escape}: {}", stdout(&output));
        assert!(stderr(&output).contains("list.yaml:7:12: error: "), "{escape}: {}", stderr(&output));
        assert!(stderr(&output).contains("invisible character U+"), "{escape}: {}", stderr(&output));
    }
}

#[test]
fn a_full_standard_error_is_no_panic() {
    let full = || File::options().write(true).open("/dev/full").expect("open");
    let status = |mut command: Command| command.stderr(full()).status().expect("start").code();
    assert_eq!(status(exec(&["--", "no-such-command-here"])), Some(125));
    assert_eq!(status(exec(&["--keep-caps", "NONSENSE", "--", "true"])), Some(125));
    assert_eq!(status(exec(&["--", "true"])), Some(0));
    let mut explain = program();
    explain.arg("explain").args(UNDER_ARGUMENTS).args(["--to", "nonsense"]);
    assert_eq!(status(explain), Some(1));
    let mut explain = program();
    explain.arg("explain").args(UNDER_ARGUMENTS).args(["--to", "192.0.2.1:1"]).stdout(full());
    assert_eq!(status(explain), Some(1));
}

#[test]
fn capabilities_that_bypass_the_judge_are_told_twice() {
    for name in ["NET_RAW", "NET_ADMIN"] {
        let output = exec(&["--keep-caps", name, "--", "true"]).output().expect("start");
        let text = stderr(&output);
        let told: Vec<&str> = text.lines().filter(|line| line.contains(" is kept: ")).collect();
        assert_eq!(told.len(), 2, "{text}");
        assert!(told[0].starts_with(&format!("egress-warden: {name} is kept: ")), "{text}");
        assert!(told[1].starts_with(&format!("  note         {name} is kept: ")), "{text}");
        assert!(told.iter().all(|line| line.ends_with("do not rely on this run")), "{text}");
    }
    let output = exec(&["--", "true"]).output().expect("start");
    assert!(!stderr(&output).contains(" is kept"), "{}", stderr(&output));
}

#[test]
fn records_never_replace_an_allowlist() {
    let directory = tempfile::tempdir().expect("a directory");
    let list = directory.path().join("list.yaml");
    let policy = "apiVersion: egress-warden.dev/v1\nkind: EgressPolicy\nmetadata: {name: job}\n\
        spec:\n  select: {all: true}\n  mode: enforce\n  allow: []\n";
    fs::write(&list, policy).expect("write");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&list, &link).expect("link");
    for events in [&list, &link] {
        let mut command = program();
        command.args(["exec", "--allowlists"]).arg(&list).args(["--policy", "job", "--events"]).arg(events);
        let output = command.args(["--", "true"]).output().expect("start");
        assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
        assert!(stderr(&output).contains("this is the allowlist "), "{}", stderr(&output));
        assert_eq!(fs::read_to_string(&list).expect("read"), policy);
    }
}

#[test]
fn records_for_a_fifo_without_a_reader() {
    let directory = tempfile::tempdir().expect("a directory");
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).expect("a FIFO");
    let output = exec(&["--events", fifo.to_str().expect("text"), "--", "true"]).output().expect("start");
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(stderr(&output).contains("nobody reads from this FIFO"), "{}", stderr(&output));
}

#[test]
fn what_no_entry_can_allow_is_told() {
    let connect = "import socket\nfor port in PORTS:\n    try:\n        \
        socket.socket().connect(('192.0.2.1', port))\n    except PermissionError:\n        pass";
    for (ports, what, rest) in [
        ("[0, 9]", Some("to allow most of that, "), Some("no entry can allow: 192.0.2.1:0/tcp")),
        ("[9]", Some("to allow all of that, "), None),
        ("[0]", None, Some("no entry can allow: 192.0.2.1:0/tcp")),
    ] {
        let script = connect.replace("PORTS", ports);
        let output = exec(&["--", "python3", "-c", &script]).output().expect("start");
        let text = stderr(&output);
        for (line, expected) in [("  to allow ", what), ("  no entry can allow", rest)] {
            let told = text.lines().find(|told| told.starts_with(line));
            assert_eq!(told.is_some(), expected.is_some(), "{ports}: {text}");
            assert!(
                expected.is_none_or(|expected| told.is_some_and(|told| told.contains(expected))),
                "{text}"
            );
        }
    }
}

#[test]
fn a_process_writes_its_name_and_nothing_else() {
    let script = "import socket\nopen('/proc/self/comm', 'w').write('a\\x1b]0;x\\u202e')\n\
        try:\n    socket.socket().connect(('192.0.2.1', 9))\nexcept PermissionError:\n    pass";
    let output = exec(&["--", "python3", "-c", script]).output().expect("start");
    let text = stderr(&output);
    assert!(text.contains("a\\u{1b}]0;x\\u{202e} (pid "), "{text:?}");
    assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
}

#[test]
fn a_refused_name_is_counted_and_proposed_and_its_resolver_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let list = directory.path().join("list.yaml");
    let text = "apiVersion: egress-warden.dev/v1\nkind: Destinations\nmetadata: {name: places}\nspec:\n  to:\n    \
                - {domains: [models.example], ports: [443], why: test}\n---\n\
                apiVersion: egress-warden.dev/v1\nkind: EgressPolicy\nmetadata: {name: names}\nspec:\n  \
                select: {all: true}\n  mode: enforce\n  allow: [places]\n  dns: {resolvers: [127.0.0.1/32]}\n";
    fs::write(&list, text).expect("write");
    let ask = "import socket\nfor _ in range(2):\n  s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n  \
               try: s.sendto(bytes([0,1,1,0,0,1,0,0,0,0,0,0])+b'\\5model\\7example\\0\\0\\1\\0\\1',('127.0.0.1',53))\n  \
               except OSError: pass";
    let mut command = program();
    command
        .arg("exec")
        .arg("--allowlists")
        .arg(&list)
        .args(["--policy", "names", "--", "python3", "-c", ask]);
    let output = command.stdin(Stdio::null()).output().expect("start");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("  model.example  dns_name\n"), "{text}");
    assert!(text.contains("nearest: models.example of "), "{text}");
    let (_, proposed) = text.split_once("  to allow ").expect("a proposal");
    assert!(
        proposed.contains(
            "    - domains: [model.example]\n      # no port was seen: a guess\n      ports: [443]\n"
        ),
        "{text}"
    );
    assert!(!proposed.contains("127.0.0.1"), "{text}");
}
