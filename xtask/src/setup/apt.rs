//! Debian's packages.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::Mode;
use crate::run::{has_program, is_root, run, typed};

/// Older lists name packages that the mirrors may no longer have.
const LISTS_ARE_OLD: Duration = Duration::from_secs(24 * 60 * 60);
/// What apt asks before it starts a service of a package that it installed.
const POLICY: &str = "/usr/sbin/policy-rc.d";

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
    pub(crate) fn install(&mut self, packages: &[&str], mode: Mode) -> Result<Vec<String>> {
        let mut install = Command::new("apt-get");
        install.args(["install", "--yes", "--no-install-recommends"]).args(packages);
        if !self.present {
            return Ok(vec![format!("install what these Debian packages hold: {}", packages.join(" "))]);
        }
        if mode == Mode::Check || !self.root {
            return Ok(vec![format!("as root: apt-get update && {}", typed(&install))]);
        }
        self.update()?;
        println!("install  {}", packages.join(" "));
        let _guard = ServiceGuard::set()?;
        run(install.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null()))
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

/// While it lives, packages install without starting their services: the demo wants nginx's program, not a web server
/// on this machine. A policy that the machine has already stays as it is.
struct ServiceGuard {
    made: Option<PathBuf>,
}

impl ServiceGuard {
    fn set() -> Result<ServiceGuard> {
        Self::set_at(Path::new(POLICY))
    }

    fn set_at(path: &Path) -> Result<ServiceGuard> {
        match fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(path) {
            Ok(mut file) => {
                let guard = ServiceGuard { made: Some(path.to_owned()) };
                // 101: the action is forbidden.
                std::io::Write::write_all(&mut file, b"#!/bin/sh\nexit 101\n")?;
                Ok(guard)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(ServiceGuard { made: None }),
            Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
        }
    }
}

impl Drop for ServiceGuard {
    fn drop(&mut self) {
        if let Some(path) = &self.made
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!(
                "warning: cannot remove {}: {error}; remove it, or services will not start",
                path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_goes_and_a_policy_that_was_there_stays() {
        let path = std::env::temp_dir().join(format!("egress-warden-policy-{}", std::process::id()));
        let guard = ServiceGuard::set_at(&path).unwrap();
        let second = ServiceGuard::set_at(&path).unwrap();
        drop(second);
        assert!(path.exists(), "the second guard removed what it had not made");
        drop(guard);
        assert!(!path.exists());
    }
}
