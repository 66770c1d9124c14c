//! Debian's packages.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::Mode;
use crate::run::{has_program, is_root, run, typed};

/// Older lists name packages that the mirrors may no longer have.
const LISTS_ARE_OLD: Duration = Duration::from_secs(24 * 60 * 60);
/// What apt asks before it starts a service of a package that it installed.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// The answer while setup installs: the demo wants nginx's program, not a web server on this machine. 101 forbids.
const OUR_POLICY: &str = "#!/bin/sh\n# Set by `cargo xtask setup` while it installs packages.\nexit 101";
/// Puts the policy in place for one command. A policy that the machine has already stays as it is; ours goes
/// afterwards, also when somebody presses Ctrl-C, which is why a shell does it, and one that a killed setup left behind
/// goes as well.
const GUARD: &str = r#"
policy=$1 ours=$2
shift 2
if [ ! -e "$policy" ] || [ "$(cat "$policy")" = "$ours" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    { printf '%s\n' "$ours" > "$policy" && chmod 755 "$policy"; } || exit 1
fi
"$@"
"#;

/// apt, as far as this machine and this user have it.
pub(crate) struct Apt {
    present: bool,
    root: bool,
    lists_are_fresh: bool,
}

impl Apt {
    /// Looks at this machine.
    pub(crate) fn probe() -> Apt {
        Apt { present: has_program("apt-get"), root: is_root(), lists_are_fresh: lists_are_fresh() }
    }

    /// Whether packages can be installed from here.
    pub(crate) fn usable(&self) -> bool {
        self.present && self.root
    }

    /// Whether this is a machine with apt at all, whoever may use it.
    pub(crate) fn present(&self) -> bool {
        self.present
    }

    /// Whether a package can be had.
    pub(crate) fn offers(&mut self, package: &str) -> bool {
        if self.usable() {
            // Without lists nothing is offered, and the answer of the installation is the clearer one.
            self.update().ok();
        }
        let known = Command::new("apt-cache").args(["policy", package]).stderr(Stdio::null()).output();
        known.is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().any(|line| line.trim_start().starts_with("Candidate:") && !line.contains("(none)"))
        })
    }

    /// Installs packages. Returns the commands for somebody else where that cannot be done from here.
    pub(crate) fn install(&mut self, packages: &[&str], why: &str, mode: Mode) -> Result<Vec<String>> {
        let mut install = Command::new("apt-get");
        install.args(["install", "--yes", "--no-install-recommends"]).args(packages);
        if !self.present {
            return Ok(vec![format!("install what these Debian packages hold: {}", packages.join(" "))]);
        }
        if mode == Mode::Check || !self.root {
            return Ok(vec![format!("as root: apt-get update && {}", typed(&install))]);
        }
        self.update()?;
        println!("install  {}: {why}", packages.join(" "));
        let mut guarded = without_services(Path::new(POLICY), &install);
        run(guarded.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null()))
            .context("is the package mirror reachable?")?;
        Ok(Vec::new())
    }

    fn update(&mut self) -> Result<()> {
        if !self.lists_are_fresh {
            println!("update   the package lists are missing or older than a day");
            run(Command::new("apt-get").args(["update", "--quiet"]).stdout(Stdio::null()))
                .context("is the package mirror reachable?")?;
            self.lists_are_fresh = true;
        }
        Ok(())
    }
}

fn lists_are_fresh() -> bool {
    // apt leaves the mirror's own times on the lists; the directory carries the time of the last update here.
    let lists = fs::read_dir("/var/lib/apt/lists").into_iter().flatten().flatten();
    let holds_lists =
        lists.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().contains("Packages"));
    let updated = fs::metadata("/var/lib/apt/lists/partial").and_then(|partial| partial.modified());
    holds_lists
        && updated
            .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age < LISTS_ARE_OLD))
}

/// A command that runs while packages install without starting their services.
fn without_services(policy: &Path, command: &Command) -> Command {
    let mut guarded = Command::new("sh");
    guarded.args(["-c", GUARD, "sh"]).arg(policy).arg(OUR_POLICY);
    guarded.arg(command.get_program()).args(command.get_args());
    guarded
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Runs a shell line under the guard; what it printed, its exit code, and what is left of the policy.
    fn guarded(policy: &Path, line: &str) -> (String, Option<i32>, Option<String>) {
        let mut command = Command::new("sh");
        command.args(["-c", line, "sh"]).arg(policy);
        let output = without_services(policy, &command).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code(), fs::read_to_string(policy).ok())
    }

    fn policy(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("egress-warden-policy-{}-{name}", std::process::id()))
    }

    #[test]
    fn services_stay_off_during_the_command_and_the_policy_goes() {
        let path = policy("goes");
        assert_eq!(guarded(&path, "$1; echo $?"), ("101\n".to_owned(), Some(0), None));
        assert_eq!(guarded(&path, "exit 7"), (String::new(), Some(7), None));
    }

    #[test]
    fn an_interrupt_removes_the_policy_and_so_does_the_next_run_after_a_kill() {
        let path = policy("interrupted");
        assert_eq!(guarded(&path, "kill -TERM $PPID"), (String::new(), Some(130), None));
        let (_, code, left) = guarded(&path, "kill -KILL $PPID");
        assert_eq!((code, left.as_deref().map(str::trim_end)), (None, Some(OUR_POLICY)));
        assert_eq!(guarded(&path, "true"), (String::new(), Some(0), None));
    }

    #[test]
    fn a_policy_of_the_machine_stays() {
        let path = policy("stays");
        fs::write(&path, "theirs\n").unwrap();
        assert_eq!(guarded(&path, "true"), (String::new(), Some(0), Some("theirs\n".to_owned())));
        fs::remove_file(&path).unwrap();
    }
}
