//! Input that is missing, broken, or asks for too much.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::Result;
use egress_warden_tests::job::Allowlists;

use super::Bench;

fn with(text: &str) -> Result<Bench> {
    Ok(Bench { lists: Allowlists::of_text(text)?, ..Bench::new()? })
}

const POLICY: &str = "\
apiVersion: egress-warden.dev/v1
kind: EgressPolicy
metadata: {name: job}
spec:
  select: {all: true}
  mode: enforce
";

/// Runs it and asserts where the errors are, how many, and what they say; the file's place is in front of each.
fn errors(bench: &Bench, file: &str, expected: &[(&str, &str)]) -> Result<()> {
    let text = bench.refused(bench.exec(&bench.arguments())?)?;
    let errors: Vec<&str> = text.lines().filter(|line| line.contains(": error: ")).collect();
    assert_eq!(errors.len(), expected.len(), "{text}");
    for (error, (place, what)) in errors.iter().zip(expected) {
        let start = format!("{}{file}{place}: error: ", bench.lists.path().display());
        assert!(error.starts_with(&start), "`{error}` does not start with `{start}`");
        assert!(error.contains(what), "no `{what}` in: {error}");
    }
    assert!(text.ends_with("egress-warden: the allowlists have errors; nothing was run\n"), "{text}");
    Ok(())
}

#[test]
fn a_file_that_is_not_there_or_cannot_be_read() -> Result<()> {
    let bench = Bench::new()?;
    let list = bench.lists.path().join("list.yaml");
    fs::remove_file(&list)?;
    symlink("gone", &list)?;
    errors(&bench, "/list.yaml", &[(":1:1", "cannot read")])?;
    fs::remove_file(&list)?;
    // Root reads whatever its mode says, but not this.
    symlink("/proc/self/mem", &list)?;
    errors(&bench, "/list.yaml", &[(":1:1", "")])
}

#[test]
fn a_directory_without_allowlists() -> Result<()> {
    let bench = Bench::new()?;
    fs::rename(bench.lists.path().join("list.yaml"), bench.lists.path().join(".list.yaml"))?;
    errors(&bench, "", &[(":1:1", "no ")])
}

#[test]
fn a_file_cut_at_any_byte() -> Result<()> {
    let whole = format!("{POLICY}  allow: [places]\n---\n{DESTINATIONS}");
    // The middle of a key, of a list, of a document; the last cut leaves a policy whose Destinations are missing.
    for cut in ["apiVer", "select: {al", "mode: enf", "allow: [pla", "---\n", "cidrs: [10.0"] {
        let at = whole.find(cut).map_or(0, |start| start + cut.len());
        let bench = with(&whole[..at])?;
        let text = bench.refused(bench.exec(&bench.arguments())?)?;
        assert!(text.contains("/list.yaml:") && text.contains(": error: "), "cut after `{cut}`: {text}");
    }
    let bench = with(&whole)?;
    bench.succeeds(bench.exec(&bench.arguments())?).map(drop)
}

const DESTINATIONS: &str = "\
apiVersion: egress-warden.dev/v1
kind: Destinations
metadata: {name: places}
spec:
  to:
    - cidrs: [10.0.0.0/8]
      why: test
";

#[test]
fn a_policy_that_does_not_exist() -> Result<()> {
    let bench = Bench::new()?;
    let arguments =
        bench.arguments().into_iter().map(|word| if word == "job" { "jop".to_owned() } else { word });
    let arguments: Vec<String> = arguments.collect();
    bench.refused_with(bench.exec(&arguments)?, &["--policy jop", "no such policy", "have: job"])
}

#[test]
fn what_exec_cannot_enforce_is_named_with_its_place() -> Result<()> {
    let bench = with(&format!(
        "{POLICY}  allow: []\n  require: [backstop]\n  quarantine: {{violations: 5, within: 60s, action: kill}}\n"
    ))?;
    let text = bench.refused(bench.exec(&bench.arguments())?)?;
    assert!(text.starts_with("egress-warden: policy job asks for what exec cannot enforce yet"), "{text}");
    let list = bench.lists.path().join("list.yaml").display().to_string();
    let entries: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(entries.len(), 2, "{text}");
    let place = |entry: &str| {
        let rest = entry.trim_start().strip_prefix(&format!("{list}:")).unwrap_or_default().to_owned();
        rest.split(':').take(2).filter(|number| number.parse::<u32>().is_ok()).count() == 2
    };
    assert!(entries.iter().all(|entry| place(entry)), "{text}");
    assert!(text.contains("require") && text.contains("quarantine.action: kill"), "{text}");
    Ok(())
}

/// Whatever becomes of older connections: nothing is older than what it runs.
#[test]
fn what_is_older_is_nothing_to_exec() -> Result<()> {
    for existing in ["keep", "cut"] {
        let bench = with(&format!("{POLICY}  allow: []\n  existing: {existing}\n"))?;
        bench.succeeds(bench.exec(&bench.arguments())?)?;
    }
    Ok(())
}

#[test]
fn more_than_a_ruleset_holds() -> Result<()> {
    // Every other port is an interval of its own: more of them than one place may have.
    let ports: Vec<String> = (1..=4100).map(|number| (2 * number).to_string()).collect();
    let text = format!(
        "{POLICY}  allow: [places]\n---\n{}",
        DESTINATIONS.replace("      why", &format!("      ports: [{}]\n      why", ports.join(", ")))
    );
    let bench = with(&text)?;
    bench.refused_with(bench.exec(&bench.arguments())?, &["4096"])
}

#[test]
fn a_command_that_cannot_be_started() -> Result<()> {
    let bench = Bench::new()?;
    let lists = bench.lists.path().display().to_string();
    let plain = bench.lists.scratch("plain");
    fs::write(&plain, "text")?;
    let plain = plain.display().to_string();
    for (command, needle) in [
        ("no-such-command-at-all", "command not found in PATH"),
        ("/no/such/file", "no such file"),
        (plain.as_str(), "executable"),
    ] {
        let arguments = ["exec", "--allowlists", &lists, "--policy", "job", "--", command];
        bench.refused_with(bench.exec(&arguments)?, &[command, needle])?;
    }
    Ok(())
}

#[test]
fn arguments_that_are_wrong() -> Result<()> {
    let bench = Bench::new()?;
    let lists = bench.lists.path().display().to_string();
    for arguments in [
        vec!["exec", "--policy", "job", "--", "true"],
        vec!["exec", "--allowlists", &lists, "--", "true"],
        vec!["exec", "--allowlists", &lists, "--policy", "job"],
        vec!["exec", "--allowlists", &lists, "--policy", "job", "--mode", "off", "--", "true"],
        vec!["exec", "--allowlists", &lists, "--policy", "job", "--keep-caps", "SYS_ADMIN", "--", "true"],
    ] {
        bench.refused(bench.exec(&arguments)?)?;
    }
    Ok(())
}
