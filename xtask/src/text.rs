//! `cargo xtask text`: what must not stand in a committed file.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::no_arguments;
use crate::run::workspace;

/// Help of the task.
pub(crate) const HELP: &str = "\
Usage: cargo xtask text

Checks every committed text file: no host name of a public package registry, which a mirror may stand in for, and no
path of one person's machine.";

/// Paths that exist on one machine only. Split, so that this file does not find itself.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/home", "/"), concat!("/root", "/"), concat!("/Users", "/"), concat!("/work", "/")];

/// What a registry's host name ends in, after its own label.
const REGISTRIES: [(&str, &str); 8] = [
    ("crates", "io"),
    ("pypi", "org"),
    (concat!("python", "hosted"), "org"),
    (concat!("npm", "js"), "org"),
    (concat!("npm", "js"), "com"),
    (concat!("deb.", "debian"), "org"),
    (concat!("security.", "debian"), "org"),
    ("archive.ubuntu", "com"),
];

/// Runs the task.
pub(crate) fn task(args: &[String]) -> Result<()> {
    no_arguments(args)?;
    let listed =
        Command::new("git").args(["ls-files", "-z"]).current_dir(workspace()).output().context("git")?;
    if !listed.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim_end());
    }
    let mut findings = Vec::new();
    for name in String::from_utf8(listed.stdout)?.split_terminator('\0') {
        // cargo writes the lock file, and names its registry there.
        if name == "Cargo.lock" {
            continue;
        }
        // A file that is deleted but not yet committed has nothing to say, and a binary file is not text.
        if let Ok(text) = fs::read_to_string(workspace().join(name)) {
            findings.extend(check(name, &text));
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{}", findings.join("\n"))
}

/// What is wrong with one file.
fn check(name: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if let Some((host, top)) =
            REGISTRIES.iter().find(|(host, top)| names_host(line, &format!("{host}.{top}")))
        {
            findings.push(format!("{name}:{number}: names the public registry {host}.{top}"));
        }
        if let Some(path) = MACHINE_PATHS.iter().find(|path| names_path(line, path)) {
            findings.push(format!("{name}:{number}: names a path of one machine, below {path}"));
        }
    }
    findings
}

/// Whether a line names a host, or one below it.
fn names_host(line: &str, host: &str) -> bool {
    let is_label = |letter: char| letter.is_alphanumeric() || letter == '-';
    line.match_indices(host)
        .any(|(at, _)| !line[..at].ends_with(is_label) && !line[at + host.len()..].starts_with(is_label))
}

/// Whether a line names a path that begins like this, and not one that merely contains it.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        !line[..at].ends_with(|letter: char| letter.is_alphanumeric() || "-_.~}*/>".contains(letter))
            && line[at + path.len()..]
                .starts_with(|letter: char| letter.is_alphanumeric() || "._".contains(letter))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_found_and_their_likes_are_not() {
        let host = ["pypi", "org"].join(".");
        assert_eq!(check("a", &format!("ok\nhttps://files.{host}/x")).len(), 1);
        assert_eq!(check("a", &format!("my-{host}, {host}x, pypi.example")), Vec::<String>::new());
    }

    #[test]
    fn paths_are_found_and_their_likes_are_not() {
        assert_eq!(
            check("a", &format!("cd {}me/x", MACHINE_PATHS[0]))[0],
            "a:1: names a path of one machine, below /home/"
        );
        assert_eq!(check("a", &format!("src={}x \"{}.cargo\"", MACHINE_PATHS[1], MACHINE_PATHS[1])).len(), 1);
        assert!(check("a", &format!("$m{}x ..{}x target{0}", MACHINE_PATHS[1], MACHINE_PATHS[3])).is_empty());
    }
}
